import {
  chosenImage, closedForm, coefficients, equation, h, imageChoice, keyed, noise, noiseButton, picture, put, region,
  regions, scheduleOf, share, shareBar, spokenLine, svg, unique, watch, within,
} from "./common.js";

// alpha-bar over t for one schedule or several, a marker to drag, and the image at its t for each.
// State: images, image, schedules, shown (names of schedules), t, seed.

const MARGIN = { left: 40, top: 12, bottom: 38 };
const NARROW = 480; // px: below, there is no room for the regions' names beside the chart, and they stand inside

/** alpha-bar at t of a schedule that may be shorter than another that is shown: its last one beyond its end. */
const at = (table, t) => table[Math.min(t, table.length - 1)];

/** The chart: axes and regions when its width changes, curves and marker when the state does. */
function chart(model, names) {
  const length = Math.max(...names.map((name) => scheduleOf(model, name).length)), last = length - 1;
  const axes = svg("g", { "aria-hidden": "true" }), curves = svg("g");
  const guide = svg("line", { class: "guide" }), dots = svg("g");
  const marker = svg("g", {
    class: "marker", role: "slider", tabindex: 0, "aria-label": "Timestep", "aria-valuemin": 0, "aria-valuemax": last,
    onkeydown: (event) => {
      const t = keyed(event, model.get("t"), 0, last);
      if (t !== null) put(model, { t });
    },
  }, guide, dots);
  const node = svg("svg", { class: "chart", role: "group", "aria-label": "alpha-bar over t" }, axes, curves, marker);
  let width = 600, height = 300;
  const x = (t) => MARGIN.left + (t / last) * (width - MARGIN.left - (width < NARROW ? 12 : 92));
  const y = (alphaBar) => MARGIN.top + (1 - alphaBar) * (height - MARGIN.top - MARGIN.bottom);
  const text = (px, py, words, properties = {}) => svg("text", { x: px, y: py, ...properties }, words);

  const drawAxes = () => {
    const [right, bottom] = [x(last), y(0)], parts = [];
    let above = 1;
    for (const [from, name] of regions()) {
      const top = y(above), tall = y(from) - top;
      parts.push(svg("rect", { class: "band", x: MARGIN.left, y: top, width: right - MARGIN.left, height: tall }));
      const inside = width < NARROW, at = [inside ? right - 4 : right + 8, top + tall / 2 + 4];
      if (tall > (inside ? 20 : 6)) parts.push(text(...at, name, { "text-anchor": inside ? "end" : "start" }));
      above = from;
    }
    for (const value of [0, 0.25, 0.5, 0.75, 1]) {
      parts.push(text(MARGIN.left - 6, y(value) + 4, value, { "text-anchor": "end" }));
    }
    for (const part of [0, 0.25, 0.5, 0.75, 1]) {
      const t = Math.min(Math.round(part * length), last);
      parts.push(svg("line", { class: "tick", x1: x(t), x2: x(t), y1: bottom, y2: bottom + 4 }));
      parts.push(text(x(t), bottom + 17, t, { "text-anchor": "middle" }));
    }
    parts.push(svg("path", { class: "axis", d: `M${MARGIN.left} ${MARGIN.top}V${bottom}H${right}` }));
    parts.push(text(right, bottom + 33, "timestep t →", { "text-anchor": "end" }));
    parts.push(text(8, y(0.875) + 5, "ᾱ", { class: "name" }));
    axes.replaceChildren(...parts);
  };

  let places = []; // each schedule that is shown, with the circles that mark its alpha-bar at t
  const drawCurves = () => {
    const shown = model.get("shown");
    curves.replaceChildren(...shown.map((name) => {
      const table = scheduleOf(model, name);
      const points = Array.from(table, (alphaBar, i) => `${x(i).toFixed(1)} ${y(alphaBar).toFixed(1)}`);
      return svg("path", { class: "curve", "data-schedule": names.indexOf(name), d: `M${points.join("L")}` });
    }));
    places = shown.map((name) => ({
      name,
      table: scheduleOf(model, name),
      circles: [svg("circle", { class: "ring", r: 13 }),
        svg("circle", { class: "dot", r: 7, "data-schedule": names.indexOf(name) })],
    }));
    dots.replaceChildren(...places.flatMap(({ circles }) => circles));
    guide.setAttribute("y1", MARGIN.top);
    guide.setAttribute("y2", y(0));
    drawMarker();
  };

  const drawMarker = () => {
    const t = within(model.get("t"), 0, last), heard = [`t ${t}`];
    guide.setAttribute("x1", x(t));
    guide.setAttribute("x2", x(t));
    for (const { name, table, circles } of places) {
      const alphaBar = at(table, t);
      heard.push(`${name} alpha-bar ${share(alphaBar)}`);
      for (const circle of circles) {
        circle.setAttribute("cx", x(t));
        circle.setAttribute("cy", y(alphaBar));
      }
    }
    marker.setAttribute("aria-valuenow", t);
    marker.setAttribute("aria-valuetext", heard.join(", "));
  };

  const place = (event) => {
    const fraction = (event.clientX - node.getBoundingClientRect().left - MARGIN.left) / (x(last) - MARGIN.left);
    put(model, { t: within(fraction * last, 0, last) });
  };
  node.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    node.setPointerCapture(event.pointerId);
    marker.focus({ preventScroll: true });
    place(event);
    event.preventDefault(); // a drag selects no text
  });
  node.addEventListener("pointermove", (event) => node.hasPointerCapture(event.pointerId) && place(event));

  const sizes = new ResizeObserver(([{ contentRect }]) => {
    if (!contentRect.width) return;
    width = contentRect.width;
    height = Math.min(340, Math.max(230, width * 0.5));
    node.setAttribute("viewBox", `0 0 ${width} ${height}`);
    node.style.height = `${height}px`;
    drawAxes();
    drawCurves();
  });
  const holder = h("div", { class: "chart-holder" }, node);
  sizes.observe(holder);
  return { node: holder, drawCurves, drawMarker, last, end: () => sizes.disconnect() };
}

