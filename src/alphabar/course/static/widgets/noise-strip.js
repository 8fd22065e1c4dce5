import {
  alphaBarAt, chosenImage, closedForm, h, imageChoice, noise, noiseButton, picture, scheduleOf, share, timeName,
  timeSpoken, watch,
} from "./common.js";

// One image at a few noise levels, side by side. State: images, image, schedules, schedule, timesteps, seed.

export function render({ model, el }) {
  el.classList.add("alphabar-widget", "noise-strip");
  const strip = h("div", { class: "strip" }), note = h("p", { class: "note" });
  const image = imageChoice(model), again = noiseButton(model);
  el.append(strip, h("div", { class: "controls" }, image.node, again.node), note);

  return watch(model, ["image", "schedule", "timesteps", "seed"], () => {
    const { label, source, shape, x0 } = chosenImage(model), eps = noise(model.get("seed"), x0.length);
    const name = model.get("schedule"), schedule = scheduleOf(model, name);
    strip.replaceChildren(...model.get("timesteps").map((t) => {
      const { node, draw } = picture(shape), alphaBar = alphaBarAt(schedule, t);
      draw(closedForm(x0, eps, alphaBar), `${label} at ${timeSpoken(t)}, alpha-bar ${share(alphaBar)}`);
      return h("div", { class: "level" }, node, h("span", { class: "when" }, timeName(t)),
        h("span", { class: "number" }, h("span", {}, "ᾱ = "), share(alphaBar)));
    }));
    note.replaceChildren(`${source}. The ${name} schedule; one and the same noise ε in every picture.`);
    image.draw();
    again.draw();
  });
}

export default { render };
