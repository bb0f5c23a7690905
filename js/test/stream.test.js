/** What a stream does, one contract a test, in a world with a clock of its own. */

import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";
import { Page, World, slow } from "./world.js";

/** A page with one stream, and what it has seen. */
function visit(options = {}, { world = new World(), ...pageOptions } = {}) {
  const page = new Page(world, pageOptions);
  const share = options.share && page.share(options.share);
  const stream = page.open("/events", { topics: ["a"], ...options, share });
  const seen = [];
  /** With their topics. */
  const named = [];
  const states = [];
  stream.on("*", ({ topic, type, json }) => (seen.push(json.n ?? type), named.push(`${topic ?? type}${json.n ?? ""}`)));
  stream.subscribe((state) => states.push(state));
  return { world, server: world.server, page, stream, seen, named, states, phases: () => unique(states.map(({ phase }) => phase)) };
}

const unique = (list) => list.filter((it, at) => it !== list[at - 1]);
const puts = (server) => server.requests.filter(({ method }) => method === "PUT");
const gets = (server) => server.requests.filter(({ method }) => method === "GET");
const pauses = (server) => gets(server).slice(1).map(({ at }, index) => at - gets(server)[index].at);
const publish = (server, topic, count) => Array.from({ length: count }, () => server.publish(topic));

// ---- Opening

test("a stream connects after the current task, and not if it is closed in it", async () => {
  const { world, server, page, stream, phases } = visit();
  page.open("/events").close();
  assert.equal(stream.state.phase, "idle");
  await world.run(100);
  assert.deepEqual(phases(), ["idle", "connecting", "open"]);
  assert.equal(server.requests.length, 1);
  assert.equal(server.requests[0].url.href, "https://shop.example/events?topic=a&hello=1");
  assert.equal(server.requests[0].headers.get("accept"), "text/event-stream");
});

test("the state is frozen, and the same object until it changes", async () => {
  const { world, server, stream, states } = visit();
  await world.run(100);
  assert.ok(Object.isFrozen(stream.state));
  const { state } = stream;
  publish(server, "a", 3);
  await world.run(100);
  assert.equal(stream.state, state);
  assert.equal(new Set(states).size, states.length);
});

test("a listener of the state is called at once, and not after it has ended", async () => {
  const { world, stream } = visit();
  const seen = [];
  const { subscribe } = stream;
  const end = subscribe(({ phase }) => seen.push(phase));
  end();
  await world.run(100);
  assert.deepEqual(seen, ["idle"]);
});

test("the stream has caught up when the server says so, and not before", async () => {
  const world = new World();
  publish(world.server, "a", 2);
  const { stream, seen, states } = visit({}, { world });
  await world.run(100);
  assert.deepEqual(seen, [2]);
  const open = states.filter(({ phase }) => phase === "open");
  assert.deepEqual(open.map(({ caughtUp }) => caughtUp).at(0), false);
  assert.ok(stream.state.caughtUp);
  world.server.cut(world.server.streams[0]);
  await world.run(50);
  assert.deepEqual([stream.state.phase, stream.state.caughtUp], ["waiting", false]);
});

test("a foreign server is open at its head if it is not asked for hello, and is then caught up", async () => {
  const world = new World();
  world.server.foreign = (pipe) => pipe.open({ "content-type": "text/event-stream; charset=utf-8" });
  const { stream } = visit({ hello: false }, { world });
  await world.run(100);
  assert.equal(world.server.requests[0].url.search, "?topic=a");
  assert.deepEqual([stream.state.phase, stream.state.caughtUp], ["open", true]);
});

test("a foreign server's own events named hello, live, gap, position and batch reach the page", async () => {
  const world = new World();
  const types = ["live", "hello", "gap", "position", "batch"];
  world.server.foreign = (pipe) => {
    pipe.open();
    for (const type of types) pipe.send(`event: ${type}\ndata: {}\n\n`);
  };
  const { seen } = visit({}, { world });
  await world.run(100);
  assert.deepEqual(seen, types);
});

// ---- Resuming

test("a cut before the first event loses nothing", async () => {
  const { world, server, seen } = visit();
  await world.run(100);
  server.cut(server.streams[0]);
  publish(server, "a", 2);
  await world.run(5_000);
  assert.deepEqual(seen, [1, 2]);
  assert.match(gets(server)[1].headers.get("last-event-id"), /-0-7k3m9p2xr$/);
});

test("across origins, the id is in the query, as a header would need a preflight", async () => {
  const { world, server, page, seen } = visit();
  page.env.location.origin = "https://other.example";
  await world.run(100);
  server.cut(server.streams[0]);
  publish(server, "a", 1);
  await world.run(5_000);
  assert.deepEqual(seen, [1]);
  const [, again] = gets(server);
  assert.equal(again.headers.get("last-event-id"), null);
  assert.match(again.url.searchParams.get("lastEventId"), /-0-7k3m9p2xr$/);
});

test("an id outside Latin-1 is sent as UTF-8", async () => {
  const { world, server } = visit({ lastEventId: "é€" });
  server.foreign = (pipe) => pipe.open();
  await world.run(100);
  const bytes = Uint8Array.from(gets(server)[0].headers.get("last-event-id"), (char) => char.charCodeAt(0));
  assert.equal(new TextDecoder().decode(bytes), "é€");
});

test("the last event id moves after the listeners have returned", async () => {
  const { world, server, stream } = visit();
  const before = [];
  stream.on("*", ({ id }) => before.push(stream.lastEventId !== id));
  await world.run(100);
  publish(server, "a", 2);
  await world.run(100);
  assert.deepEqual(before, [true, true]);
});

test("with a key, a reload resumes after the last event of the page before it", async () => {
  const storage = new Map();
  const { world, server, page, seen } = visit({ resume: "orders" }, { storage });
  await world.run(100);
  publish(server, "a", 2);
  await world.run(100);
  page.unload();
  publish(server, "a", 2);
  const next = visit({ resume: "orders" }, { world, storage });
  await world.run(100);
  assert.deepEqual([seen, next.seen], [[1, 2], [3, 4]]);
});

