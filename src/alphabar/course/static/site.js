// What a page remembers, in this browser alone: guesses, and which sections are done. Every page reads without it.

const KEY = "alphabar:";

/** A value kept under a name, or null. */
function kept(name) {
  try {
    return JSON.parse(localStorage.getItem(KEY + name));
  } catch {
    return null; // storage is closed, or holds what is not ours
  }
}

/** Keep a value; where storage is closed it is forgotten with the page. */
function keep(name, value) {
  try {
    localStorage.setItem(KEY + name, JSON.stringify(value));
  } catch {
    // the page works on
  }
}

/** A check: the answer opens after a guess is written, or said aloud. */
function check(block, lesson) {
  const name = `guess:${lesson}:${block.dataset.check}`;
  const [field, show, aloud, answer] = ["textarea", ".check-show", ".check-aloud", ".check-answer"].map((part) =>
    block.querySelector(part),
  );
  const state = { text: "", aloud: false, ...kept(name) };
  const update = () => {
    show.disabled = !(field.value.trim() || state.aloud);
    aloud.setAttribute("aria-pressed", String(state.aloud));
    show.textContent = answer.open ? "Hide the answer" : "Show the answer";
    answer.hidden = !answer.open;
  };
  field.value = state.text;
  answer.open = false;
  block.classList.add("kept");
  block.querySelector(".check-guess").hidden = false;
  // The browser also opens it, where a search in the page finds words in it; a click on its line must not close it.
  answer.querySelector("summary").tabIndex = -1;
  answer.querySelector("summary").addEventListener("click", (event) => event.preventDefault());
  answer.addEventListener("toggle", update);
  field.addEventListener("input", () => {
    state.text = field.value;
    keep(name, state);
    update();
  });
  aloud.addEventListener("click", () => {
    state.aloud = !state.aloud;
    keep(name, state);
    update();
  });
  show.addEventListener("click", () => {
    answer.open = !answer.open;
    update();
  });
  update();
}

/** What is done of a lesson: `{ whole, sections }`. */
function progress(lesson) {
  return { whole: false, sections: [], ...kept(`done:${lesson}`) };
}

/** The boxes of a lesson's page, and the marks in its table of contents. */
function ticks(lesson) {
  const done = progress(lesson);
  for (const box of document.querySelectorAll("input[data-tick]")) {
    const section = box.dataset.tick;
    const update = () => {
      const at = `.bd-sidebar-secondary a[href="#${section}"]`;
      if (section) document.querySelector(at)?.classList.toggle("ticked", box.checked);
    };
    box.checked = section ? done.sections.includes(section) : done.whole;
    box.closest(".tick").hidden = false;
    box.addEventListener("change", () => {
      const others = done.sections.filter((one) => one !== section);
      if (section) done.sections = box.checked ? [...others, section] : others;
      else done.whole = box.checked;
      keep(`done:${lesson}`, done);
      update();
    });
    update();
  }
}

/** How far each lesson is, in the list of the first page. */
function summary(place) {
  const listed = place.dataset.sections.split(" ").filter(Boolean);
  const { whole, sections } = progress(place.dataset.lesson);
  const count = listed.filter((section) => sections.includes(section)).length;
  if (whole) place.textContent = "done ✓";
  else if (count) place.textContent = `${count} of ${listed.length} sections`;
}

/** What is wider than the page scrolls by keyboard too. */
function scrollable() {
  const wide = ".bd-article :is(div.math, .scroll, .pst-scrollable-table-container, .highlight pre)";
  for (const part of document.querySelectorAll(wide)) {
    if (part.scrollWidth <= part.clientWidth) continue;
    part.tabIndex = 0;
    if (!part.hasAttribute("aria-label")) {
      part.setAttribute("role", "group");
      part.setAttribute("aria-label", "Scrolls sideways");
    }
  }
}

const lesson = document.querySelector(".eyebrow[data-lesson]")?.dataset.lesson;
if (lesson) {
  document.querySelectorAll(".check").forEach((block) => check(block, lesson));
  ticks(lesson);
}
document.querySelectorAll(".lesson-progress").forEach(summary);
scrollable();
window.MathJax?.startup?.promise?.then(scrollable);
addEventListener("resize", scrollable);
