import { QueryClient, QueryObserver } from "@tanstack/query-core";
import { query } from "./others.js";

const client = new QueryClient();
let leave = [];

globalThis.show = (topics) => {
  const app = document.querySelector("#app");
  leave = topics.map((topic) => {
    app.insertAdjacentHTML("beforeend", "<section><p></p><ul></ul></section>");
    const [state, list] = app.lastElementChild.children;
    const draw = ({ data = [], fetchStatus }) => {
      state.textContent = fetchStatus === "fetching" ? "open" : fetchStatus;
      list.innerHTML = data.map(({ json }) => `<li>${json.text}</li>`).join("");
    };
    const observer = new QueryObserver(client, { ...query(topic), gcTime: 0 });
    return observer.subscribe(draw);
  });
};
globalThis.unmount = () => {
  for (const end of leave) end();
  document.querySelector("#app").replaceChildren();
};
