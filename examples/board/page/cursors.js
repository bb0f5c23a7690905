// Who is here, and where their cursors are.

import { el, find, send } from "./dom.js";

const PAUSE = 250;
const MOST = 100;

/** The same colour for a visitor in all pages. */
export const colour = (who) => `oklch(${matchMedia("(prefers-color-scheme: dark)").matches ? "78%" : "50%"} 0.12 ${(who * 47) % 360})`;

/** `field(id)` is the input of a line. */
export function cursors(me, field) {
  /** The cursors of the others. */
  const places = new Map();
  let here = [];
  let said = "";
  let timer;

  function paint() {
    for (const old of document.querySelectorAll(".cursor")) old.remove();
    for (const [who, { line, at, name }] of places) {
      const input = field(line);
      if (!input) continue;
      const mark = el("i", { className: "cursor", "aria-hidden": "true" }, el("span", { textContent: name }));
      mark.style.setProperty("--who", colour(who));
      const left = offset(input, at);
      mark.style.left = `${left}px`;
      mark.classList.toggle("last", left > input.clientWidth - 80);
      input.parentElement.append(mark);
    }
  }

  /** Tells the others, at most once in a quarter of a second. */
  function tell() {
    timer ??= setTimeout(() => {
      timer = undefined;
      const input = document.activeElement?.closest?.("#lineList input");
      const place = input ? { line: Number(input.dataset.line), at: input.selectionStart } : {};
      if (JSON.stringify(place) === said) return;
      said = JSON.stringify(place);
      // The next one makes up for it.
      send("POST", "/notes/cursor", place).catch(() => (said = ""));
    }, PAUSE);
  }

  const list = find("lineList");
  for (const type of ["focusin", "focusout", "keyup", "pointerup", "input"]) list.addEventListener(type, tell);
  addEventListener("resize", paint);

  return {
    paint,
    note({ who, name, line, at }) {
      if (who === me.who) return;
      if (line === undefined) places.delete(who);
      else if (places.has(who) || places.size < MOST) places.set(who, { name: String(name), line, at: Number(at) });
      paint();
    },
    noteHere(list) {
      if (!Array.isArray(list)) throw new TypeError("it is no list");
      here = list.slice(0, MOST);
      for (const who of places.keys()) if (!here.some((person) => person.who === who)) places.delete(who);
      find("here").replaceChildren(...here.map(({ who, name }) => {
        const person = el("li", { className: "person", textContent: who === me.who ? `${name} (you)` : String(name) });
        person.style.setProperty("--who", colour(who));
        return person;
      }));
      paint();
    },
    clear() {
      places.clear();
      find("here").replaceChildren();
      paint();
    },
  };
}

const canvas = document.createElement("canvas").getContext("2d");

/** Where a character of an input is, in pixels. */
function offset(input, at) {
  const style = getComputedStyle(input);
  // The shorthand is empty where figures have an own style.
  canvas.font = `${style.fontStyle} ${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
  const width = canvas.measureText(input.value.slice(0, at)).width;
  const edge = parseFloat(style.paddingLeft) + parseFloat(style.borderLeftWidth);
  return Math.max(0, Math.min(edge + width - input.scrollLeft, input.clientWidth));
}
