// Small helpers. Texts are set as text, never as HTML.

export const find = (id) => document.getElementById(id);

/** Makes an element. `className`, `textContent` and other properties are set; `aria-..` and `data-..` are attributes. */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** Sends a request with a JSON body. Throws an Error with the sentence of the server if it is refused. */
export async function send(method, path, body) {
  const response = await fetch(path, { method, headers: { "content-type": "application/json" }, body: body && JSON.stringify(body) });
  if (!response.ok) throw Object.assign(new Error((await response.text()) || `the server says ${response.status}`), { status: response.status });
  return response.status === 204 ? undefined : response.json();
}

/** Runs `act` when the form is sent. What goes wrong is shown in the panel's answer. */
export function onSubmit(form, act) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(form, act);
  });
}

export async function attempt(element, act) {
  const answer = element.closest("section")?.querySelector(".answer") ?? find("complaint");
  answer.textContent = "";
  answer.hidden = false;
  try {
    await act();
  } catch (error) {
    answer.textContent = error instanceof TypeError ? "The server cannot be reached." : error.message;
  }
}

let last = 0;
let texts = [];

/** Tells a screen reader, politely, and at most once in three seconds. Texts that come meanwhile are told together. */
export function announce(text) {
  texts = [...texts, text].slice(-5);
  if (texts.length > 1) return;
  setTimeout(
    () => {
      last = Date.now();
      find("said").textContent = texts.join("; ");
      texts = [];
    },
    Math.max(0, last + 3_000 - Date.now()),
  );
}

/** Something that the server sent cannot be shown. */
export function complain(what, error) {
  console.warn(what, error);
  find("complaint").hidden = false;
  find("complaint").textContent = `${what} could not be shown: ${error.message}`;
}

/** A listener for events of a topic. An event that is not as it should be does not stop the page. */
export const guarded = (listener) => (event) => {
  try {
    if (typeof event.json !== "object" || event.json === null) throw new TypeError("it is no object");
    listener(event.json);
  } catch (error) {
    complain(`An event of ${event.topic ?? event.type}`, error);
  }
};

export const clock = (at) => new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

/** Storage that may be full or forbidden. */
export function load(storage, key, fallback) {
  try {
    return JSON.parse(storage.getItem(key)) ?? fallback;
  } catch {
    return fallback;
  }
}

export function save(storage, key, value) {
  try {
    storage.setItem(key, JSON.stringify(value));
  } catch {
    // The page goes on without it.
  }
}