/** The schedules to show, at least one. */
function scheduleBoxes(model, names) {
  const boxes = names.map((name) => h("input", { type: "checkbox", "data-name": name, onchange: () => {
    const shown = names.filter((_, i) => boxes[i].checked);
    if (shown.length) put(model, { shown });
    else draw(); // the last one stays
  } }));
  const labels = names.map((name, i) =>
    h("label", { "data-schedule": i }, boxes[i], h("span", { class: "key" }), name));
  const draw = () => boxes.forEach((box, i) => {
    box.checked = model.get("shown").includes(names[i]);
  });
  const node = h("div", { class: "boxes", role: "group", "aria-label": "Schedules shown" }, ...labels);
  node.hidden = names.length < 2;
  return { node, draw };
}

/** The image at t by one schedule, with its equation and what is left of it. */
function view(name, number) {
  const id = unique("view"), place = h("div", { class: "middle" }), title = h("p", { class: "title", id });
  const formula = h("p"), bar = shareBar(), says = spokenLine({ class: "says" });
  const node = h("div", { class: "view", role: "group", "aria-labelledby": id, "data-schedule": number },
    title, formula, place, h("div", { class: "readout" }, bar.node, says.node));
  let made = null;
  const take = ({ shape }) => {
    made = picture(shape);
    place.replaceChildren(made.node);
  };
  const draw = ({ label, x0, eps }, alphaBar, t) => {
    const { name: where, says: sentence } = region(alphaBar), [a, b] = coefficients(alphaBar);
    made.draw(closedForm(x0, eps, alphaBar), `${label} at t ${t} by the ${name} schedule: ${where}`);
    title.replaceChildren(h("span", { class: "key" }), `${name}, t = ${t}`);
    formula.replaceChildren(equation(alphaBar));
    formula.title = `√ᾱ = ${a}, √(1 − ᾱ) = ${b}`;
    bar.draw(alphaBar);
    says.draw(sentence);
  };
  return { node, take, draw };
}

export function render({ model, el }) {
  el.classList.add("alphabar-widget", "alpha-bar-curve");
  const names = Object.keys(model.get("schedules")), curve = chart(model, names), boxes = scheduleBoxes(model, names);
  const views = new Map(names.map((name, i) => [name, view(name, i)]));
  const seen = h("div", { class: "views" }, [...views.values()].map(({ node }) => node));
  const image = imageChoice(model), again = noiseButton(model), note = h("p", { class: "note" });
  el.append(boxes.node, curve.node, seen, h("div", { class: "controls" }, image.node, again.node), note);

  let source = {}; // the image and its noise, which a drag along t does not change
  const drawImage = () => {
    const chosen = chosenImage(model);
    source = { ...chosen, eps: noise(model.get("seed"), chosen.x0.length) };
    for (const { take } of views.values()) take(chosen);
    note.replaceChildren(`${chosen.source}.${names.length > 1 ? " Every schedule is given the same noise ε." : ""}`);
    image.draw();
    again.draw();
  };
  const drawShown = () => {
    for (const [name, { node }] of views) node.hidden = !model.get("shown").includes(name);
    boxes.draw();
    curve.drawCurves();
  };
  const drawTime = () => {
    const t = within(model.get("t"), 0, curve.last);
    for (const name of model.get("shown")) views.get(name).draw(source, at(scheduleOf(model, name), t), t);
    curve.drawMarker();
  };
  const ends = [
    watch(model, ["image", "seed"], drawImage),
    watch(model, ["shown"], drawShown),
    watch(model, ["image", "seed", "shown", "t"], drawTime),
    curve.end,
  ];
  return () => ends.forEach((end) => end());
}

export default { render };
