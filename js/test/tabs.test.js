/** One stream for all tabs. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Page, World, slow } from "./world.js";

function tab(world, { name = "user 17", topics = ["a"], ...options } = {}, pageOptions) {
  const page = new Page(world, pageOptions);
  const tabs = page.share(name);
  const stream = page.open("/events", { topics, share: tabs, ...options });
  const seen = [];
  /** With their topics. */
  const named = [];
  const states = [];
  stream.subscribe((state) => states.push(state));
  stream.on("*", ({ topic, type, json }) => named.push(`${topic ?? type}${json.n}`));
  stream.on("*", ({ topic, json }) => seen.push(topics.length > 1 || topic !== "a" ? `${topic}${json.n}` : json.n));
  return { page, stream, seen, named, states, tabs };
}

/** So many tabs, opened one after the other. */
async function open(count, options) {
  const world = new World();
  const tabs = [];
  for (let at = 0; at < count; at++) {
    tabs.push(tab(world, options));
    await world.run(100);
  }
  return { world, server: world.server, tabs, leader: tabs[0] };
}

const publish = (server, topic, count) => Array.from({ length: count }, () => server.publish(topic));
const asks = (server) => server.requests.filter(({ url }) => url.searchParams.get("wait") === "0");
const roles = (tabs) => tabs.map(({ stream }) => stream.state.role);

test("eight tabs have one stream, and all have each event", async () => {
  const { world, server, tabs } = await open(8);
  publish(server, "a", 10);
  await world.run(1_000);
  publish(server, "a", 10);
  await world.run(1_000);
  for (const { seen, stream } of tabs) {
    assert.deepEqual(seen, Array.from({ length: 20 }, (_, at) => at + 1));
    assert.ok(stream.state.caughtUp);
  }
  assert.deepEqual([server.streams.length, server.mostStreams], [1, 1]);
  assert.deepEqual(roles(tabs), ["leader", ...Array(7).fill("follower")]);
  assert.deepEqual(tabs.map(({ stream }) => stream.state.phase), ["open", ...Array(7).fill("following")]);
});

test("a tab that is new asks for its own start, and then hardly for more", async () => {
  const { world, server, tabs } = await open(1);
  publish(server, "a", 3);
  const late = tab(world);
  await world.run(100);
  assert.deepEqual([tabs[0].seen, late.seen], [[1, 2, 3], [3]]);
  publish(server, "a", 1);
  await world.run(1_000);
  publish(server, "a", 100);
  await world.run(60_000);
  assert.equal(late.seen.length, 102);
  assert.ok(asks(server).length <= 2, `${asks(server).length}`);
});

test("a topic that starts in a tab that is behind is given once, also in arrays", async () => {
  const { world, server, tabs } = await open(2, { topics: ["a", "b"] });
  server.asArrays = true;
  publish(server, "a", 1);
  await world.run(1_000);
  publish(server, "t", 5);
  publish(server, "a", 1);
  tabs[1].stream.topic("t");
  await world.run(5_000);
  publish(server, "t", 1);
  await world.run(5_000);
  assert.deepEqual(tabs[1].seen, ["a1", "t5", "a2", "t6"]);
});

test("when the leader is left, closed or killed, another tab goes on, and no event is lost", async () => {
  for (const end of ["unload", "kill", "leave", "close"]) {
    const { world, server, tabs, leader } = await open(3);
    publish(server, "a", 2);
    await world.run(100);
    end === "close" ? leader.stream.close() : leader.page[end]();
    publish(server, "a", 2);
    await world.run(2_000);
    publish(server, "a", 1);
    await world.run(1_000);
    for (const { seen } of tabs.slice(1)) assert.deepEqual(seen, [1, 2, 3, 4, 5], end);
    assert.deepEqual([server.streams.length, server.mostStreams], [1, 1], end);
  }
});

