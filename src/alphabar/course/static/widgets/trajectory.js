import {
  alphaBarAt, choice, h, keyed, picture, put, shareBar, spokenLine, timeName, timeSpoken, watch,
} from "./common.js";
import { openPredictor } from "./predictor.js";
import { CLEAN } from "../engine.js";

// A real network walks from noise to an image. A frame is a state x at t with the x0 that the network saw in it; frames
// arrive as they are computed, and playing moves over those that are there.

const SNAPSHOTS = 8; // one row on a page, two on a phone
const WHOLE = 2000; // a playback takes at least this many milliseconds

/** What happens about this noise level. */
function phase(t, alphaBar) {
  if (t === CLEAN) return "The image. The last step returned the network's x0 and added no noise.";
  if (alphaBar < 0.01) return "Static. The predicted x0 is a blur: the average of all that this could still become.";
  if (alphaBar < 0.2) return "The coarse decisions fall here: which thing it is, and where it stands.";
  if (alphaBar < 0.7) return "The shape is settled. Steps now draw its edges.";
  if (alphaBar < 0.97) return "Details: texture and edges. The predicted x0 hardly changes any more.";
  return "Nearly clean. The last steps take away what little noise is left.";
}

/** A run of the network: its frames as they come. */
class Run {
  constructor(predictor, request, onFrame) {
    this.frames = [];
    this.milliseconds = 0;
    this.over = false;
    const { done, cancel } = predictor.sample(request, ({ index, count, t, s, before, x0, x, milliseconds }) => {
      if (this.over) return;
      this.frames[index] = { t, x: before, x0 };
      if (s === CLEAN) this.frames[index + 1] = { t: CLEAN, x, x0: x };
      this.milliseconds += milliseconds;
      onFrame(count);
    });
    this.done = done;
    this.stop = () => {
      if (!this.over) cancel();
      this.over = true;
    };
  }
}

/** A picture with its name under it. */
function screen(shape, letter, index, after = "") {
  const { node, draw } = picture(shape), note = h("span", {});
  const name = h("b", {}, h("i", {}, letter), h("sub", {}, index), after);
  const frame = h("figure", {}, node, h("figcaption", {}, name, note));
  return { node: frame, draw: (x, label, text) => { draw(x, label); note.replaceChildren(text); } };
}

/** A menu over a key of the state. */
function menu(model, key, name, values) {
  const node = h("select", { onchange: () => put(model, { [key]: values[node.selectedIndex] }) },
    values.map((value) => h("option", {}, `${value}`)));
  return { node: h("label", { class: "menu" }, name, " ", node), draw: () => {
    node.selectedIndex = values.indexOf(model.get(key));
  } };
}

// State: seed, steps, sampler, and how to reach the network: see predictor.js.