/** A stream with one array, whose entries have these ids. */
function withArray(ids) {
  const world = new World();
  world.server.foreign = (pipe) => {
    pipe.open();
    pipe.send('event: hello\ndata: {"v":1,"heartbeat":0,"topics":[]}\nid: 1\n\n');
    const entries = [{ topic: "x", event: "tick", data: { n: 1 } }, { topic: "y", data: "text" }, { data: null }];
    const array = entries.map((entry, at) => ({ ...entry, id: ids[at] }));
    pipe.send(`event: batch\ndata: ${JSON.stringify(array)}\nid: 4\n\n`);
  };
  return { world, stream: new Page(world).open("/events") };
}

test("a reload right after a topic was added gives no event of the other topics again", async () => {
  const storage = new Map();
  const first = visit({ resume: "orders" }, { storage });
  const { world, server, stream, page, named: seen } = first;
  await world.run(100);
  publish(server, "b", 1);
  publish(server, "a", 5);
  await world.run(100);
  // The last event of this topic is older than those of the other one.
  stream.topic("b");
  await world.run(1_000);
  assert.deepEqual(seen, ["a1", "a2", "a3", "a4", "a5", "b1"]);
  page.unload();
  const next = visit({ resume: "orders" }, { world, storage });
  await world.run(1_000);
  publish(server, "a", 1);
  await world.run(1_000);
  assert.deepEqual(next.named, ["a6"]);
});

test("after a reload, topics of the options continue, and those that the page adds start again", async () => {
  const storage = new Map();
  const options = { resume: "orders", topics: ["a"] };
  const first = visit(options, { storage });
  const { world, server } = first;
  first.stream.topic("b");
  await world.run(1_000);
  publish(server, "a", 2);
  publish(server, "b", 2);
  await world.run(1_000);
  assert.deepEqual(first.named, ["a1", "a2", "b1", "b2"]);
  first.page.unload();
  publish(server, "b", 1);
  publish(server, "a", 2);
  const next = visit(options, { world, storage });
  next.stream.topic("b");
  await world.run(1_000);
  assert.deepEqual(next.named, ["a3", "a4", "b3"]);
});

test("a topic that was beginning at a reload starts again as a whole, though the stream has it from the beginning", async () => {
  const storage = new Map();
  const options = { resume: "orders", topics: ["a"] };
  const first = visit(options, { storage });
  const { world, server, stream, page } = first;
  await world.run(100);
  publish(server, "b", 1);
  publish(server, "a", 5);
  await world.run(100);
  stream.topic("b");
  await world.run(1_000);
  assert.ok(stream.lastEventId.includes(";"));
  page.unload();
  const next = visit(options, { world, storage });
  next.stream.topic("b");
  await world.run(1_000);
  publish(server, "b", 1);
  await world.run(1_000);
  assert.deepEqual(next.named, ["b1", "b2"]);
});

test("a store that is full stops no page from leaving its stream", async () => {
  const { world, server, page } = visit({ resume: "orders" });
  await world.run(100);
  publish(server, "a", 1);
  await world.run(100);
  page.env.sessionStorage.setItem = () => {
    throw new DOMException("the quota has been exceeded", "QuotaExceededError");
  };
  // Listeners of events that throw are reported, and no more.
  try {
    page.leave();
  } catch {}
  await world.run(1_000);
  assert.equal(server.streams.length, 0);
});

test("a page that may not use its store has its events", async () => {
  const world = new World();
  const page = new Page(world);
  Object.defineProperty(page.env, "sessionStorage", {
    get: () => {
      throw new DOMException("access is denied for this document", "SecurityError");
    },
  });
  const stream = page.open("/events", { topics: ["a"], resume: "orders" });
  await world.run(1_000);
  assert.equal(stream.state.phase, "open");
});

test("the entries of an array are events with their own ids", async () => {
  const { world, stream } = withArray(["2", "3", "4"]);
  const events = [];
  stream.on("*", ({ type, topic, data, json, id }) => events.push({ type, topic, data, json, id, before: stream.lastEventId }));
  await world.run(100);
  assert.deepEqual(events, [
    { type: "tick", topic: "x", data: '{"n":1}', json: { n: 1 }, id: "2", before: "1" },
    { type: "message", topic: "y", data: "text", json: "text", id: "3", before: "2" },
    { type: "message", topic: undefined, data: "null", json: null, id: "4", before: "3" },
  ]);
  assert.deepEqual([stream.stats.events, stream.lastEventId], [3, "4"]);
});

test("an array whose entries have no ids could not be resumed, and stays one event", async () => {
  const { world, stream } = withArray([]);
  const events = [];
  stream.on("*", ({ type, json, id }) => events.push([type, json.length, id]));
  await world.run(100);
  assert.deepEqual(events, [["batch", 3, "4"]]);
});

// ---- Trying again

test("pauses grow with each failure up to the cap, with jitter", async () => {
  const { world, server, stream } = visit();
  server.isDown = true;
  await world.run(200_000);
  const taken = pauses(server);
  taken.slice(0, 8).forEach((pause, at) => {
    const most = Math.min(1_000 * 2 ** at, 30_000);
    assert.ok(pause >= 500 && pause <= 500 + most + 20, `${at}: ${pause}`);
  });
  assert.ok(Math.max(...taken) > 8_000);
  assert.equal(stream.state.attempt, taken.length + 1);
  assert.ok(stream.state.error instanceof TypeError);
});

test("what the server tells is the floor of each pause, also for a page that is looked at", async () => {
  for (const told of ["retry-after", "date", "retry"]) {
    const { world, server, page } = visit();
    const date = new Date(world.now + 21_000).toUTCString();
    server.refuse = () => ({ status: 503, headers: told === "retry" ? {} : { "retry-after": told === "date" ? date : "20" } });
    if (told === "retry") server.refuse = undefined;
    await world.run(100);
    if (told === "retry") server.end(server.streams[0], "retry: 20000\n\n");
    await world.run(10);
    for (let at = 0; at < 18; at++) {
      page.dispatch("online");
      page.show();
      await world.run(1_000);
    }
    assert.equal(server.requests.length, 1, told);
    await world.run(15_000);
    assert.ok(server.requests.length > 1, told);
  }
});

test("a server that ends each stream at once is not asked again and again", async () => {
  const { world, server } = visit();
  server.foreign = (pipe) => {
    pipe.open();
    pipe.end();
  };
  await world.run(60_000);
  assert.ok(gets(server).length < 12, `${gets(server).length}`);
});