test("the stream of a leader that is frozen without a word is taken over, and the leader follows when it is back", async () => {
  const { world, server, tabs, leader } = await open(3);
  publish(server, "a", 1);
  await world.run(100);
  leader.page.freeze(false);
  publish(server, "a", 1);
  await world.run(20_000);
  publish(server, "a", 1);
  await world.run(1_000);
  for (const { seen } of tabs.slice(1)) assert.deepEqual(seen, [1, 2, 3]);
  leader.page.thaw(false);
  await world.run(10_000);
  publish(server, "a", 1);
  await world.run(1_000);
  for (const { seen } of tabs) assert.deepEqual(seen, [1, 2, 3, 4]);
  assert.equal(leader.stream.state.role, "follower");
  assert.equal(server.streams.length, 1);
});

test("a leader whose page takes nothing hands the stream over by its silence", async () => {
  const { world, server, tabs, leader } = await open(2);
  void (async () => {
    for await (const _ of leader.stream) await new Promise(() => {});
  })();
  for (let at = 0; at < 20; at++) {
    publish(server, "a", 100);
    await world.run(1_000);
  }
  await world.run(30_000);
  assert.deepEqual(roles(tabs), ["follower", "leader"]);
  assert.deepEqual(tabs[1].seen, Array.from({ length: 2_000 }, (_, at) => at + 1));
});

test("a hidden tab takes nothing over, and a tab that is shown does so at once", async () => {
  const { world, server, tabs, leader } = await open(2);
  const [, other] = tabs;
  other.page.hide();
  leader.page.freeze(false);
  await world.run(60_000);
  assert.equal(other.stream.state.role, "follower");
  publish(server, "a", 1);
  other.page.show();
  await world.run(3_000);
  assert.deepEqual([other.stream.state.role, other.seen], ["leader", [1]]);
});

test("a leader that lives keeps the stream, whoever is shown or asks", async () => {
  const { world, server, tabs, leader } = await open(3);
  leader.page.hide();
  for (let at = 0; at < 20; at++) {
    tabs[1].page.show();
    tabs[2].page.dispatch("focus");
    tabs[2].stream.reconnect();
    await world.run(5_000);
  }
  assert.equal(leader.stream.state.role, "leader");
  assert.equal(server.requests.filter(({ url }) => !url.searchParams.has("wait")).length, 1);
});

test("a follower that was frozen has what it missed when it is back", async () => {
  for (const isTold of [true, false]) {
    const { world, server, tabs } = await open(2);
    publish(server, "a", 1);
    await world.run(100);
    tabs[1].page.freeze(isTold);
    publish(server, "a", 50);
    await world.run(120_000);
    publish(server, "a", 50);
    tabs[1].page.thaw(isTold);
    await world.run(10_000);
    assert.deepEqual(tabs[1].seen, tabs[0].seen);
    assert.equal(tabs[1].seen.length, 101);
  }
});

test("two users have two streams, and nothing of each other", async () => {
  const world = new World();
  const mine = tab(world, { name: "user 1", topics: ["a"] });
  const other = tab(world, { name: "user 2", topics: ["b"] });
  await world.run(100);
  publish(world.server, "a", 2);
  await world.run(100);
  assert.deepEqual([mine.seen, other.seen, world.server.streams.length], [[1, 2], [], 2]);
});

test("the stream has the topics of all tabs, and each tab gets its own", async () => {
  const { world, server, tabs } = await open(3);
  publish(server, "x", 5);
  publish(server, "y", 5);
  const [first, second, third] = tabs;
  second.stream.topic("x");
  await world.run(1_000);
  third.stream.topic("x");
  const off = third.stream.topic("y");
  first.stream.topic("y");
  await world.run(1_000);
  assert.deepEqual([...server.streams[0].topics.keys()].sort(), ["a", "x", "y"]);
  publish(server, "x", 1);
  publish(server, "y", 1);
  publish(server, "a", 1);
  await world.run(1_000);
  // Each has the start of its topics: the last event.
  assert.deepEqual(first.seen, ["y5", "y6", 1]);
  assert.deepEqual(second.seen, ["x5", "x6", 1]);
  assert.deepEqual([...third.seen].sort(), [1, "x5", "x6", "y5", "y6"]);
  off();
  second.page.kill();
  await world.run(20_000);
  assert.deepEqual([...server.streams[0].topics.keys()].sort(), ["a", "x", "y"]);
  third.page.unload();
  await world.run(1_000);
  assert.deepEqual([...server.streams[0].topics.keys()].sort(), ["a", "y"]);
});