async function render({ model, el }) {
  el.classList.add("alphabar-widget", "trajectory");
  const predictor = await openPredictor(model, el), { about } = predictor;
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  let run = null, frame = 0, playing = false, timer = 0, count = model.get("steps");

  const play = h("button", { type: "button", class: "play", onclick: () => (playing ? pause() : start()) });
  const timeline = h("input", {
    type: "range", class: "time", min: 0, step: 1, "aria-label": "Timeline",
    oninput: () => { pause(); go(Number(timeline.value)); },
    onkeydown: (event) => {
      const next = keyed(event, frame, 0, count);
      if (next !== null) { pause(); go(next); }
    },
  });
  const seed = h("span", { class: "seed" });
  const another = h("button", { type: "button", onclick: () => {
    playing = true; // who asks for another walk wants to see it
    put(model, { seed: model.get("seed") + 1 });
  } }, "Another seed");
  const steps = menu(model, "steps", "Steps", about.steps);
  const sampler = menu(model, "sampler", "Sampler", about.samplers);
  const state = screen(about.shape, "x", "t"), estimate = screen(about.shape, "x̂", "0", ", predicted from it");
  const nothing = new Float32Array(about.shape.reduce((a, b) => a * b, 1)).fill(-1);
  const bar = shareBar(), says = spokenLine({ class: "says" }), status = spokenLine({ class: "status" });
  const at = h("span", { class: "at" }), beside = h("div", { class: "beside" }, at, bar.node, says.node);
  const snapshots = Array.from({ length: SNAPSHOTS }, (_, i) => {
    const { node: face, draw } = picture(about.shape), name = h("span", {});
    face.setAttribute("aria-hidden", "true");
    face.removeAttribute("role");
    const onclick = () => { pause(); go(place(i)); };
    const button = h("button", { type: "button", disabled: true, onclick }, face, name);
    return { button, name, draw };
  });
  const place = (i) => Math.round((i * count) / (Math.min(SNAPSHOTS, count + 1) - 1)); // of a snapshot, in frames
  el.append(
    h("div", { class: "controls" }, play, another, seed, steps.node, sampler.node),
    h("div", { class: "screens" }, state.node, estimate.node, beside),
    h("div", { class: "timeline" }, timeline),
    h("div", { class: "snapshots", role: "group", "aria-label": "Snapshots" }, snapshots.map(({ button }) => button)),
    status.node);

  const known = () => (run ? run.frames.length - 1 : 0);

  function show() {
    const here = run?.frames[frame], step = `${frame} of ${count}`;
    play.replaceChildren(playing ? "Pause" : !run ? "Play" : frame < count ? "Continue" : "Play again");
    timeline.max = count;
    timeline.value = frame;
    timeline.style.setProperty("--share", `${(100 * frame) / count}%`);
    timeline.setAttribute("aria-valuetext", here ? `step ${step}, ${timeSpoken(here.t)}` : "not started");
    beside.style.visibility = here ? "visible" : "hidden";
    if (!here) {
      state.draw(nothing, "no state yet", "");
      estimate.draw(nothing, "no estimate yet", "");
      return;
    }
    const alphaBar = alphaBarAt(about.alphasBar, here.t), name = timeName(here.t);
    state.draw(here.x, `x t at step ${step}, ${timeSpoken(here.t)}`, name);
    estimate.draw(here.x0, `x zero as the network predicts it at step ${step}`, here.t === CLEAN ? "is x itself" : "");
    at.replaceChildren(`step ${step}, ${name}`);
    bar.draw(alphaBar);
    says.draw(phase(here.t, alphaBar));
    snapshots.forEach(({ button }, i) => button.setAttribute("aria-current", String(place(i) === frame)));
    el.dataset.frame = frame;
  }

  /** Draw the snapshots whose frames are there by now. */
  function fill() {
    snapshots.forEach((snapshot, i) => {
      snapshot.button.hidden = i > count;
      const there = run?.frames[place(i)];
      if (!there || i > count || !snapshot.button.disabled) return;
      snapshot.draw(there.x);
      snapshot.name.replaceChildren(timeName(there.t));
      snapshot.button.setAttribute("aria-label", `Go to step ${place(i)}, ${timeSpoken(there.t)}`);
      snapshot.button.disabled = false;
    });
  }

  const go = (to) => {
    frame = Math.max(0, Math.min(to, known()));
    show();
  };

  const pause = () => {
    playing = false;
    clearTimeout(timer);
    show();
  };

  /** Move on by one frame where it is there; with reduced motion, to the end once all are there. */
  function tick() {
    clearTimeout(timer);
    if (!playing) return;
    if (still.matches) {
      if (known() === count) frame = count;
    } else if (frame < known()) frame += 1;
    if (frame === count) playing = false;
    show();
    if (playing) timer = setTimeout(tick, WHOLE / count);
  }

  function start() {
    if (frame >= count) frame = 0;
    if (!run) begin();
    playing = true;
    tick();
  }

  function begin() {
    const request = { seed: model.get("seed"), steps: model.get("steps"), sampler: model.get("sampler") };
    const mine = new Run(predictor, request, () => {
      fill();
      if (mine.frames.length === 1) show();
      status.node.dataset.frames = mine.frames.length;
    });
    run = mine;
    status.draw(`The network is asked ${request.steps} times…`);
    mine.done.then((whole) => {
      if (!whole || mine.over) return;
      mine.over = true;
      const seconds = (mine.milliseconds / 1000).toFixed(2);
      status.draw(`${request.steps} calls of the network ${about.name}, computed here in ${seconds} s.`);
      el.dataset.done = `${request.seed}/${request.steps}/${request.sampler}`;
    }).catch((error) => {
      mine.over = true;
      playing = false;
      status.draw(`The network could not answer: ${error.message}`);
      run = null;
      show();
    });
  }

  /** Another walk was chosen: what is there belongs to the one before. */
  function reset() {
    run?.stop();
    run = null;
    delete el.dataset.done;
    [frame, count] = [0, model.get("steps")];
    for (const control of [steps, sampler]) control.draw();
    seed.replaceChildren(`seed ${model.get("seed")}`);
    for (const { button, name, draw } of snapshots) {
      draw(nothing);
      button.disabled = true;
      button.setAttribute("aria-label", "A snapshot, not computed yet");
      name.replaceChildren("");
    }
    fill();
    status.draw(`Press Play: the network is asked ${count} times, and starts from noise alone.`);
    if (playing) start();
    else show();
  }

  const end = watch(model, ["seed", "steps", "sampler"], reset);
  return () => {
    playing = false;
    clearTimeout(timer);
    run?.stop();
    end();
    predictor.close();
  };
}

export default { render };