test("after an event or ten seconds, a failure is the first one again", async () => {
  for (const reason of ["event", "age"]) {
    const { world, server, stream } = visit();
    server.isDown = true;
    await world.run(20_000);
    server.isDown = false;
    await world.run(30_000);
    const failures = stream.state.attempt;
    if (reason === "event") publish(server, "a", 1);
    else await world.run(30_000);
    await world.run(100);
    assert.equal(stream.state.attempt, 0, `${reason}, after ${failures}`);
  }
});

test("a page that is looked at, or online again, tries at once", async () => {
  for (const sign of ["online", "focus", "pageshow", "show"]) {
    const { world, server, page, stream } = visit();
    server.isDown = true;
    await world.run(100_000);
    while (!(stream.state.retryAt - world.now > 5_000)) await world.run(100);
    server.isDown = false;
    sign === "show" ? page.show() : page.dispatch(sign);
    await world.run(350);
    assert.equal(stream.state.phase, "open", sign);
  }
});

test("by default a stream never gives up, and with a limit it does", async () => {
  const { world, server, stream } = visit({ retries: 3 });
  const other = visit({}, { world });
  server.isDown = true;
  await world.run(3_600_000);
  assert.deepEqual([stream.state.phase, stream.state.why], ["closed", "gave up"]);
  assert.equal(other.stream.state.phase === "closed", false);
});

test("each status means what it says", async () => {
  const outcomes = { 204: "ended", 400: "refused", 403: "refused", 404: "refused", 410: "refused", 200: "refused", 301: "refused" };
  for (const status of [204, 200, 301, 400, 403, 404, 410, 408, 425, 429, 500, 502, 503]) {
    const { world, server, stream } = visit();
    server.refuse = () => ({ status, headers: { "content-type": "text/html" } });
    await world.run(30_000);
    assert.equal(stream.state.why, outcomes[status], `${status}`);
    assert.equal(server.requests.length > 1, !outcomes[status], `${status}`);
  }
});

test("a head that breaks off is a lost connection, though Chromium takes it for a whole one", async () => {
  for (const [status, headers] of [[200, {}], [200, { "content-type": "text/ev" }], [2, {}], [40, {}]]) {
    const { world, server, stream } = visit();
    server.refuse = () => ({ status, headers, text: "" });
    await world.run(100);
    server.refuse = undefined;
    await world.run(5_000);
    assert.equal(stream.state.phase, "open");
  }
});

test("a 401 is asked once more with fresh headers, for each stream", async () => {
  let token = 0;
  const { world, server, stream } = visit({ headers: async () => ({ authorization: `Bearer ${++token}` }) });
  server.refuse = ({ headers }) => headers.get("authorization") === "Bearer 1" && { status: 401 };
  await world.run(1_000);
  assert.equal(stream.state.phase, "open");
  server.refuse = () => ({ status: 401 });
  server.cut(server.streams[0]);
  await world.run(10_000);
  assert.deepEqual([stream.state.why, token], ["refused", 4]);
});

test("the page decides what a refusal means", async () => {
  const answers = [];
  const verdicts = ["again", 7_000, Promise.resolve("again"), "stop"];
  const { world, server, stream } = visit({
    onRefused(answer) {
      answers.push({ ...answer, headers: answer.headers.get("x-why") });
      return verdicts.shift();
    },
  });
  server.refuse = () => ({ status: 404, headers: { "x-why": "gone" }, text: "x".repeat(2_000) });
  await world.run(60_000);
  assert.deepEqual(answers[0], { status: 404, text: "x".repeat(1_000), headers: "gone", attempt: 1 });
  assert.deepEqual(answers.map(({ attempt }) => attempt), [1, 2, 3, 4]);
  assert.ok(pauses(server)[1] >= 7_000);
  assert.deepEqual([stream.state.why, stream.state.error.message], ["refused", "the server says 404"]);
});

test("a POST is repeated only if its body is made anew", async () => {
  for (const body of ["{}", () => "{}"]) {
    const { world, server, stream } = visit({ method: "POST", body });
    await world.run(100);
    assert.equal(server.requests[0].body, "{}");
    server.cut(server.streams[0]);
    await world.run(10_000);
    assert.equal(stream.state.why, typeof body === "string" ? "gave up" : undefined);
  }
});

test("a POST that ends has ended", async () => {
  const { world, server, stream } = visit({ method: "POST", body: "{}" });
  await world.run(100);
  server.end(server.streams[0]);
  await world.run(10_000);
  assert.equal(stream.state.why, "ended");
});

test("an event that is too large closes the stream: the next attempt would meet it again", async () => {
  const { world, server, stream } = visit({ maxEvent: 1_000 });
  await world.run(100);
  server.streams[0].pipe.send(`data: ${"x".repeat(1_000)}`);
  await world.run(100);
  assert.deepEqual([stream.state.phase, stream.state.why], ["closed", "too large"]);
});

// ---- Silence

test("a stream that is silent for three heartbeats is dead, and one with heartbeats lives", async () => {
  const { world, server, stream } = visit();
  await world.run(600_000);
  assert.equal(gets(server).length, 1);
  server.isSilent = true;
  await world.run(29_000);
  assert.equal(stream.state.phase, "open");
  await world.run(17_000);
  assert.equal(gets(server).length, 2);
});

test("the server's heartbeat sets the limit, and 0 turns it off", async () => {
  for (const [heartbeat, count] of [[2_000, 2], [0, 1]]) {
    const { world, server } = visit();
    server.heartbeat = heartbeat;
    server.isSilent = true;
    await world.run(7_500);
    assert.equal(gets(server).length, count, `${heartbeat}`);
  }
});

test("a server with a short heartbeat may be silent for five seconds", async () => {
  const { world, server } = visit();
  server.heartbeat = 100;
  server.isSilent = true;
  await world.run(4_900);
  assert.equal(gets(server).length, 1);
  await world.run(2_600);
  assert.equal(gets(server).length, 2);
});

test("a stream that stops within its first event is replaced after the connect time limit, and the client polls after two of them", async () => {
  const hello = 'event: hello\ndata: {"v":1,"heartbeat":15000,"topics":["a"]}\nid: 1\n\n';
  const world = new World();
  world.server.foreign = (pipe, { url }) => {
    pipe.open();
    if (!url.searchParams.has("wait")) return pipe.send(hello.slice(0, 30));
    pipe.send(hello);
    pipe.end();
  };
  const { server, stream, phases } = visit({}, { world });
  await world.run(14_900);
  assert.deepEqual([gets(server).length, phases()], [1, ["idle", "connecting"]]);
  await world.run(3_000);
  assert.deepEqual([gets(server).length, stream.state.phase], [2, "connecting"]);
  await world.run(17_000);
  assert.deepEqual([stream.state.phase, stream.state.transport], ["open", "poll"]);
});