test("the start of a topic comes to each tab that wants it, whoever else has it already", async () => {
  for (const wanting of [0, 1, 2]) {
    const { world, server, tabs } = await open(3);
    publish(server, "x", 3);
    tabs[(wanting + 1) % 3].stream.topic("x");
    await world.run(1_000);
    tabs[wanting].stream.topic("x");
    await world.run(1_000);
    publish(server, "x", 1);
    await world.run(1_000);
    assert.deepEqual(tabs[wanting].seen, ["x3", "x4"]);
    assert.deepEqual(tabs[(wanting + 1) % 3].seen, ["x3", "x4"]);
  }
});

test("the topics of a tab that was killed leave the stream", async () => {
  const { world, server, tabs } = await open(2);
  tabs[1].stream.topic("x");
  await world.run(1_000);
  tabs[1].page.kill();
  await world.run(25_000);
  assert.deepEqual([...server.streams[0].topics.keys()], ["a"]);
});

test("a follower is told of a gap, and repairs it itself", async () => {
  const gaps = [];
  const { world, server, tabs } = await open(2, { onGap: (gap) => gaps.push(gap.topics.join()) });
  server.retain = 2;
  publish(server, "a", 1);
  await world.run(100);
  server.cut(server.streams[0]);
  publish(server, "a", 10);
  await world.run(5_000);
  assert.deepEqual(gaps, ["a", "a"]);
  for (const { seen } of tabs) assert.deepEqual(seen, [1, 10, 11]);
});

test("a follower has not caught up while the leader has not", async () => {
  const { world, server, tabs } = await open(2);
  assert.ok(tabs[1].stream.state.caughtUp);
  server.isDown = true;
  server.cut(server.streams[0]);
  await world.run(1_000);
  assert.equal(tabs[1].stream.state.caughtUp, false);
  server.isDown = false;
  await world.run(5_000);
  assert.ok(tabs[1].stream.state.caughtUp);
});

test("while the server refuses, the followers ask nothing", async () => {
  const { world, server } = await open(8);
  server.refuse = () => ({ status: 503, headers: { "retry-after": "30" } });
  server.cut(server.streams[0]);
  const before = server.requests.length;
  // Also those that have reason to.
  tab(world);
  tab(world).stream.topic("b");
  await world.run(30_000);
  assert.ok(server.requests.length - before <= 2, `${server.requests.length - before}`);
});

test("a logout closes the streams of all tabs", async () => {
  const { world, server, tabs } = await open(3);
  tabs[1].tabs.close();
  await world.run(100);
  for (const { stream } of tabs) assert.equal(stream.state.phase, "closed");
  assert.equal(server.connections.size, 0);
});

test("a logout closes the streams of the page on plain http too", async () => {
  const world = new World();
  const tabs = [1, 2].map(() => tab(world, {}, { isSecure: false }));
  await world.run(1_000);
  tabs[0].tabs.close();
  await world.run(1_000);
  assert.equal(tabs[0].stream.state.phase, "closed", "the own stream of the page");
  assert.deepEqual(tabs.map(({ stream }) => stream.state.phase), ["closed", "closed"]);
});

test("a logout closes the streams of pages that are parked", async () => {
  const world = new World();
  const first = tab(world);
  const other = tab(world, { hidden: 5_000 });
  await world.run(1_000);
  other.page.hide();
  await world.run(10_000);
  assert.equal(other.stream.state.phase, "parked");
  first.tabs.close();
  await world.run(1_000);
  other.page.show();
  await world.run(1_000);
  assert.deepEqual([other.stream.state.phase, world.server.connections.size], ["closed", 0]);
});

test("a page that logs out while its own stream is parked has no stream later", async () => {
  const world = new World();
  const page = new Page(world);
  const tabs = page.share("user 17");
  const stream = page.open("/events", { topics: ["a"], share: tabs, lazy: true });
  const off = stream.on("a", () => {});
  await world.run(1_000);
  off();
  await world.run(3_000);
  assert.equal(stream.state.phase, "parked");
  tabs.close();
  stream.on("a", () => {});
  await world.run(1_000);
  assert.deepEqual([stream.state.phase, world.server.streams.length], ["closed", 0]);
});

