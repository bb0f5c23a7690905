// Components in React's strict mode, which runs each effect twice.

import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { useStream, useTopic } from "./use_topic.react.js";

function Messages({ topic }) {
  const { phase } = useStream();
  const all = useTopic(topic);
  return (
    <section>
      <p>{phase}</p>
      <ul>
        {all.map(({ text }, at) => (
          <li key={at}>{text}</li>
        ))}
      </ul>
    </section>
  );
}

let root;

globalThis.show = (topics) => {
  root ??= createRoot(document.querySelector("#app"));
  root.render(
    <StrictMode>
      {topics.map((topic, at) => (
        <Messages key={at} topic={topic} />
      ))}
    </StrictMode>,
  );
};
globalThis.unmount = () => {
  root.unmount();
  root = undefined;
};