test("a first event may take longer than the connect time limit, as long as it comes", async () => {
  const world = new World();
  let pipe;
  world.server.foreign = (its) => ((pipe = its), its.open());
  const { server, stream, seen } = visit({}, { world });
  for (let at = 0; at < 10; at++) {
    await world.run(10_000);
    pipe.send(at ? "data:\n" : "data: [\n");
  }
  pipe.send("data: ]\n\n");
  await world.run(100);
  assert.deepEqual([gets(server).length, stream.state.phase, seen], [1, "open", ["message"]]);
});

test("bytes that waited while the page could not run are read before the stream is judged", async () => {
  const { world, server, page, seen } = visit();
  await world.run(14_000);
  page.freeze(false);
  await world.run(14_000);
  publish(server, "a", 1);
  await world.run(60_000);
  page.thaw(false);
  await world.run(10);
  assert.deepEqual(seen, [1]);
  assert.equal(gets(server).length, 1);
});

test("on wake, a stream that was silent for more than half of the limit is replaced, and another one is left", async () => {
  const { world, server, page } = visit();
  await world.run(10_000);
  page.dispatch("focus");
  await world.run(1_000);
  assert.equal(gets(server).length, 1);
  server.isSilent = true;
  await world.run(25_000);
  page.dispatch("focus");
  await world.run(1_000);
  assert.equal(gets(server).length, 2);
});

test("a clock that is set back keeps no page from its server", async () => {
  const { world, server, page, stream, named: seen } = visit();
  publish(server, "a", 1);
  await world.run(1_000);
  // The time came from the network after the page was opened.
  world.skew = -3_600_000;
  server.cut(server.streams[0]);
  publish(server, "a", 1);
  await world.run(120_000);
  stream.reconnect();
  page.dispatch("online");
  await world.run(60_000);
  assert.deepEqual([stream.state.phase, seen], ["open", ["a1", "a2"]]);
});

test("a stream that is dead is replaced, also if the clock is set back", async () => {
  const { world, server, page, named: seen } = visit();
  publish(server, "a", 1);
  await world.run(1_000);
  world.skew = -3_600_000;
  server.streams[0].pipe.send = () => {};
  publish(server, "a", 1);
  await world.run(600_000);
  assert.deepEqual(seen, ["a1", "a2"]);
});

test("offline, one missed heartbeat is enough", async () => {
  const { world, server, page } = visit();
  await world.run(16_000);
  server.isSilent = true;
  page.dispatch("offline");
  await world.run(18_000);
  assert.equal(gets(server).length, 2);
});

// ---- Networks that show no stream

test("after two streams that show nothing, the client polls, and misses nothing", async () => {
  const { world, server, page, stream, seen } = visit();
  page.isMute = true;
  await world.run(10_000);
  publish(server, "a", 1);
  await world.run(30_000);
  assert.deepEqual(seen, [1]);
  assert.deepEqual([stream.state.phase, stream.state.transport, stream.state.caughtUp], ["open", "poll", true]);
  publish(server, "a", 1);
  await world.run(1_000);
  assert.deepEqual(seen, [1, 2]);
  // For the page, the stream is open all the time.
  await world.run(120_000);
  assert.equal(stream.stats.errors, 2);
});

test("polls wait at the server, and are apart from each other", async () => {
  const { world, server } = visit({ poll: "always" });
  await world.run(250_000);
  const waits = gets(server).map(({ url }) => url.searchParams.get("wait"));
  assert.deepEqual(unique(waits), ["0", "25"]);
  assert.ok(waits.length <= 12, `${waits.length}`);
  for (let at = 0; at < 100; at++) {
    publish(server, "a", 1);
    await world.run(10);
  }
  assert.ok(gets(server).length <= waits.length + 8);
});

test("a page that polls gets what it missed through a slow network", async () => {
  const { world, server, page, named: seen } = visit({ poll: "always" });
  await world.run(1_000);
  publish(server, "a", 1);
  await world.run(1_000);
  page.leave();
  publish(server, "a", 5_000);
  slow(server, 20_000);
  page.comeBack();
  await world.run(600_000);
  assert.equal(seen.length, 5_001);
});

test("a network that shows streams again is used for streams again", async () => {
  for (const sign of ["online", "time"]) {
    const { world, page, stream, seen, server } = visit();
    page.isMute = true;
    await world.run(60_000);
    assert.equal(stream.state.transport, "poll");
    page.isMute = false;
    if (sign === "online") page.dispatch("online");
    await world.run(sign === "online" ? 30_000 : 640_000);
    assert.deepEqual([stream.state.transport, stream.state.phase], ["stream", "open"], sign);
    publish(server, "a", 2);
    await world.run(100);
    assert.deepEqual(seen, [1, 2]);
  }
});

test("after a time without any answer, the client goes on with a stream", async () => {
  const world = new World();
  const page = new Page(world);
  let isLost = true;
  const fetch = async (url, init) => {
    while (isLost) {
      await new Promise((resolve) => page.env.setTimeout(resolve, 100));
      init.signal.throwIfAborted();
    }
    return page.env.fetch(url, init);
  };
  const stream = page.open("/events", { topics: ["a"], fetch });
  await world.run(42_000);
  assert.equal(stream.state.transport, "poll");
  await world.run(13_000);
  isLost = false;
  await world.run(20_000);
  assert.deepEqual([stream.state.transport, stream.state.phase], ["stream", "open"]);
});

test("a quiet foreign server is no network that shows nothing", async () => {
  const world = new World();
  world.server.foreign = (pipe) => pipe.open();
  const { stream } = visit({ hello: false, silence: 0 }, { world });
  await world.run(300_000);
  assert.deepEqual([stream.state.transport, gets(world.server).length], ["stream", 1]);
});

test("polls never, if the page says so", async () => {
  const { world, page, stream } = visit({ poll: "never" });
  page.isMute = true;
  await world.run(300_000);
  assert.equal(stream.state.transport, "stream");
});

