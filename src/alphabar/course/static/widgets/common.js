import { CLEAN, gaussian, widen } from "../engine.js";

// What the widgets share: images and noise as arrays, the closed form, and small pieces of page.
//
// A widget's state is in its model; controls write it there, and `watch` draws anew whatever depends on it. So Python
// can turn every knob too. Images are Float32Arrays [C, H, W] in [-1, 1]; schedules are arrays of alpha-bar, as the
// library has them.

// ---------------------------------------------------------------------------------------------------------------------
// Arrays

/** The bytes that a base64 text stands for. */
export const bytesOf = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

/** Pixels 0..255 as numbers in [-1, 1]. */
export const fromPixels = (bytes) => Float32Array.from(bytes, (byte) => byte / 127.5 - 1);

/**
 * The numbers of an array as Python sends it.
 * @param {number[] | {dtype: string, data: string}} array plain numbers, or base64 of little-endian uint8 (a pixel:
 *   0..255 stands for -1..1), float16 or float32
 * @returns {Float32Array}
 */
export function decodeArray(array) {
  if (Array.isArray(array)) return Float32Array.from(array);
  const bytes = bytesOf(array.data);
  if (array.dtype === "uint8") return fromPixels(bytes);
  if (array.dtype === "float16") return widen(new Uint16Array(bytes.buffer));
  if (array.dtype === "float32") return new Float32Array(bytes.buffer);
  throw new Error(`arrays of type ${array.dtype} are unknown to this widget`);
}

/** Standard normal noise of a seed, the same for every widget; it is the engine's of this seed and index. */
export function noise(seed, size, index = 0) {
  const next = gaussian(seed, index);
  return Float32Array.from({ length: size }, next);
}

/** alpha-bar at a timestep from CLEAN on. */
export const alphaBarAt = (schedule, t) => (t === CLEAN ? 1 : schedule[t]);

/** What x0 and eps are multiplied by at this alpha-bar: [sqrt(alpha-bar), sqrt(1 - alpha-bar)]. */
export const coefficients = (alphaBar) => [Math.sqrt(alphaBar), Math.sqrt(1 - alphaBar)];

/** x_t = sqrt(alpha-bar) x0 + sqrt(1 - alpha-bar) eps  (DDPM, arXiv:2006.11239, equation 4). */
export function closedForm(x0, eps, alphaBar) {
  const [a, b] = coefficients(alphaBar);
  return x0.map((value, i) => a * value + b * eps[i]);
}

/** The image of the state that is chosen, as {label, source, shape, x0}. */
export function chosenImage(model) {
  const images = model.get("images"), label = model.get("image");
  const found = images.find((image) => image.label === label);
  if (!found) throw new Error(`no image ${label}; known: ${images.map((image) => image.label).join(", ")}`);
  return { ...found, x0: decodeArray(found.pixels) };
}

/** The schedule of a name. */
export function scheduleOf(model, name) {
  const schedules = model.get("schedules");
  if (!Object.hasOwn(schedules, name)) {
    throw new Error(`no schedule ${name}; known: ${Object.keys(schedules).join(", ")}`);
  }
  return schedules[name];
}

/** A timestep brought into least..greatest, whole. */
export const within = (t, least, greatest) => Math.min(greatest, Math.max(least, Math.round(t)));

// ---------------------------------------------------------------------------------------------------------------------
// Words

const REGIONS = [ // by eye, on the images of the course
  [0.97, "nearly clean", "Nearly clean. Noise is there, and the eye hardly sees it."],
  [0.7, "details go", "Details go. Texture drowns first; every large shape stands."],
  [0.4, "shapes only", "Shapes only. What it is can be told; what it is made of cannot."],
  [0.1, "outline", "An outline. There is a shadow of the shape, if one knows where to look."],
  [0, "static", "Static. Less than a tenth of the variance is image, and the eye finds none of it."],
];

/** What an alpha-bar leaves of an image, as {name, says, from}: it reaches down to `from`. */
export function region(alphaBar) {
  const [from, name, says] = REGIONS.find(([least]) => alphaBar >= least);
  return { name, says, from };
}

/** The bounds between the regions, and each region's name: [[from, name], ...], the cleanest first. */
export const regions = () => REGIONS.map(([from, name]) => [from, name]);

