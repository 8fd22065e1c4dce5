// The host of the widgets on a page: what anywidget is in a notebook, without a kernel.
//
//   <div class="alphabar-widget" data-module="_static/widgets/noise-slider.js" data-state='{"t": 300}'
//     data-url="_static/data/images.json _static/data/schedules.json">what stands here until the widget does</div>
//
// A widget is started when it comes near the screen. Its state is what the files at data-url hold, each a JSON object,
// under what data-state says. Addresses are relative to the page.

/** What a widget needs of anywidget's model; there is nobody to send a message to. */
export class Model {
  constructor(state) {
    this.state = { ...state };
    this.listeners = [];
  }

  get(key) {
    return this.state[key];
  }

  /** Tells the listeners of `change:key` at once, as a notebook's model does. */
  set(key, value) {
    if (Object.is(this.state[key], value)) return;
    this.state[key] = value;
    this.trigger(`change:${key}`);
    this.trigger("change");
  }

  save_changes() {}

  on(event, listener) {
    this.listeners.push({ event, listener });
  }

  /** Without a listener: all of the event; without an event: all. */
  off(event, listener) {
    const goes = (known) => (!event || known.event === event) && (!listener || known.listener === listener);
    this.listeners = this.listeners.filter((known) => !goes(known));
  }

  trigger(event, ...values) {
    for (const known of [...this.listeners]) if (known.event === event) known.listener(...values);
  }

  send() {
    throw new Error("this page has no kernel to send a message to");
  }
}

const absolute = (address) => new URL(address, document.baseURI).href;

const files = new Map(); // address -> a promise of what it holds, so that a page reads each once

function readJson(address) {
  if (!files.has(address)) {
    files.set(address, (async () => {
      const response = await fetch(address);
      if (!response.ok) throw new Error(`${address} answers ${response.status}`);
      return response.json();
    })());
  }
  return files.get(address);
}

async function stateOf({ url = "", state = "{}" }) {
  const held = await Promise.all(url.split(/\s+/).filter(Boolean).map((address) => readJson(absolute(address))));
  return Object.assign({}, ...held, JSON.parse(state));
}

/** Put a widget in the place of what `el` holds; what goes wrong is said there and in the console. */
export async function start(el, load) {
  el.dataset.started = "";
  try {
    const { render, state } = await load();
    el.replaceChildren();
    await render({ model: new Model(state), el });
  } catch (error) {
    const message = document.createElement("p");
    message.className = "widget-error";
    message.setAttribute("role", "alert");
    message.textContent = `This widget could not start: ${error.message}`;
    el.classList.add("alphabar-widget");
    el.replaceChildren(message);
    console.error(error);
  }
}

/** Start the widgets under `root` as they come near the screen, and all that are left before the page is printed. */
export function hydrate(root = document) {
  const begin = (el) => {
    if ("started" in el.dataset) return;
    observer.unobserve(el);
    start(el, async () => {
      const [module, state] = await Promise.all([import(absolute(el.dataset.module)), stateOf(el.dataset)]);
      return { render: module.default.render, state };
    });
  };
  const near = (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => begin(entry.target));
  const observer = new IntersectionObserver(near, { rootMargin: "400px" });
  const widgets = root.querySelectorAll(".alphabar-widget[data-module]");
  for (const el of widgets) observer.observe(el);
  window.addEventListener("beforeprint", () => widgets.forEach(begin));
}

hydrate(); // a module runs when the page is read; where there is nothing to start, as in to_html(), this does nothing
