import { bytesOf, closedForm, fromPixels, h, noise } from "./common.js";
import { WORKER_SOURCE } from "./worker-source.js";

// Who answers for the network: the engine in a Worker where the page holds the weights, Python where the learner's own
// model lives. Widgets ask both alike, and get flat Float32Arrays.

/** Questions and answers over any line: each answer bears the id of its question. */
class Line {
  constructor(send) {
    this.send = send;
    this.name = Math.random().toString(36).slice(2); // two views of one widget hear each other's answers
    this.count = 0;
    this.open = new Map();
  }

  /** Resolves with the last answer; those of type "step", which come before, go to onStep. */
  ask(message, onStep = () => {}) {
    const id = `${this.name}-${(this.count += 1)}`;
    const answer = new Promise((resolve, reject) => this.open.set(id, { resolve, reject, onStep }));
    this.send({ ...message, id });
    return { id, answer };
  }

  take(answer) {
    const asked = this.open.get(answer.id);
    if (!asked) return;
    if (answer.type === "step") return asked.onStep(answer);
    this.open.delete(answer.id);
    if (answer.type === "error") asked.reject(new Error(answer.message));
    else asked.resolve(answer);
  }

  fail(error) {
    for (const { reject } of this.open.values()) reject(error);
    this.open.clear();
  }
}

/** The engine, in a Worker of its own; `network` is a folder beside the widgets' or, in a lone file, what it holds. */
function openWorker(model) {
  const address = URL.createObjectURL(new Blob([WORKER_SOURCE], { type: "text/javascript" }));
  const worker = new Worker(address);
  const line = new Line((message) => worker.postMessage(message));
  worker.onmessage = ({ data }) => line.take(data);
  worker.onerror = (event) => line.fail(new Error(event.message || "the engine's worker could not start"));
  const network = model.get("network");
  const held = typeof network === "string"
    ? { url: new URL(`../data/${network}/`, import.meta.url).href }
    : { description: network.description, weights: bytesOf(network.weights).buffer };
  const about = line.ask({ type: "load", ...held }).answer;
  const predict = async ({ clean, t, seed }) => {
    const eps = noise(seed, clean.length), x = closedForm(clean, eps, (await about).alphasBar[t]);
    return { clean, noise: eps, x, ...(await line.ask({ type: "predict", x, t }).answer) };
  };
  const close = () => {
    worker.terminate();
    URL.revokeObjectURL(address);
  };
  return { line, about, predict, close };
}

/** Python, which sends its arrays as one buffer an answer: float32 for a prediction, pixels as uint8 for a step. */
function openKernel(model) {
  const line = new Line((message) => model.send(message));
  const listen = (message, buffers = []) => {
    if (!line.open.has(message.id)) return;
    line.take({ ...message, ...(buffers.length ? unpack(message, buffers[0]) : {}) });
    if (message.type === "step") model.send({ id: message.id, type: "next" }); // asked for, so that a cancel gets in
  };
  model.on("msg:custom", listen);
  const predict = ({ image, t, seed }) => line.ask({ type: "predict", image, t, seed }).answer;
  return { line, about: Promise.resolve(model.get("about")), predict, close: () => model.off("msg:custom", listen) };
}

/** The arrays of an answer by their names: all of one length, one after the other. */
function unpack({ arrays, type }, view) {
  const bytes = view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength); // floats must lie at fours
  const numbers = type === "step" ? fromPixels(new Uint8Array(bytes)) : new Float32Array(bytes);
  const size = numbers.length / arrays.length;
  return Object.fromEntries(arrays.map((name, i) => [name, numbers.subarray(i * size, (i + 1) * size)]));
}

/**
 * A way to the network of a widget, once it is loaded, which is said in `el` till then. The state says `kernel` where
 * Python answers.
 *
 *   about: {name, shape, prediction, clip, alphasBar, steps, samplers}
 *   predict({image, clean, t, seed}): a promise of {clean, noise, x, x0, eps, milliseconds}: an image, the noise, the
 *     two mixed at t, and what the network believes; `image` is its label, which Python knows it by
 *   sample({seed, steps, sampler}, onStep): {done, cancel()}; each step is {index, count, t, s, before, x0, x,
 *     milliseconds}: x at t, the x0 that the network sees in it, and x at s; `done` is a promise, of false if cancelled
 *   close()
 */
export async function openPredictor(model, el) {
  const { line, close, predict, about: coming } = model.get("kernel") ? openKernel(model) : openWorker(model);
  const wait = h("p", { class: "wait", role: "status" }, "Loading the network…");
  el.append(wait);
  const about = await coming.catch((error) => {
    close();
    throw error;
  });
  wait.remove();
  const sample = (request, onStep) => {
    const { id, answer } = line.ask({ ...request, type: "sample" }, onStep);
    const cancel = () => line.send({ id, type: "cancel", job: id });
    return { done: answer.then(({ type }) => type === "done"), cancel };
  };
  return { about, predict, sample, close };
}
