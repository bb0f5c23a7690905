// Without JSX, which would need a compiler of its own.

import { createEffect, createRoot } from "solid-js";
import { useStream, useTopic } from "./use_topic.solid.js";

let dispose;

globalThis.show = (topics) => {
  const section = () => document.createElement("section");
  createRoot((end) => {
    dispose = end;
    const state = useStream();
    const sections = topics.map((topic) => [section(), useTopic(topic)]);
    createEffect(() => {
      for (const [section, all] of sections) section.innerHTML = `<p>${state()?.phase}</p><ul>${all().map(({ text }) => `<li>${text}</li>`).join("")}</ul>`;
    });
    document.querySelector("#app").replaceChildren(...sections.map(([section]) => section));
  });
};
globalThis.unmount = () => {
  dispose();
  document.querySelector("#app").replaceChildren();
};