test("close closes the stream of its tab alone", async () => {
  const { world, server, tabs } = await open(2);
  tabs[1].stream.close();
  publish(server, "a", 1);
  await world.run(1_000);
  assert.deepEqual([tabs[0].seen, tabs[1].seen], [[1], []]);
});

test("on plain http, each visible tab has its stream, and a hidden one is parked after five seconds", async () => {
  const world = new World();
  const tabs = [1, 2].map(() => tab(world, {}, { isSecure: false }));
  await world.run(100);
  assert.deepEqual(roles(tabs), ["alone", "alone"]);
  assert.equal(world.server.streams.length, 2);
  tabs[0].page.hide();
  await world.run(7_000);
  assert.deepEqual([tabs[0].stream.state.phase, world.server.streams.length], ["parked", 1]);
  publish(world.server, "a", 2);
  tabs[0].page.show();
  await world.run(1_000);
  for (const { seen } of tabs) assert.deepEqual(seen, [1, 2]);
});

test("a tab that may not use locks has a stream of its own", async () => {
  const world = new World();
  const page = new Page(world);
  page.env.navigator.locks.request = async () => {
    throw new DOMException("not here", "SecurityError");
  };
  const stream = page.open("/events", { topics: ["a"], share: page.share("user 17") });
  await world.run(1_000);
  assert.deepEqual([stream.state.phase, stream.state.role], ["open", "alone"]);
});

test("two streams of one page that share are as two tabs", async () => {
  const world = new World();
  const page = new Page(world);
  const share = page.share("user 17");
  const seen = [0, 1].map(() => {
    const mine = [];
    page.open("/events", { topics: ["a"], share }).on("a", ({ json }) => mine.push(json.n));
    return mine;
  });
  await world.run(100);
  publish(world.server, "a", 2);
  await world.run(100);
  assert.deepEqual([seen, world.server.streams.length], [[[1, 2], [1, 2]], 1]);
});

test("tabs that share poll together in a network that shows no stream", async () => {
  const world = new World();
  const tabs = [1, 2, 3].map(() => tab(world));
  for (const { page } of tabs) page.isMute = true;
  await world.run(40_000);
  publish(world.server, "a", 2);
  await world.run(1_000);
  for (const { seen } of tabs) assert.deepEqual(seen, [1, 2]);
  assert.equal([...world.server.connections].filter(({ wait }) => wait === 25).length, 1);
});

test("the light of a tab that follows does not go out with each poll of the leader", async () => {
  const world = new World();
  const tabs = [1, 2].map(() => tab(world, { poll: "always" }));
  await world.run(10_000);
  const [, follower] = tabs;
  assert.equal(follower.stream.state.role, "follower");
  assert.ok(follower.stream.state.caughtUp);
  const before = follower.states.length;
  for (let at = 0; at < 20; at++) {
    publish(world.server, "a", 1);
    await world.run(3_000);
  }
  const dark = follower.states.slice(before).filter(({ caughtUp }) => !caughtUp);
  assert.equal(follower.named.length, 20);
  assert.equal(dark.length, 0, `not live ${dark.length} times in a minute`);
});

test("a tab that came back is not told by what it began before it was away", async () => {
  const world = new World();
  const { server } = world;
  const leader = tab(world);
  await world.run(1_000);
  const other = tab(world);
  await world.run(2_000);
  assert.equal(other.stream.state.role, "follower");
  // It asks for the start of a topic, while the person goes back and forward.
  other.stream.topic("b");
  await world.run(3);
  other.page.leave();
  leader.page.unload();
  await world.run(50);
  other.page.comeBack();
  await world.run(10_000);
  assert.deepEqual([other.stream.state.role, other.stream.state.phase], ["leader", "open"]);
  assert.ok(other.stream.state.caughtUp, "it is not live, though its stream is open and it has everything");
});