const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/** A share of 0..1 in three digits, or as many as tell it from 0 and from 1: 0.886, 0.0026, 4.0·10⁻⁵, 0.99996, ≈ 1. */
export function share(value) {
  if (value === 0 || value === 1) return String(value);
  if (value > 0.999995) return "≈ 1";
  if (value > 0.999) return value.toFixed(Math.ceil(-Math.log10(1 - value) - 1e-6)); // 0.9999 needs 4
  if (value >= 0.001) return value.toFixed(value < 0.1 ? 4 : 3);
  const [digits, exponent] = value.toExponential(1).split("e-");
  return `${digits}·10⁻${[...exponent].map((digit) => SUPERSCRIPTS[digit]).join("")}`;
}

/** How a timestep is called: the clean image has none. */
export const timeName = (t) => (t === CLEAN ? "clean" : `t = ${t}`);

/** The same where "=" would be read out. */
export const timeSpoken = (t) => (t === CLEAN ? "the clean image" : `t ${t}`);

// ---------------------------------------------------------------------------------------------------------------------
// Pieces of page

function build(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** An element: `h("p", { class: "note" }, "text", otherElement)`; `onclick` and its like are listeners. */
export const h = (tag, properties = {}, ...children) => build(document.createElement(tag), properties, children);

/** The same in SVG. */
export const svg = (tag, properties = {}, ...children) =>
  build(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);

/** A number for every use, for ids and for names of radio groups. */
export const unique = (() => {
  let count = 0;
  const page = Math.random().toString(36).slice(2, 7); // two modules on one page count each for itself
  return (prefix) => `alphabar-${prefix}-${page}-${(count += 1)}`;
})();

/**
 * An image that can be drawn anew, sharp at any size: `picture.draw(x, "what it shows")`.
 * Values beyond [low, high] are black or white (or, in colour, at the end of their channel).
 * @param {number[]} shape [C, H, W] with C 1 or 3
 */
export function picture([channels, height, width], low = -1, high = 1) {
  const node = h("canvas", { role: "img", width, height, class: "pixels" });
  const context = node.getContext("2d"), data = context.createImageData(width, height), plane = height * width;
  const second = channels === 3 ? plane : 0;
  const bytes = data.data, gain = 255 / (high - low); // a clamped array: it rounds and holds to 0..255
  const draw = (x, label) => {
    for (let i = 0; i < plane; i++) {
      bytes[4 * i] = (x[i] - low) * gain;
      bytes[4 * i + 1] = (x[i + second] - low) * gain;
      bytes[4 * i + 2] = (x[i + 2 * second] - low) * gain;
      bytes[4 * i + 3] = 255;
    }
    context.putImageData(data, 0, 0);
    if (label !== undefined) node.setAttribute("aria-label", label);
  };
  return { node, draw };
}

/** Write to the state: `put(model, { t: 500 })`. */
export function put(model, values) {
  for (const [key, value] of Object.entries(values)) model.set(key, value);
  model.save_changes();
}

/**
 * Call `draw` now and, once a frame at most, after any of these keys changes.
 * @returns {() => void} ends it
 */
export function watch(model, keys, draw) {
  let frame = 0;
  const later = () => {
    if (!frame) frame = requestAnimationFrame(() => {
      frame = 0;
      draw();
    });
  };
  for (const key of keys) model.on(`change:${key}`, later);
  draw();
  return () => {
    cancelAnimationFrame(frame);
    for (const key of keys) model.off(`change:${key}`, later);
  };
}

/** Where a key takes a slider over least..greatest: arrows 1, with Shift 10, Page 100, Home and End; else null. */
export function keyed(event, t, least, greatest) {
  const by = event.shiftKey ? 10 : 1;
  const moves = {
    ArrowRight: by, ArrowUp: by, ArrowLeft: -by, ArrowDown: -by, PageUp: 100, PageDown: -100,
    Home: -Infinity, End: Infinity,
  };
  if (!(event.key in moves) || event.ctrlKey || event.altKey || event.metaKey) return null;
  event.preventDefault();
  return Math.min(greatest, Math.max(least, t + moves[event.key]));
}

/** A slider over timesteps, bound to a key of the state. `spoken(t)` says where it stands. */
export function timeSlider(model, key, { label, least, greatest, spoken = timeSpoken }) {
  const node = h("input", {
    type: "range", class: "time", min: least, max: greatest, step: 1, "aria-label": label,
    oninput: () => put(model, { [key]: Number(node.value) }),
    onkeydown: (event) => {
      const t = keyed(event, model.get(key), least, greatest);
      if (t !== null) put(model, { [key]: t });
    },
  });
  const draw = () => {
    const t = within(model.get(key), least, greatest);
    node.value = t;
    node.setAttribute("aria-valuetext", spoken(t));
    node.style.setProperty("--share", `${(100 * (t - least)) / (greatest - least)}%`);
  };
  return { node, draw };
}

/**
 * One of a few, as radio buttons: arrows move between them.
 * @param {Array<{value: *, label: string, face: Node}>} options what each sets, its name, how it looks
 */
export function choice(model, key, { label, options }) {
  const group = unique(key);
  const inputs = options.map(({ value, label: name }) => h("input", {
    type: "radio", name: group, "aria-label": name, onchange: () => put(model, { [key]: value }),
  }));
  const faces = options.map(({ label: name, face }, i) => h("label", { title: name }, inputs[i], face));
  const node = h("div", { class: "choice", role: "radiogroup", "aria-label": label }, ...faces);
  const draw = () => options.forEach(({ value }, i) => {
    inputs[i].checked = value === model.get(key);
  });
  return { node, draw };
}

/** The image to take, by thumbnails; nothing where there is only one. */
export function imageChoice(model) {
  const options = model.get("images").map(({ label, shape, pixels }) => {
    const { node, draw } = picture(shape);
    draw(decodeArray(pixels));
    node.removeAttribute("role"); // its radio button bears the name
    node.setAttribute("aria-hidden", "true");
    return { value: label, label, face: node };
  });
  const made = choice(model, "image", { label: "Image", options });
  made.node.hidden = options.length < 2;
  return made;
}

/** "Another noise", which raises the seed, and the seed it stands at. */
export function noiseButton(model) {
  const seed = h("span", { class: "seed", "aria-live": "polite" });
  const button = h("button", { type: "button", onclick: () => put(model, { seed: model.get("seed") + 1 }) },
    "Another noise");
  const draw = () => seed.replaceChildren(`seed ${model.get("seed")}`);
  return { node: h("div", { class: "again" }, button, seed), draw };
}

/** How x_t is made of x0 and eps at this alpha-bar, in numbers. */
export function equation(alphaBar) {
  const [a, b] = coefficients(alphaBar).map(share);
  return h("span", { class: "equation", role: "img", "aria-label": `x t is ${a} times x zero plus ${b} times epsilon` },
    h("i", {}, "x"), h("sub", {}, "t"), " = ", h("b", { class: "signal" }, a), " ", h("i", {}, "x"), h("sub", {}, "0"),
    " + ", h("b", { class: "noise" }, b), " ", h("i", {}, "ε"));
}

/** Signal's and noise's share of the variance, alpha-bar and 1 - alpha-bar, which fill the bar at any t. */
export function shareBar() {
  const signal = h("span", { class: "signal" }), rest = h("span", { class: "noise" });
  const left = h("span", { class: "signal" }), right = h("span", { class: "noise" });
  const bar = h("div", { class: "bar", role: "img" }, signal, rest);
  const node = h("div", { class: "share" }, bar, h("div", { class: "share-names" }, left, right));
  const draw = (alphaBar) => {
    signal.style.width = `${100 * alphaBar}%`;
    left.replaceChildren(`signal ᾱ = ${share(alphaBar)}`);
    right.replaceChildren(`noise 1 − ᾱ = ${share(1 - alphaBar)}`);
    bar.setAttribute("aria-label", `of the variance, signal ${share(alphaBar)} and noise ${share(1 - alphaBar)}`);
  };
  return { node, draw };
}

/** A line that a screen reader hears when it changes, and only then. */
export function spokenLine(properties = {}) {
  const node = h("p", { ...properties, "aria-live": "polite" });
  return { node, draw: (text) => node.textContent !== text && node.replaceChildren(text) };
}
