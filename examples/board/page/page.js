// One page, one stream. Each tab listens to its own topics.

import { open, share } from "/tower-sse.js";
import { announce, find, load, onSubmit, save, send } from "./dom.js";
import { alerts, history, monitor } from "./monitor.js";
import { notes } from "./notes.js";
import { notices } from "./notices.js";
import { orders } from "./orders.js";
import { stocks } from "./stocks.js";
import { tabs } from "./tabs.js";

/** Under this key, the tab keeps the id of the last event. */
const RESUME = "board stream";

const me = await whoAmI();
find("name").value = me.name;

// Without its history, the page needs the samples from the first one on.
if (!history()) sessionStorage.removeItem(RESUME);
const figures = monitor(me);
const parts = {};
const stream = open("/events", {
  topics: ["monitor"],
  resume: RESUME,
  // All tabs of a visitor have one stream together.
  share: share(`board ${me.who}`),
  onTopicRefused: (topic) => parts.orders?.refused(topic),
  // What is lost of the figures stays a hole. The list is loaded again.
  onGap: () => Promise.all([whoAmI(), parts.notes.reload()]),
});
stream.topic("monitor", figures.note);
stream.on("refused", ({ json }) => parts.orders.refused(json.topic));
parts.orders = orders(stream, me);
parts.notes = notes(stream, me);
parts.notices = notices(stream, me);
stocks(stream, me);
alerts(stream);
tabs(document.querySelector("[role=tablist]"), (name) => {
  parts.notes.show(name === "notes");
  parts.notices.show(name === "notices");
  figures.paint();
});

onSubmit(find("nameForm"), async () => {
  const { name } = await send("PUT", "/me", { name: find("name").value });
  save(localStorage, "board name", name);
  find("name").value = name;
  announce(`You are ${name}`);
});

// ---- The state of the stream

const PHASES = { idle: "starting", connecting: "connecting", waiting: "no connection", parked: "asleep", closed: "stopped" };
const WHY = { refused: "the server refuses the stream: load the page again", ended: "the server has ended it", "too large": "an event was too large", "gave up": "it has failed too often", closed: "" };

stream.subscribe((state) => {
  const hasStream = state.phase === "open" || state.phase === "following";
  const phase = hasStream ? (state.caughtUp ? "live" : "catching up") : PHASES[state.phase];
  const isLost = state.phase === "waiting" && find("stream").dataset.phase !== "waiting";
  const isBack = state.caughtUp && find("stream").dataset.lost === "true";
  if (isLost && state.error) {
    announce("The connection is lost. What you see is old.");
    find("stream").dataset.lost = "true";
  }
  if (isBack) {
    announce("Connected again.");
    find("stream").dataset.lost = "false";
  }
  find("stream").dataset.phase = state.phase;
  find("stream").dataset.live = state.caughtUp;
  find("phase").textContent = phase;
  find("stale").hidden = !state.stale;
  find("retry").hidden = state.phase !== "waiting";
  document.querySelector("main").classList.toggle("old", !hasStream || (state.phase === "following" && !state.caughtUp));
  tick();
});

/** What changes each second is not for screen readers. */
function tick() {
  const { phase, retryAt, why, transport } = stream.state;
  const silence = Math.round((Date.now() - stream.stats.lastByteAt) / 1_000);
  let detail = "";
  if (phase === "waiting") detail = `again in ${Math.max(0, Math.ceil((retryAt - Date.now()) / 1_000))} s`;
  else if (phase === "closed") detail = WHY[why] ?? "";
  else if (phase === "open" && transport === "poll") detail = "by polling: the network shows no streams";
  else if (phase === "open" && silence > 20) detail = `silent for ${silence} s`;
  if (find("detail").textContent !== detail) find("detail").textContent = detail;
}
setInterval(tick, 1_000);
find("retry").addEventListener("click", () => stream.reconnect());

/** Who this visitor is, by the server. It is asked until it answers. */
async function whoAmI() {
  for (;;) {
    try {
      const it = await send("PUT", "/me", { name: load(localStorage, "board name", null) });
      find("complaint").hidden = true;
      return it;
    } catch (error) {
      find("complaint").hidden = false;
      find("complaint").textContent = error.status ? `The server does not say who you are: ${error.message}` : "The server cannot be reached. The page tries again.";
      await new Promise((resolve) => setTimeout(resolve, 2_000));
    }
  }
}