test("tabs that share the stream of another server all have its events", async () => {
  const world = new World();
  const { server } = world;
  const pipes = new Set();
  server.foreign = (pipe) => {
    pipe.open();
    pipes.add(pipe);
  };
  const tabs = [1, 2].map(() => tab(world, { hello: false, topics: [] }));
  await world.run(1_000);
  for (let n = 1; n <= 20; n++) {
    for (const pipe of pipes) if (pipe.isOpen) pipe.send(`event: a\nid: ${n}\ndata: {"n":${n}}\n\n`);
    await world.run(3_000);
  }
  assert.equal(tabs[0].named.length, 20);
  assert.equal(tabs[1].named.length, 20);
});

test("tabs that share the stream of a server without long polls all have its events", async () => {
  const world = new World();
  const { server } = world;
  const { fetch } = server;
  server.fetch = function (page, address, init) {
    const url = new URL(address);
    url.searchParams.delete("wait");
    return fetch.call(this, page, url.href, init);
  };
  const tabs = [1, 2].map(() => tab(world));
  await world.run(1_000);
  publish(server, "a", 3);
  await world.run(120_000);
  for (const { named, stream } of tabs) assert.deepEqual([named, stream.state.caughtUp], [["a1", "a2", "a3"], true]);
});

test("a tab whose token does not come for once has its events later", async () => {
  const world = new World();
  const { server } = world;
  tab(world);
  await world.run(1_000);
  publish(server, "a", 1);
  let hangs = true;
  const other = tab(world, { headers: () => (hangs ? new Promise(() => {}) : {}) });
  await world.run(1_000);
  hangs = false;
  await world.run(120_000);
  publish(server, "a", 1);
  await world.run(10_000);
  assert.deepEqual(other.named.at(-1), "a2");
  assert.ok(other.stream.state.caughtUp);
});

test("a tab that the server refuses what it missed asks ever less", async () => {
  const world = new World();
  const { server } = world;
  tab(world);
  await world.run(1_000);
  server.refuse = ({ url }) => url.searchParams.has("wait") && { status: 403 };
  tab(world);
  for (let at = 0; at < 600; at++) {
    publish(server, "a", 1);
    await world.run(1_000);
  }
  assert.ok(asks(server).length <= 60, `${asks(server).length} requests in ten minutes`);
});

test("a tab that missed a lot gets it through a slow network", async () => {
  const world = new World();
  const { server } = world;
  tab(world);
  const other = tab(world);
  await world.run(1_000);
  other.page.leave();
  publish(server, "a", 5_000);
  slow(server, 20_000);
  other.page.comeBack();
  await world.run(600_000);
  assert.equal(other.named.length, 5_000);
  assert.ok(other.stream.state.caughtUp);
});

test("a tab whose topic was refused for a time loses nothing at a later cut", async () => {
  const world = new World();
  const { server } = world;
  const [leader, other] = [1, 2].map(() => tab(world));
  await world.run(1_000);
  server.refuse = ({ method }) => method === "PUT" && { status: 403 };
  other.stream.topic("b");
  await world.run(1_000);
  server.refuse = undefined;
  leader.stream.topic("c");
  await world.run(1_000);
  publish(server, "b", 2);
  await world.run(1_000);
  assert.deepEqual(other.named, ["b1", "b2"]);
  server.cut(server.streams[0]);
  publish(server, "b", 3);
  await world.run(10_000);
  publish(server, "b", 1);
  await world.run(10_000);
  assert.ok(other.stream.state.caughtUp);
  assert.deepEqual(other.named, ["b1", "b2", "b3", "b4", "b5", "b6"]);
});

test("the tab that wants a topic is told that the server does not give it", async () => {
  const world = new World();
  const told = [[], []];
  const tabs = told.map((list) => tab(world, { onTopicRefused: (topic) => list.push(topic) }));
  await world.run(1_000);
  const [leader, follower] = tabs;
  assert.deepEqual([leader.stream.state.role, follower.stream.state.role], ["leader", "follower"]);
  follower.stream.topic("secret/1");
  await world.run(10_000);
  assert.deepEqual(told, [[], ["secret/1"]]);
});
