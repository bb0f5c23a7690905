// One list that several people edit. The last writer of a line wins, and everybody sees what was written over.

import { cursors } from "./cursors.js";
import { announce, attempt, el, find, guarded, onSubmit, send } from "./dom.js";

const PAUSE = 350;

export function notes(stream, me) {
  const list = find("lineList");
  /** By id, in the order of the list. */
  const lines = new Map();
  /** The number of the last change that the page has. */
  let rev = -1;
  let loads;
  let offs = [];
  const others = cursors(me, (id) => lines.get(id)?.input);

  function apply(change) {
    if (!Number.isInteger(change.rev)) throw new TypeError("it has no number");
    if (change.rev <= rev) return;
    // The page has missed a change: it starts with the whole list.
    if (change.rev !== rev + 1) return void reload();
    rev = change.rev;
    if (change.line) put(change.line, change.replaced);
    if (change.removed !== undefined) drop(change.removed, change.by);
    others.paint();
  }

  /** Changes that come meanwhile are in the list, or the next one shows that the list is older. */
  function reload() {
    loads ??= send("GET", "/notes").then((all) => {
      rev = all.rev;
      const ids = new Set(all.lines.map(({ id }) => id));
      for (const id of lines.keys()) if (!ids.has(id)) drop(id);
      for (const line of all.lines) put(line);
      others.paint();
    }).finally(() => (loads = undefined));
    return loads;
  }

  function put(line, replaced) {
    const it = lines.get(line.id) ?? make(line.id);
    it.latest = line;
    show(it);
    if (replaced) conflict(it, line, replaced);
  }

  /** Shows the latest text of the line, but not while the viewer writes: the version is what the viewer has seen. */
  function show(it) {
    if (it.isDirty) return;
    setText(it.input, it.latest.text);
    it.version = it.latest.version;
    const by = it.latest.by.who === me.who ? "you" : String(it.latest.by.name);
    it.by.textContent = by;
    it.input.ariaLabel = `Line, last written by ${by}`;
  }

  function make(id) {
    const input = el("input", { maxLength: 200, "data-line": id, autocomplete: "off" });
    const remove = el("button", { type: "button", className: "plain", textContent: "✕", "aria-label": "Remove the line" });
    const by = el("span", { className: "by" });
    const it = { id, input, by, version: 0, latest: undefined, isDirty: false, row: el("li", { className: "note", "data-id": id }, el("div", { className: "field" }, input), remove, by) };
    input.addEventListener("input", () => {
      it.isDirty = true;
      writeIn(it, PAUSE);
    });
    input.addEventListener("change", () => write(it));
    remove.addEventListener("click", () => attempt(remove, async () => {
      await send("DELETE", `/notes/${id}`);
      find("newLine").focus();
    }));
    lines.set(id, it);
    list.append(it.row);
    return it;
  }

  /** Sends what was written. While a request is under way, later texts wait for its answer. */
  function write(it) {
    if (!it.isDirty || it.isWriting) return;
    const text = it.input.value.trim();
    if (!text) return;
    if (text === it.latest.text) return void ((it.isDirty = false), show(it));
    it.isWriting = true;
    it.input.ariaBusy = "true";
    attempt(it.input, async () => {
      try {
        const { line } = await send("PUT", `/notes/${it.id}`, { text, base: it.version });
        it.version = line.version;
        if (line.version > it.latest.version) it.latest = line;
        it.isDirty = it.input.value.trim() !== text;
        show(it);
      } catch (error) {
        if (error.status === 404) keepText(it, text);
        else writeIn(it, 2_000);
        throw error;
      }
    }).finally(() => {
      it.isWriting = false;
      it.input.ariaBusy = "false";
      if (it.isDirty && !it.timer && it.row.isConnected) write(it);
    });
  }

  function writeIn(it, ms) {
    clearTimeout(it.timer);
    it.timer = setTimeout(() => {
      it.timer = undefined;
      write(it);
    }, ms);
  }

  /** The line is gone. What was written goes where a new line is written. */
  function keepText(it, text) {
    if (!find("newLine").value) find("newLine").value = text;
    drop(it.id);
  }

  function drop(id, by) {
    const it = lines.get(id);
    if (!it) return;
    lines.delete(id);
    const hadFocus = it.row.contains(document.activeElement);
    it.row.remove();
    if (hadFocus) find("newLine").focus();
    if (hadFocus && by && by.who !== me.who) announce(`${by.name} has removed the line`);
  }

  function conflict(it, line, replaced) {
    it.row.querySelector(".conflict")?.remove();
    const [writer, loser] = [line.by, replaced.by].map(({ who, name }) => (who === me.who ? "You" : String(name)));
    const text = `${writer} wrote over “${replaced.text}” by ${loser === "You" ? "you" : loser}.`;
    const back = el("button", { type: "button", textContent: "Take it back" });
    const good = el("button", { type: "button", textContent: "Fine" });
    const box = el("div", { className: "conflict" }, el("span", { textContent: text }), back, good);
    good.addEventListener("click", () => (box.remove(), it.input.focus()));
    back.addEventListener("click", () => {
      box.remove();
      it.input.value = replaced.text;
      it.isDirty = true;
      it.input.focus();
      write(it);
    });
    it.row.append(box);
    announce(text);
  }

  onSubmit(find("lineForm"), async () => {
    await send("POST", "/notes", { text: find("newLine").value });
    find("newLine").value = "";
  });

  return {
    /** Whoever has the tab open is subscribed, so the server knows who is here. */
    show(isShown) {
      if (isShown === offs.length > 0) return;
      if (!isShown) {
        for (const off of offs.splice(0)) off();
        return others.clear();
      }
      offs = [
        stream.topic("notes", guarded(apply)),
        stream.topic("notes/here", guarded(({ here }) => others.noteHere(here))),
        stream.topic("notes/cursors", guarded((place) => others.note(place))),
      ];
      attempt(list, reload);
    },
    reload: () => (offs.length ? reload() : undefined),
  };
}

/** Sets the text, and leaves the cursor before the character where it was. */
function setText(input, text) {
  if (input.value === text) return;
  const [before, at] = [input.value, input.selectionStart];
  const hasFocus = document.activeElement === input;
  input.value = text;
  if (!hasFocus) return;
  const isBehind = !text.startsWith(before.slice(0, at));
  const place = Math.max(0, isBehind ? at + text.length - before.length : at);
  input.setSelectionRange(place, place);
}