test("a runtime without response streams polls", async () => {
  const world = new World();
  const page = new Page(world);
  const fetch = async (url, init) => Object.assign(await page.env.fetch(url, init), { body: null });
  const stream = page.open("/events", { topics: ["a"], fetch });
  const seen = [];
  stream.on("a", ({ json }) => seen.push(json.n));
  await world.run(5_000);
  publish(world.server, "a", 1);
  await world.run(5_000);
  assert.deepEqual([seen, stream.state.transport], [[1], "poll"]);
});

// ---- Parked

test("a page that is left has no stream, and resumes when it is back", async () => {
  for (const [leave, back] of [["leave", "comeBack"], ["freeze", "thaw"]]) {
    const { world, server, page, stream, seen } = visit();
    await world.run(100);
    page[leave](true);
    assert.equal(server.connections.size, 0, leave);
    publish(server, "a", 2);
    await world.run(60_000);
    page[back](true);
    await world.run(1_000);
    assert.deepEqual([seen, stream.state.phase], [[1, 2], "open"], leave);
  }
});

test("a hidden page keeps its stream, unless it is told to park", async () => {
  for (const [hidden, phase] of [[undefined, "open"], ["keep", "open"], [5_000, "parked"]]) {
    const { world, server, page, stream, seen } = visit({ hidden });
    await world.run(100);
    page.hide();
    await world.run(4_000);
    assert.equal(stream.state.phase, "open");
    await world.run(3_000);
    assert.equal(stream.state.phase, phase);
    publish(server, "a", 1);
    page.show();
    await world.run(1_000);
    assert.deepEqual(seen, [1]);
  }
});

test("a page that is shown again in time is not parked", async () => {
  const { world, server, page } = visit({ hidden: 5_000 });
  await world.run(100);
  page.hide();
  await world.run(3_000);
  page.show();
  await world.run(10_000);
  assert.equal(gets(server).length, 1);
});

test("a lazy stream connects for its first listener, and is parked a second after the last", async () => {
  const world = new World();
  const page = new Page(world);
  const stream = page.open("/events", { topics: ["a"], lazy: true });
  stream.subscribe(() => {});
  await world.run(10_000);
  assert.deepEqual([stream.state.phase, world.server.requests.length], ["idle", 0]);
  const off = stream.on("a", () => {});
  await world.run(100);
  assert.equal(stream.state.phase, "open");
  off();
  const again = stream.topic("b");
  await world.run(5_000);
  assert.equal(stream.state.phase, "open");
  again();
  await world.run(900);
  assert.equal(stream.state.phase, "open");
  await world.run(200);
  assert.deepEqual([stream.state.phase, world.server.connections.size], ["parked", 0]);
});

test("reconnect opens a new stream at once, whatever the reason to wait", async () => {
  const { world, server, page, stream } = visit({ hidden: 0 });
  await world.run(1_000);
  stream.reconnect();
  await world.run(100);
  assert.deepEqual([gets(server).length, server.streams.length], [2, 1]);
  page.hide();
  await world.run(2_000);
  assert.equal(stream.state.phase, "parked");
  stream.reconnect();
  // A hidden page gets its timers once a second.
  await world.run(5_000);
  assert.equal(server.streams.length, 1);
});

test("close ends everything for good", async () => {
  const { world, server, page, stream, seen } = visit();
  await world.run(100);
  stream.close();
  assert.equal(server.connections.size, 0);
  page.dispatch("online");
  page.dispatch("pageshow");
  stream.reconnect();
  publish(server, "a", 1);
  await world.run(60_000);
  assert.deepEqual([stream.state.phase, stream.state.why, seen, server.requests.length], ["closed", "closed", [], 1]);
});

test("a signal closes the stream, and one that is aborted already opens none", async () => {
  const abort = new AbortController();
  const { world, server, stream } = visit({ signal: abort.signal });
  await world.run(100);
  abort.abort();
  assert.deepEqual([stream.state.phase, server.connections.size], ["closed", 0]);
  const other = visit({ signal: abort.signal }, { world });
  await world.run(100);
  assert.deepEqual([other.stream.state.phase, server.requests.length], ["closed", 1]);
});

test("a closing in the middle of a piece is the end of it for the page", async () => {
  const { world, server, stream } = visit();
  const seen = [];
  stream.on("a", ({ json }) => {
    seen.push(json.n);
    if (json.n === 2) stream.close();
  });
  await world.run(100);
  server.streams[0].pipe.send([1, 2, 3].map((n) => `event: a\ndata: {"n":${n}}\n\n`).join(""));
  await world.run(100);
  assert.deepEqual(seen, [1, 2]);
});

// ---- Listeners

test("listeners hear their type, and those of all hear all", async () => {
  const { world, server, stream } = visit({ topics: ["a", "b"] });
  const seen = [];
  const a = ({ type }) => seen.push(`a:${type}`);
  const off = stream.on("a", a);
  stream.on("b", ({ type }) => seen.push(`b:${type}`));
  await world.run(100);
  server.publish("a");
  server.publish("b");
  await world.run(100);
  off();
  server.publish("a");
  await world.run(100);
  stream.on("a", a);
  stream.off("a", a);
  server.publish("a");
  await world.run(100);
  assert.deepEqual(seen, ["a:a", "b:b"]);
});

test("a signal ends a listener", async () => {
  const { world, server, stream } = visit();
  const abort = new AbortController();
  let count = 0;
  stream.on("a", () => count++, { signal: abort.signal });
  await world.run(100);
  publish(server, "a", 1);
  await world.run(100);
  abort.abort();
  publish(server, "a", 1);
  await world.run(100);
  assert.equal(count, 1);
});

test("a listener that throws is reported, and ends nothing", async () => {
  const { world, server, stream, seen } = visit();
  const broken = new Error("the page is broken");
  stream.on("a", () => {
    throw broken;
  });
  stream.on("a", async () => {
    throw broken;
  });
  await world.run(100);
  publish(server, "a", 1);
  await world.run(100);
  assert.deepEqual([seen, world.errors, stream.state.phase], [[1], [broken, broken], "open"]);
});

test("JSON is parsed when it is asked for, and text that is none throws then", async () => {
  const world = new World();
  world.server.foreign = (pipe) => {
    pipe.open();
    pipe.send("data: no json\n\n");
  };
  const page = new Page(world);
  const stream = page.open("/events");
  const seen = [];
  stream.on("message", (event) => {
    assert.throws(() => event.json, SyntaxError);
    seen.push(event.data);
  });
  await world.run(100);
  assert.deepEqual(seen, ["no json"]);
});

