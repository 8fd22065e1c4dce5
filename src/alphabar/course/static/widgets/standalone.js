import { start } from "./host.js";

// A widget alone in a frame, as `to_html()` makes it: its state lies in the page, and the frame fits it.

const DARK = "html[data-theme=dark], html[theme=dark], body[data-jp-theme-light=false], body.vscode-dark";
const LIGHT = "html[data-theme=light], body[data-jp-theme-light=true], body.vscode-light";

/** The document around the frame, where it may be looked at. */
function around() {
  try {
    return window.frameElement?.ownerDocument;
  } catch {
    return null; // it is of another origin
  }
}

export function standalone(render, state) {
  const el = document.querySelector(".alphabar-widget"), outside = around(), root = document.documentElement;
  const likeOutside = () => {
    if (outside?.querySelector(DARK)) root.dataset.theme = "dark";
    else if (outside?.querySelector(LIGHT)) root.dataset.theme = "light";
  };
  likeOutside();
  if (outside) {
    const changes = new MutationObserver(likeOutside), options = { attributes: true };
    changes.observe(outside.documentElement, options);
    changes.observe(outside.body, options);
    new ResizeObserver(() => {
      window.frameElement.style.height = `${Math.ceil(root.getBoundingClientRect().height)}px`;
    }).observe(root);
  }
  return start(el, async () => ({ render, state }));
}
