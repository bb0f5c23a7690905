// A page that checks numbered events: each once, and in order, also over a reload.

import { open, share } from "/tower-sse.js";

const { url = "/events", topics = ["numbers"], user, ...options } = JSON.parse(new URLSearchParams(location.search).get("options") ?? "{}");
// With `resume`, it outlives a reload.
const kept = (options.resume && JSON.parse(sessionStorage.getItem("kept"))) || { seen: {}, wrong: [], loads: 0, trace: [] };
kept.loads++;
// Only the topics of the address are resumed.
for (const topic in kept.seen) if (!topics.includes(topic)) delete kept.seen[topic];
/** The last things that happened, for who reads a failure. */
function trace(what) {
  kept.trace.push(`${Math.round(performance.timeOrigin + performance.now()) % 10_000_000} ${what}`);
  if (kept.trace.length > 60) kept.trace.shift();
}
trace(`load ${kept.loads} with ${JSON.stringify(kept.seen)}, to resume after ${sessionStorage.getItem(options.resume)}`);
// The client keeps its id at the same moments. Firefox can replace a page without a `pagehide`.
for (const type of ["pagehide", "visibilitychange", "freeze"]) {
  const of = type === "pagehide" ? globalThis : document;
  of.addEventListener(type, () => {
    trace(`${type} ${document.visibilityState}`);
    sessionStorage.setItem("kept", JSON.stringify(kept));
  });
}

const tabs = user && share(user);
const stream = open(url, {
  ...options,
  topics,
  headers: async () => ({ authorization: await (await fetch(`/token?user=${user ?? ""}`, { cache: "no-store" })).text() }),
  ...(user && { share: tabs }),
  onRefused: ({ status }) => void page.refused.push(status),
  onGap: ({ topics }) => void kept.wrong.push(`a gap in ${topics}`),
  onTopicRefused: (topic, why) => void kept.wrong.push(`${topic} is refused: ${why}`),
});

let wasExtra = false;
stream.on("*", ({ type, topic = "all", data, id }) => {
  page.types.add(type);
  if (topic === "extra") trace(`${topic} ${data} (${id})`);
  if (!/^\d+$/.test(data)) return;
  // An event may still come when the page does not want its topic any more.
  if (topic === "extra" && !page.extra) return;
  const number = Number(data);
  const { first = number, last = number - 1 } = kept.seen[topic] ?? {};
  if (number !== last + 1) {
    // Or it comes when the page wants the topic again, before the start.
    if (wasExtra && topic === "extra" && number > last) wasExtra = false;
    else kept.wrong.push(`${topic}: ${number} after ${last}, load ${kept.loads} (${id})`, ...kept.trace);
  }
  kept.seen[topic] = { first, last: number };
});

/** A page is live only while its stream is open, or while it follows one. */
function isHonest(state) {
  const { caughtUp, phase, role } = state;
  if (caughtUp && phase !== (role === "follower" ? "following" : "open")) kept.wrong.push(`live while ${JSON.stringify(state)}`);
}

let isRestored = false;
addEventListener("pageshow", ({ persisted }) => (isRestored ||= persisted));

/** What the test asks. */
const page = (globalThis.page = {
  stream,
  tabs,
  kept,
  refused: [],
  types: new Set(),
  states: [],
  extra: undefined,
  get report() {
    const { phase, why, caughtUp, stale, role, transport, attempt, resumed, error } = stream.state;
    const { seen, wrong, loads } = kept;
    const state = { phase, why, caughtUp, stale, role, transport, attempt, resumed, error: error && `${error}` };
    return { ...state, seen, wrong, loads, refused: page.refused, isRestored, opens: stream.stats.opens, hidden: document.hidden, isSecure: isSecureContext };
  },
  /** Whether all events until this one are there, and the page says so. */
  has: (number, topic = "numbers") => stream.state.caughtUp && kept.seen[topic]?.last === number,
  /** Adds a topic to the open stream, or removes it. */
  toggle(topic) {
    trace(`toggle ${topic} ${!page.extra}`);
    if (page.extra) {
      page.extra();
      page.extra = undefined;
      delete kept.seen[topic];
      wasExtra = true;
    } else page.extra = stream.topic(topic);
  },
});
stream.subscribe((state) => {
  const { phase, role, transport, caughtUp } = state;
  isHonest(state);
  trace(JSON.stringify(state));
  page.states.push({ phase, role, transport, caughtUp });
  if (page.states.length > 1000) page.states.shift();
});
