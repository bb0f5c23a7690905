import { observable } from "./others.js";
import { stream } from "./stream.js";

let subscriptions = [];

globalThis.show = (topics) => {
  const app = document.querySelector("#app");
  stream.subscribe(({ phase }) => (app.querySelectorAll("p").forEach((it) => (it.textContent = phase))));
  subscriptions = topics.map((topic) => {
    app.insertAdjacentHTML("beforeend", `<section><p>${stream.state.phase}</p><ul></ul></section>`);
    const list = app.lastElementChild.querySelector("ul");
    return observable(stream, topic).subscribe(({ text }) => list.insertAdjacentHTML("beforeend", `<li>${text}</li>`));
  });
};
globalThis.unmount = () => {
  for (const it of subscriptions) it.unsubscribe();
  document.querySelector("#app").replaceChildren();
};