test("an iterator has each event, and ends with the stream", async () => {
  const { world, server, stream } = visit();
  const seen = [];
  const loop = (async () => {
    for await (const { json } of stream) seen.push(json.n);
    return "over";
  })();
  await world.run(100);
  publish(server, "a", 5);
  await world.run(100);
  server.refuse = () => ({ status: 204 });
  server.end(server.streams[0], "event: a\ndata: {\"n\":6}\n\n");
  await world.run(10_000);
  assert.deepEqual([seen, await loop], [[1, 2, 3, 4, 5, 6], "over"]);
});

test("a slow iterator holds the stream: nothing more is read, nothing is lost, and the page is not judged silent", async () => {
  const { world, server, stream, page } = visit();
  const seen = [];
  void (async () => {
    for await (const { json } of stream) {
      seen.push(json.n);
      await new Promise((resolve) => page.env.setTimeout(resolve, 50));
    }
  })();
  await world.run(100);
  for (let at = 0; at < 30; at++) {
    publish(server, "a", 100);
    await world.run(1_000);
  }
  assert.ok(stream.stats.events < 2_800, `${stream.stats.events} events wait in the page`);
  const id = stream.lastEventId;
  await world.run(50);
  assert.notEqual(stream.lastEventId, id);
  await world.run(200_000);
  assert.deepEqual(seen, Array.from({ length: 3_000 }, (_, at) => at + 1));
  assert.equal(gets(server).length, 1);
});

test("a loop that is left leaves the stream as it is", async () => {
  const { world, server, stream, seen } = visit();
  const first = (async () => {
    for await (const { json } of stream) return json.n;
  })();
  await world.run(100);
  publish(server, "a", 3);
  await world.run(100);
  assert.deepEqual([await first, seen], [1, [1, 2, 3]]);
});

test("an event can be kept where frameworks keep things", async () => {
  const { world, server, stream } = visit();
  const all = [];
  // As Vue does with what is in a ref: the getters run with the proxy as `this`.
  const reactive = (target) => new Proxy(target, { get: (target, key, receiver) => Reflect.get(target, key, receiver) });
  stream.on("a", (event) => all.push(reactive(event)));
  await world.run(100);
  publish(server, "a", 1);
  await world.run(100);
  assert.equal(all[0].json.n, 1);
});

test("a listener that is off leaves nothing at the signal of its page", () => {
  const { stream } = visit();
  const { signal } = new AbortController();
  const before = getEventListeners(signal, "abort").length;
  for (let at = 0; at < 100; at++) stream.on("a", () => {}, { signal })();
  assert.equal(getEventListeners(signal, "abort").length, before);
});

test("an iterator that waits can be ended", async () => {
  const { world, stream } = visit();
  await world.run(100);
  const iterator = stream[Symbol.asyncIterator]();
  void iterator.next();
  let isOver = false;
  void iterator.return().then(() => (isOver = true));
  await world.run(60_000);
  assert.ok(isOver);
});

// ---- Gaps

test("after a gap, what follows waits until the page has loaded its state again", async () => {
  let repair;
  const gaps = [];
  const onGap = (gap) => {
    gaps.push(gap);
    return new Promise((resolve) => (repair = resolve));
  };
  const { world, server, stream, seen } = visit({ onGap });
  server.retain = 3;
  await world.run(100);
  publish(server, "a", 1);
  await world.run(100);
  const { lastEventId } = stream;
  server.cut(server.streams[0]);
  publish(server, "a", 10);
  await world.run(5_000);
  assert.deepEqual(gaps, [{ topics: ["a"], after: lastEventId }]);
  assert.deepEqual([seen, stream.lastEventId], [[1], lastEventId]);
  assert.deepEqual([stream.state.stale, stream.state.caughtUp, stream.state.resumed], [true, false, "gap"]);
  repair();
  await world.run(100);
  assert.deepEqual([seen, stream.state.stale, stream.state.caughtUp], [[1, 9, 10, 11], false, true]);
});

test("a gap that the page does not repair leaves it stale", async () => {
  for (const onGap of [undefined, () => Promise.reject(new Error("no snapshot"))]) {
    const { world, server, stream, seen } = visit({ onGap });
    server.retain = 1;
    await world.run(100);
    server.cut(server.streams[0]);
    publish(server, "a", 3);
    await world.run(5_000);
    assert.deepEqual([stream.state.stale, seen], [true, [3]]);
    assert.equal(world.errors.length, onGap ? 1 : 0);
  }
});

test("a page that repairs a gap is not live before it has what came meanwhile", async () => {
  const world = new World();
  const { server } = world;
  const wrong = [];
  let had = 0;
  const holds = () => new Promise((resolve) => page.env.setTimeout(resolve, 10_000));
  const { page, stream } = visit({ onGap: holds }, { world });
  stream.on("a", ({ json }) => (had = json.n));
  stream.subscribe(({ caughtUp }) => {
    const { count } = server.topic("a");
    if (caughtUp && had < count) wrong.push(`live with ${had} of ${count}`);
  });
  server.retain = 5_000;
  publish(server, "a", 1);
  await world.run(100);
  server.retain = 2;
  server.cut(server.streams[0]);
  publish(server, "a", 10);
  await world.run(3_000);
  assert.ok(stream.state.stale);
  // While the page loads its state, the network breaks once more.
  server.retain = 5_000;
  server.cut(server.streams[0]);
  publish(server, "a", 3_000);
  await world.run(60_000);
  assert.equal(had, 3_011);
  assert.deepEqual(wrong, []);
});

test("a gap whose repair failed is repaired at the next connection", async () => {
  let count = 0;
  // The network is hardly back, so the first request of the page fails.
  const onGap = async () => {
    if (++count === 1) throw new TypeError("network error");
  };
  const { world, server, stream } = visit({ onGap });
  server.retain = 2;
  publish(server, "a", 1);
  await world.run(1_000);
  server.cut(server.streams[0]);
  publish(server, "a", 10);
  await world.run(60_000);
  stream.reconnect();
  await world.run(60_000);
  assert.deepEqual([count, stream.state.stale], [2, false]);
});

// ---- Topics

