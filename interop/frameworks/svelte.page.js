import { mount, unmount } from "svelte";
import { writable } from "svelte/store";
import App from "./App.svelte";

const wanted = writable([]);
let app;

globalThis.show = (topics) => {
  wanted.set(topics);
  app ??= mount(App, { target: document.querySelector("#app"), props: { wanted } });
};
globalThis.unmount = () => {
  unmount(app);
  app = undefined;
};
