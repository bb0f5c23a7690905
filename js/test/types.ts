/** Compiled, never run. Each `@ts-expect-error` is an error of its own if the line is right. */

import { open, parser, share } from "tower-sse";
import type { EventStream, Gap, State, StreamEvent, Tabs } from "tower-sse";

interface Order {
  id: number;
  total: string;
}
interface Events {
  order: Order;
  note: string;
}

const stream: EventStream<Events> = open<Events>("/events", { topics: new Set(["a"]), lazy: true, hidden: 5_000 });
open(new URL("https://shop.example/events"));

// Events by their type.
const off: () => void = stream.on("order", ({ json, data, type, id, topic }) => {
  const order: Order = json;
  const texts: [string, string, string, string | undefined] = [data, type, id, topic];
  void [order, texts];
});
stream.on("note", ({ json }) => json.toUpperCase(), { signal: new AbortController().signal });
stream.on("*", ({ json }) => void (json satisfies Order | string));
// @ts-expect-error: there is no such type
stream.on("other", () => {});
// @ts-expect-error: a note is a text
stream.on("note", ({ json }) => json.total);
// @ts-expect-error: an event cannot be changed
stream.on("note", (event) => (event.data = ""));
open("/events").on("anything", ({ json }) => void (json satisfies unknown));
// @ts-expect-error: what is not known has to be checked
open("/events").on("anything", ({ json }) => json.id);

// Topics.
const undo: () => void = stream.topic<Order>("orders/17", ({ json }) => json.total);
stream.removeTopic("orders/17");
stream.topic("orders/18");
stream.off("order", (event: StreamEvent<Order>) => void event);

// States.
const end: () => void = stream.subscribe((state: State) => {
  if (state.phase === "waiting") void new Date(state.retryAt ?? 0);
  // @ts-expect-error: there is no such phase
  if (state.phase === "reconnecting") return;
  // @ts-expect-error: a state cannot be changed
  state.attempt = 0;
});
const isLive: boolean = stream.state.caughtUp && !stream.state.stale;
const bytes: number = stream.stats.bytes;
// @ts-expect-error: counters cannot be changed
stream.stats.bytes = 0;

async function loop() {
  for await (const event of stream) void (event satisfies StreamEvent);
  using closing = open("/events");
  void closing.lastEventId;
}

// Options.
const tabs: Tabs = share("user 17");
open("/events", {
  share: tabs,
  headers: async ({ number, signal }) => ({ authorization: `${number}${signal.aborted}` }),
  backoff: { base: 500 },
  onRefused: ({ status }) => (status === 403 ? "stop" : status === 418 ? 60_000 : undefined),
  onGap: async (gap: Gap) => gap.topics,
  onTopicRefused: (topic, why) => console.warn(topic, why),
});
open("/events", { onRefused: async () => "again" as const });
open("/events", { onRefused: () => {} });
open("/events", { method: "POST", body: () => JSON.stringify({}) });
// @ts-expect-error: there is no such verdict
open("/events", { onRefused: () => "maybe" });
// @ts-expect-error: there is no such option
open("/events", { timeout: 5 });
// @ts-expect-error: the options are those of the public interface
open("/events", { env: globalThis });
// @ts-expect-error: tabs come from share
open("/events", { share: "user 17" });

// The parser.
const feed: (text: string) => void = parser({
  event: (type, data, id) => void [type satisfies string, data satisfies string, id satisfies string | undefined],
  retry: (ms) => ms.toFixed(),
});
// @ts-expect-error: there has to be somebody for events
parser({});

void [off, undo, end, isLive, bytes, loop, feed];