test("a topic is added to the open stream, and removed by its last listener", async () => {
  const { world, server, stream } = visit();
  publish(server, "b", 3);
  await world.run(100);
  const seen = [];
  const off = stream.topic("b", ({ json, topic }) => seen.push([topic, json.n]));
  const other = stream.topic("b");
  await world.run(100);
  publish(server, "b", 1);
  await world.run(100);
  assert.deepEqual(seen, [["b", 3], ["b", 4]]);
  other();
  other();
  publish(server, "b", 1);
  await world.run(100);
  assert.equal(seen.length, 3);
  off();
  await world.run(100);
  assert.deepEqual([...server.streams[0].topics.keys()], ["a"]);
  assert.equal(gets(server).length, 1);
});

test("changes in one go are one request with the full set", async () => {
  const { world, server, stream } = visit();
  await world.run(100);
  const off = ["b", "c", "d"].map((topic) => stream.topic(topic));
  off[1]();
  await world.run(100);
  const puts = server.requests.filter(({ method }) => method === "PUT");
  assert.deepEqual(puts.map(({ body }) => JSON.parse(body).topics), [["a", "b", "d"]]);
  assert.equal(puts[0].url.href, "https://shop.example/topics");
});

test("the topics before the first connection are in its query", async () => {
  const { world, server, stream } = visit();
  stream.topic("b");
  await world.run(100);
  assert.deepEqual(server.requests.map(({ url }) => url.search), ["?topic=a&topic=b&hello=1"]);
});

test("added topics survive a cut, and one whose start did not come is started again", async () => {
  const { world, server, stream } = visit();
  publish(server, "b", 2);
  await world.run(100);
  const seen = [];
  stream.topic("b", ({ json }) => seen.push(json.n));
  await world.run(0);
  server.cut(server.streams[0]);
  await world.run(5_000);
  publish(server, "b", 1);
  await world.run(100);
  server.cut(server.streams[0]);
  publish(server, "b", 1);
  await world.run(5_000);
  assert.deepEqual(seen, [2, 3, 4]);
  assert.deepEqual(gets(server).map(({ url }) => url.searchParams.getAll("topic").join()), ["a", "a", "a,b"]);
});

test("a topic of the options is removed when it is taken back, unless something else wants it", async () => {
  const { world, server, stream } = visit({ topics: ["a", "b"] });
  await world.run(100);
  const topics = () => [...server.streams[0].topics.keys()].join();
  const off = stream.topic("b");
  stream.removeTopic("b");
  stream.removeTopic("b");
  stream.removeTopic("x");
  await world.run(1_000);
  assert.equal(topics(), "a,b");
  off();
  stream.removeTopic("b");
  await world.run(1_000);
  assert.equal(topics(), "a");
  stream.removeTopic("a");
  await world.run(1_000);
  assert.equal(topics(), "");
  assert.equal(stream.state.phase, "open");
});

test("a topic without events has started too: after a cut, all of its events come", async () => {
  const { world, server, stream } = visit();
  await world.run(100);
  const seen = [];
  stream.topic("b", ({ json }) => seen.push(json.n));
  await world.run(100);
  publish(server, "a", 1);
  await world.run(100);
  server.cut(server.streams[0]);
  publish(server, "b", 3);
  await world.run(5_000);
  assert.deepEqual(seen, [1, 2, 3]);
});

test("a topic that the server refuses is told, and not asked for again with each stream", async () => {
  const refused = [];
  const { world, server, stream } = visit({ onTopicRefused: (...all) => refused.push(all) });
  await world.run(100);
  stream.topic("secret/1");
  await world.run(100);
  server.cut(server.streams[0]);
  await world.run(5_000);
  assert.equal(stream.state.phase, "open");
  assert.deepEqual(refused[0], ["secret/1", "not yours"]);
  assert.ok(gets(server).every(({ url }) => !url.search.includes("secret")));
});

test("a refused topic that is left and wanted again is asked for again, and the page stays live", async () => {
  const refused = [];
  const { world, stream } = visit({ onTopicRefused: (topic) => refused.push(topic) });
  await world.run(100);
  const off = stream.topic("secret/1");
  await world.run(100);
  assert.deepEqual([refused, stream.state.caughtUp], [["secret/1"], true]);
  // As a framework does when it shows a part of a page anew.
  off();
  stream.topic("secret/1");
  await world.run(100);
  assert.deepEqual([refused, stream.state.caughtUp], [["secret/1", "secret/1"], true]);
});

test("a stream that the server does not know is replaced, and the next one has all topics in its query", async () => {
  const { world, server, stream } = visit();
  await world.run(1_000);
  server.hasForgotten = true;
  stream.topic("b");
  await world.run(2_000);
  assert.deepEqual(gets(server).map(({ url }) => url.searchParams.getAll("topic").join()), ["a", "a", "a,b"]);
  // From then on, there is no stream in between.
  stream.topic("c");
  await world.run(2_000);
  assert.deepEqual(gets(server).map(({ url }) => url.searchParams.getAll("topic").join()).slice(3), ["a,b,c"]);
});

test("a request for topics that fails is sent again on the same stream", async () => {
  const { world, server, stream } = visit();
  await world.run(1_000);
  const [connection] = server.streams;
  server.isDown = true;
  stream.topic("b");
  await world.run(1_000);
  server.isDown = false;
  await world.run(5_000);
  assert.equal(server.streams[0], connection);
  assert.deepEqual([...connection.topics.keys()], ["a", "b"]);
});

test("without a control, changed topics open another stream, not more often than four times a second", async () => {
  const { world, server, stream } = visit();
  server.control = "";
  await world.run(1_000);
  for (let at = 0; at < 20; at++) {
    stream.topic(`t${at}`);
    await world.run(50);
  }
  await world.run(1_000);
  assert.equal(server.streams[0].topics.size, 21);
  assert.ok(Math.min(...pauses(server)) >= 249, `${Math.min(...pauses(server))}`);
});

test("headers are made anew for each request, that for topics included", async () => {
  let count = 0;
  const { world, server, stream } = visit({ headers: () => ({ "x-token": `${++count}` }) });
  await world.run(100);
  stream.topic("b");
  await world.run(100);
  publish(server, "b", 1);
  await world.run(100);
  server.cut(server.streams[0]);
  await world.run(5_000);
  assert.deepEqual(server.requests.map(({ headers }) => headers.get("x-token")), ["1", "2", "3"]);
});

