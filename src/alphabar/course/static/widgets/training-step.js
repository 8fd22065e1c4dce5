import {
  chosenImage, coefficients, h, imageChoice, noiseButton, picture, put, share, spokenLine, svg, timeSlider, watch,
} from "./common.js";
import { openPredictor } from "./predictor.js";

// One step of training, with a real network in it: an image is noised to t, the network is asked, its error is taken.

const PRESETS = [0.05, 0.2, 0.5, 0.8, 0.95]; // of T

const decimal = (power) => `${Number(power.toPrecision(1))}`; // 10 ** -3 is a little more than 0.001

/** An error, which may be of any size, in three digits. */
const inDigits = (error) =>
  (error >= 0.001 && error < 1e5 ? `${Number(error.toPrecision(3))}` : error.toExponential(1));

/** A text whose x_t, x0 and x̂0 are set as letters with an index. */
const typeset = (text) => text.split(/(x̂?(?:0|_t)\b)/).map((part, i) =>
  (i % 2 ? [h("i", {}, part.replace(/_?[0t]$/, "")), h("sub", {}, part.at(-1))] : part)).flat();

const meanSquare = (a, b) => a.reduce((sum, value, i) => sum + (value - b[i]) ** 2, 0) / a.length;

/** What the noise level does to the two questions, which have one answer. */
function advice(alphaBar) {
  if (alphaBar > 0.9) return "Nearly clean: the image is easy to name, and the little noise in it hard to tell from " +
    "texture. The error in ε is large, the error in x0 small.";
  if (alphaBar > 0.5) return "Signal outweighs noise: x0 is the easier of the two to name, and the errors draw closer.";
  if (alphaBar > 0.1) return "Noise outweighs signal: ε is now the easier to name, and x0 has to be filled in.";
  return "Nearly static: what is seen is almost ε itself, so the error in ε is small. x0 is hardly more than the " +
    "average image.";
}

/** How the ε shown follows where the network answers with something else. */
function derived({ prediction, clip }) {
  const held = clip === null ? "" : `, with x0 held to −${clip}..${clip}`;
  if (prediction === "eps") return `This network answers with the noise itself${held}.`;
  const what = prediction === "v" ? "v = √ᾱ ε − √(1 − ᾱ) x0" : "x0";
  return `This network answers with ${what}. The ε̂ shown follows from it, as one fixes the other at a given t${held}.`;
}

/** A picture with its name under it. */
function framed(shape, range, name, note) {
  const { node, draw } = picture(shape, ...range), number = h("span", { class: "number" });
  const frame = h("figure", {}, node, h("figcaption", {}, h("b", {}, ...name), h("span", {}, note), number));
  return { node: frame, draw: (x, label, text = "") => { draw(x, label); number.replaceChildren(text); } };
}

/** The mean errors over t, on a logarithmic scale of four decades, and where t stands. */
function errorCurve({ timesteps, eps, x0 }, last) {
  const [left, right, top, bottom] = [50, 312, 12, 132], highest = Math.ceil(Math.log10(Math.max(...eps, ...x0)));
  const decades = Array.from({ length: 5 }, (_, i) => highest - i), lowest = highest - 4;
  const toX = (t) => left + ((right - left) * t) / last;
  const toY = (error) => { // what is off the scale lies on its edge
    const power = Math.min(highest, Math.max(lowest, Math.log10(error)));
    return top + ((bottom - top) * (highest - power)) / (highest - lowest);
  };
  const path = (errors) => errors.map((error, i) => `${i ? "L" : "M"}${toX(timesteps[i])},${toY(error)}`).join("");
  const rule = svg("line", { class: "rule", y1: top, y2: bottom }), dot = svg("circle", { class: "of-eps", r: 4 });
  const ring = svg("circle", { class: "here", r: 5 });
  const node = svg("svg", { viewBox: "0 0 320 168", role: "img", class: "errors" },
    decades.map((power) => [
      svg("line", { class: "grid", x1: left, x2: right, y1: toY(10 ** power), y2: toY(10 ** power) }),
      svg("text", { x: left - 6, y: toY(10 ** power) + 4, "text-anchor": "end" }, decimal(10 ** power)),
    ]).flat(),
    [0, last].map((t) => svg("text", { x: toX(t), y: bottom + 16, "text-anchor": t ? "end" : "start" }, `t = ${t}`)),
    svg("path", { class: "of-x0", d: path(x0) }), svg("path", { class: "of-eps", d: path(eps) }),
    svg("text", { class: "of-eps", x: left + 4, y: bottom + 33 }, "— error in ε"),
    svg("text", { class: "of-x0", x: left + 92, y: bottom + 33 }, "- - error in x0"),
    svg("text", { class: "here", x: left + 192, y: bottom + 33 }, "○ this image"),
    rule, dot, ring);
  const draw = (i, t, error) => {
    rule.setAttribute("x1", toX(t));
    rule.setAttribute("x2", toX(t));
    dot.setAttribute("cx", toX(timesteps[i]));
    dot.setAttribute("cy", toY(eps[i]));
    ring.setAttribute("cx", toX(t));
    ring.setAttribute("cy", toY(error));
    node.setAttribute("aria-label", `Mean squared error over t on a logarithmic scale. At t ${timesteps[i]} it is ` +
      `${inDigits(eps[i])} in epsilon and ${inDigits(x0[i])} in x zero.`);
  };
  return { node, draw };
}

