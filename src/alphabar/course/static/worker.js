import { Engine, SAMPLERS } from "./engine.js";

// The engine in a Web Worker, so that a page stays awake while a network thinks.
//
//   const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
//   worker.postMessage({ id: 1, type: "load", url });  // absolute, with its slash; or description, weights
//   worker.postMessage({ id: 2, type: "sample", seed: 3, steps: 20, sampler: "ddim" });
//   worker.postMessage({ id: 3, type: "cancel", job: 2 });
//
// Every answer bears the id of its request:
//   load    -> loaded {name, shape, prediction, clip, alphasBar, steps, samplers}: the last two are what `sample` takes
//   predict -> predicted {x0, eps, milliseconds}, for {x, t}
//   sample  -> step {index, count, t, s, before, x0, eps, x, milliseconds} for each step, then done or cancelled
//   cancel  -> nothing; its job answers
//   any     -> error {message}

let engine = null; // a promise of it, so that what is asked while it loads waits
const cancelled = new Set();
const running = new Set();

const nextTask = () => new Promise((resolve) => setTimeout(resolve)); // lets a cancel in

const HANDLERS = {
  async load({ url, description, weights }, answer) {
    engine = url ? Engine.fetch(url) : Promise.resolve().then(() => new Engine(description, weights));
    const { name, shape, prediction, clip, alphasBar, grids } = await engine;
    const choices = { steps: Object.keys(grids).map(Number), samplers: Object.keys(SAMPLERS) };
    answer("loaded", { name, shape, prediction, clip, alphasBar, ...choices });
  },

  async predict({ x, t }, answer) {
    const ready = await loaded(), start = performance.now(), { x0, eps } = ready.predict(x, t);
    answer("predicted", { x0, eps, milliseconds: performance.now() - start });
  },

  async sample({ id, type, ...options }, answer) {
    running.add(id);
    try {
      const steps = (await loaded()).sample(options);
      for (;;) {
        await nextTask();
        if (cancelled.has(id)) return answer("cancelled");
        const start = performance.now(), { value, done } = steps.next();
        if (done) return answer("done");
        answer("step", { ...value, milliseconds: performance.now() - start });
      }
    } finally {
      running.delete(id);
      cancelled.delete(id);
    }
  },

  cancel({ job }) {
    if (running.has(job)) cancelled.add(job);
  },
};

function loaded() {
  if (!engine) throw new Error("no network is loaded: send a load first");
  return engine;
}

self.onmessage = async ({ data }) => {
  const answer = (type, content = {}) => self.postMessage({ ...content, id: data.id, type });
  try {
    if (!Object.hasOwn(HANDLERS, data.type)) {
      throw new Error(`unknown message ${data.type}; known: ${Object.keys(HANDLERS).join(", ")}`);
    }
    await HANDLERS[data.type](data, answer);
  } catch (error) {
    answer("error", { message: error.message });
  }
};