test("a token that expires on the way to the topics is renewed once, and then the topics are refused", async () => {
  let token = 0;
  const refused = [];
  const headers = async () => ({ authorization: `Bearer ${++token}` });
  const { world, server, stream } = visit({ headers, onTopicRefused: (topic) => refused.push(topic) });
  server.refuse = ({ headers }) => headers.get("authorization") === "Bearer 2" && { status: 401 };
  await world.run(1_000);
  stream.topic("b");
  await world.run(1_000);
  assert.deepEqual([[...server.streams[0].topics.keys()], refused], [["a", "b"], []]);
  server.refuse = ({ method }) => method === "PUT" && { status: 401 };
  stream.topic("c");
  await world.run(10_000);
  assert.deepEqual([refused, token], [["c"], 5]);
});

test("a token that cannot be had is a failure like others", async () => {
  let fails = true;
  const headers = async () => {
    if (fails) throw new Error("the token server is down");
    return {};
  };
  const { world, stream } = visit({ headers });
  await world.run(1_000);
  assert.equal(stream.state.phase, "waiting");
  fails = false;
  await world.run(10_000);
  assert.equal(stream.state.phase, "open");
});

test("a service for topics that asks for a pause gets one", async () => {
  const { world, server, stream } = visit();
  await world.run(1_000);
  server.refuse = ({ method }) => method === "PUT" && { status: 503, headers: { "retry-after": "30" } };
  stream.topic("b");
  await world.run(60_000);
  assert.ok(puts(server).length <= 3, `${puts(server).length} requests in a minute`);
});

test("a service for topics that fails is asked ever less", async () => {
  const { world, server, stream } = visit();
  await world.run(1_000);
  server.refuse = ({ method }) => method === "PUT" && { status: 500 };
  stream.topic("b");
  await world.run(600_000);
  assert.ok(puts(server).length <= 60, `${puts(server).length} requests in ten minutes`);
});

test("a page is not live while the stream lacks a topic that it wants", async () => {
  const { world, server, stream, named: seen } = visit();
  await world.run(1_000);
  server.refuse = ({ method }) => method === "PUT" && { status: 503 };
  stream.topic("b");
  publish(server, "b", 3);
  await world.run(60_000);
  assert.deepEqual(seen, []);
  assert.equal(stream.state.caughtUp, false);
});

test("a request for topics that is never answered is given up, and sent again", async () => {
  const { world, server, stream, named } = visit();
  await world.run(1_000);
  server.isDeaf = true;
  stream.topic("b");
  await world.run(10_000);
  server.isDeaf = false;
  await world.run(120_000);
  publish(server, "b", 1);
  await world.run(1_000);
  assert.equal(puts(server).length, 2);
  assert.deepEqual(named, ["b1"]);
});

test("a token for a request for topics that never comes does not hold all later topics", async () => {
  let hangs = false;
  const headers = () => (hangs ? new Promise(() => {}) : {});
  const { world, server, stream, named: seen } = visit({ headers });
  await world.run(1_000);
  hangs = true;
  stream.topic("b");
  await world.run(10_000);
  hangs = false;
  // Not even another stream helps.
  server.cut(server.streams[0]);
  await world.run(10_000);
  stream.topic("c");
  await world.run(120_000);
  publish(server, "b", 1);
  publish(server, "c", 1);
  await world.run(1_000);
  assert.deepEqual(seen, ["b1", "c1"]);
});

test("after a cut, a stream is not asked for topics that nobody wants any more", async () => {
  const { world, server, stream } = visit();
  publish(server, "a", 1);
  await world.run(1_000);
  // A person looks at one order after another, each with its last event.
  for (let at = 0; at < 300; at++) publish(server, `order/${at}`, 1);
  publish(server, "a", 1);
  await world.run(1_000);
  let off;
  for (let at = 0; at < 300; at++) {
    const next = stream.topic(`order/${at}`);
    off?.();
    off = next;
    await world.run(1_000);
  }
  server.cut(server.streams[0]);
  await world.run(5_000);
  const { url } = gets(server).at(-1);
  assert.ok(url.searchParams.getAll("topic").length <= 2, `${url.searchParams.getAll("topic").length} topics, an address of ${url.href.length} characters`);
});

test("a topic that was refused for a time loses nothing at a later cut", async () => {
  const { world, server, stream, named: seen } = visit();
  await world.run(1_000);
  // The session has expired, and the person logs in again in another tab.
  server.refuse = ({ method }) => method === "PUT" && { status: 403 };
  stream.topic("b");
  await world.run(1_000);
  server.refuse = undefined;
  stream.topic("c");
  await world.run(1_000);
  publish(server, "b", 2);
  await world.run(1_000);
  assert.deepEqual(seen, ["b1", "b2"]);
  server.cut(server.streams[0]);
  publish(server, "b", 3);
  await world.run(10_000);
  assert.ok(stream.state.caughtUp);
  assert.deepEqual(seen, ["b1", "b2", "b3", "b4", "b5"]);
});

/** How long a page takes for the same events of 20 topics, with these ids. */
async function timeOf(idOf) {
  const world = new World();
  const topics = Array.from({ length: 20 }, (_, at) => `t${at}`);
  world.server.foreign = (pipe) => {
    pipe.open();
    pipe.send(`event: hello\ndata: {"v":1,"heartbeat":0,"topics":${JSON.stringify(topics)}}\nid: ${idOf(0)}\n\n`);
    const numbers = Array.from({ length: 4_000 }, (_, at) => at + 1);
    pipe.send(numbers.map((n) => `event: t${n % 20}\ndata: {"n":${n}}\nid: ${idOf(n)}\n\n`).join(""));
  };
  let count = 0;
  new Page(world).open("/events", { topics }).on("*", () => count++);
  const before = performance.now();
  await world.run(1_000);
  assert.equal(count, 4_000);
  return performance.now() - before;
}

test("the history of a topic costs a page about as much as other events", async () => {
  const idOf = (n) => `${2_000_000 + n}-0-7k3m9p2xr`;
  await timeOf(idOf);
  const plain = await timeOf(idOf);
  const late = await timeOf((n) => `9000000-0-7k3m9p2xr;${2_000_000 + n}-0;*`);
  assert.ok(late < 10 * plain, `${Math.round(late)} ms instead of ${Math.round(plain)} ms`);
});
