import {
  alphaBarAt, chosenImage, closedForm, equation, h, imageChoice, noise, noiseButton, picture, put, region, scheduleOf,
  share, shareBar, spokenLine, timeName, timeSlider, timeSpoken, watch, within,
} from "./common.js";
import { CLEAN } from "../engine.js";

// One image from clean to static, and which way is which. State: images, image, schedules, schedule, t, previews, seed.

export function render({ model, el }) {
  el.classList.add("alphabar-widget", "noise-slider");
  const schedule = scheduleOf(model, model.get("schedule")), last = schedule.length - 1;
  const when = h("p", { class: "when" }), formula = h("p"), bar = shareBar(), says = spokenLine({ class: "says" });
  const slider = timeSlider(model, "t", {
    label: "Timestep, from the clean image to static", least: CLEAN, greatest: last,
    spoken: (t) => `${timeSpoken(t)}, ${region(alphaBarAt(schedule, t)).name}`,
  });
  const image = imageChoice(model), again = noiseButton(model), note = h("p", { class: "note" });
  const stage = h("div", { class: "big" }), previews = h("div", { class: "previews", role: "group" });
  previews.setAttribute("aria-label", "Go to a noise level");
  el.append(
    h("div", { class: "stage" }, stage, h("div", { class: "readout" }, when, formula, bar.node, says.node)),
    h("div", { class: "journey" },
      h("p", { class: "direction forward" }, h("span", {}, "forward: add noise, known formula")),
      slider.node,
      h("p", { class: "direction reverse" }, h("span", {}, "reverse: what the network learns"))),
    previews,
    h("div", { class: "controls" }, image.node, again.node),
    note,
  );

  let shown = {}; // the image and its noise, which a drag along t does not change
  const drawImage = () => {
    const chosen = chosenImage(model), eps = noise(model.get("seed"), chosen.x0.length);
    const big = picture(chosen.shape);
    shown = { ...chosen, eps, draw: big.draw };
    stage.replaceChildren(big.node);
    previews.replaceChildren(...model.get("previews").map((t) => {
      const small = picture(chosen.shape);
      small.draw(closedForm(chosen.x0, eps, alphaBarAt(schedule, t)));
      small.node.removeAttribute("role");
      return h("button", { type: "button", "data-t": t, "aria-label": timeSpoken(t), onclick: () => put(model, { t }) },
        small.node, h("span", {}, timeName(t)));
    }));
    note.replaceChildren(`${chosen.source}. The ${model.get("schedule")} schedule; beyond −1 and 1, black and white.`);
    image.draw();
    again.draw();
  };
  const drawTime = () => {
    const t = within(model.get("t"), CLEAN, last), alphaBar = alphaBarAt(schedule, t), { label, x0, eps } = shown;
    const { name, says: sentence } = region(alphaBar);
    shown.draw(closedForm(x0, eps, alphaBar), `${label} at ${timeSpoken(t)}: ${name}`);
    when.replaceChildren(t === CLEAN ? "the clean image, before t = 0" : `t = ${t} of ${last}`);
    formula.replaceChildren(equation(alphaBar));
    bar.draw(alphaBar);
    says.draw(sentence);
    slider.draw();
    for (const button of previews.children) button.setAttribute("aria-pressed", Number(button.dataset.t) === t);
  };
  const ends = [watch(model, ["image", "seed", "previews"], drawImage), watch(model, ["image", "seed", "t"], drawTime)];
  return () => ends.forEach((end) => end());
}

export default { render };