/** The seven lines of the training algorithm; each is drawn with what it came to. */
function sevenSteps() {
  const came = Array.from({ length: 7 }, () => h("span", { class: "came" }));
  const lines = [
    "Take an image x0 of the data.",
    "Draw a timestep t, any as likely as another.",
    "Draw noise ε, normal, one number for each pixel.",
    "Mix them: x_t, by the closed form.",
    "Show the network x_t and t; it answers ε̂.",
    "Take the mean of (ε̂ − ε)².",
    "Turn every weight a little so that it falls.",
  ];
  const node = h("ol", { class: "seven" }, lines.map((line, i) => h("li", {}, typeset(line), " ", came[i])));
  return { node, draw: (texts) => texts.forEach((text, i) => came[i].replaceChildren(...typeset(text))) };
}

// State: images, image, t, seed, errors, and how to reach the network: see predictor.js.

async function render({ model, el }) {
  el.classList.add("alphabar-widget", "training-step");
  const predictor = await openPredictor(model, el), { about } = predictor;
  const { alphasBar } = about, last = alphasBar.length - 1, errors = model.get("errors"), shape = about.shape;
  const slider = timeSlider(model, "t", { label: "Timestep", least: 0, greatest: last });
  const presets = h("div", { class: "presets", role: "group", "aria-label": "Timesteps to try" },
    PRESETS.map((part) => Math.round(part * (last + 1))).map((t) =>
      h("button", { type: "button", onclick: () => put(model, { t }) }, `t = ${t}`)));
  const images = imageChoice(model), another = noiseButton(model), at = h("output", { class: "at" });
  const noiseRange = [-3, 3];
  const pictures = {
    clean: framed(shape, [-1, 1], typeset("x0"), "the image"),
    x: framed(shape, [-1, 1], typeset("x_t"), "what the network is shown"),
    eps: framed(shape, noiseRange, [h("i", {}, "ε̂")], "its prediction of the noise"),
    noise: framed(shape, noiseRange, [h("i", {}, "ε")], "the noise that was added"),
    error: framed(shape, [0, 1], ["(", h("i", {}, "ε̂ − ε"), ")²"], "squared error; white is 1 or more"),
    x0: framed(shape, [-1, 1], typeset("x̂0"), "the image as predicted"),
  };
  const source = errors.source ? ` of ${errors.source}` : "", steps = sevenSteps(), curve = errorCurve(errors, last);
  const said = spokenLine({ class: "says" }), result = spokenLine({ class: "result" });
  el.append(
    h("div", { class: "controls" },
      images.node, h("div", { class: "time-row" }, slider.node, at), presets, another.node),
    h("div", { class: "pictures" }, Object.values(pictures).map(({ node }) => node)),
    result.node,
    h("div", { class: "columns" },
      h("section", { "aria-label": "The training objective in seven steps" }, steps.node),
      h("section", { "aria-label": "Mean error over t" }, curve.node,
        said.node,
        h("p", { class: "note" }, typeset(`Means over ${errors.images} images${source}. ` +
          "The curves cross where ᾱ is a half: the error in ε is ᾱ / (1 − ᾱ) times the error in x0.")))),
    h("p", { class: "note" }, typeset(derived(about))));

  const show = ({ clean, x, noise, x0, eps, milliseconds }, t, seed, label) => {
    const error = eps.map((value, i) => (value - noise[i]) ** 2), [a, b] = coefficients(alphasBar[t]).map(share);
    const ofEps = meanSquare(eps, noise), ofX0 = meanSquare(x0, clean);
    const near = errors.timesteps.reduce((best, other, i) =>
      (Math.abs(other - t) < Math.abs(errors.timesteps[best] - t) ? i : best), 0);
    pictures.clean.draw(clean, `x zero: ${label}`);
    pictures.x.draw(x, `x t: ${label} noised to t ${t}`, `t = ${t}`);
    pictures.eps.draw(eps, `the noise as the network predicts it at t ${t}`);
    pictures.noise.draw(noise, `the true noise, of seed ${seed}`, `seed ${seed}`);
    pictures.error.draw(error, `squared error of the prediction, mean ${inDigits(ofEps)}`, `mean ${inDigits(ofEps)}`);
    pictures.x0.draw(x0, `x zero as predicted, mean squared error ${inDigits(ofX0)}`, `error ${inDigits(ofX0)}`);
    steps.draw([
      label, `t\u00a0=\u00a0${t}`, `seed\u00a0${seed}`, `x_t = ${a} x0 + ${b}\u00a0ε`,
      `${Math.round(milliseconds)}\u00a0ms`, inDigits(ofEps),
      "not here: these weights stay",
    ]);
    curve.draw(near, t, ofEps);
    said.draw(advice(alphasBar[t]));
    result.draw(`Squared error here: ${inDigits(ofEps)}. Mean over ${source ? "a test batch" : "your images"} at ` +
      `t = ${errors.timesteps[near]}: ${inDigits(errors.eps[near])}.`);
    el.dataset.shown = `${label}/${t}/${seed}`;
  };

  let asking = false, stale = false, closed = false;
  const ask = async () => { // one question at a time; what changes meanwhile is asked once, as it then stands
    stale = true;
    if (asking) return;
    asking = true;
    try {
      while (stale && !closed) {
        stale = false;
        const { x0: clean, label } = chosenImage(model), seed = model.get("seed"), t = Math.min(last, model.get("t"));
        const answer = await predictor.predict({ image: label, clean, t, seed });
        if (!closed) show(answer, t, seed, label);
      }
    } catch (error) {
      result.draw(`The network could not answer: ${error.message}`);
    }
    asking = false;
  };
  const stand = () => {
    for (const control of [slider, images, another]) control.draw();
    at.replaceChildren(`t = ${model.get("t")}`);
  };
  const ends = [watch(model, ["t", "image", "seed"], stand), watch(model, ["t", "image", "seed"], ask)];
  return () => {
    closed = true;
    ends.forEach((end) => end());
    predictor.close();
  };
}

export default { render };
