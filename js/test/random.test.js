/**
 * Random worlds: whatever happens to pages, the network and the server, each numbered event comes once and in order to every tab that
 * lives, and the tabs that share have one stream.
 *
 * A failure prints the seed: TOWER_SSE_SEED=17 runs that world alone. TOWER_SSE_WORLDS sets the number of worlds.
 */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Page, World } from "./world.js";

const STEPS = 500;
const WORLDS = Number(process.env.TOWER_SSE_WORLDS ?? 200);
const SEED = process.env.TOWER_SSE_SEED;
const TOPICS = ["t0", "t1", "t2"];

/** A tab, and the check of what it gets. */
class Tab {
  #topics = new Map();
  /** The next number of each topic that the tab wants. */
  #next = new Map();
  /** Topics of which the next event may be any later one. */
  #gaps = new Set();
  /** Topics that were wanted before: events of that time may come before the start. */
  #again = new Set();

  constructor(world, options) {
    this.world = world;
    this.page = new Page(world, { hidden: world.random() < 0.3 });
    const share = options.shares && this.page.share("user 17");
    this.stream = this.page.open("/events", { ...options, topics: ["a", "b"], share, onGap: (gap) => this.#gap(gap) });
    for (const topic of ["a", "b"]) this.#next.set(topic, undefined);
    this.stream.on("*", (event) => this.#check(event));
    this.options = options;
  }

  #gap({ topics }) {
    for (const topic of topics) this.#gaps.add(topic);
    if (this.options.holds) return new Promise((resolve) => this.page.post(this.world.int(20_000), resolve));
  }

  #check({ json, id, topic = json.topic }) {
    assert.ok(this.options.server?.isTyped || topic === json.topic || this.options.server?.asArrays);
    // An event may still come when nobody wants its topic any more.
    if (!this.#next.has(topic)) return;
    const next = this.#next.get(topic);
    const isStart = next !== undefined && json.n !== next && this.#again.delete(topic);
    const isAfterGap = this.#gaps.delete(topic) && json.n > next;
    assert.ok(next === undefined || json.n === next || isStart || isAfterGap, `${topic}: ${json.n} came instead of ${next} (${id})`);
    this.#next.set(topic, json.n + 1);
  }

  want(topic) {
    if (this.#topics.has(topic)) return;
    // Events that do not say their topic cannot be told apart from those of its start.
    if (!this.options.server?.isTyped) this.#next.set(topic, undefined);
    this.#topics.set(topic, this.stream.topic(topic));
  }

  unwant(topic) {
    this.#topics.get(topic)?.();
    if (this.#topics.delete(topic)) this.#next.delete(topic);
    this.#again.add(topic);
  }

  /** After all is well again. */
  checkAll() {
    const { server } = this.world;
    for (const [topic, next] of this.#next) {
      const { count } = server.topic(topic);
      // Only an open stream can give the start of a topic that is added.
      const isStarted = !this.options.losesStarts || !this.#topics.has(topic);
      assert.equal(next ?? (count && isStarted ? "nothing" : count + 1), count + 1, `${topic} has ${count}`);
    }
    assert.ok(this.stream.state.caughtUp, JSON.stringify(this.stream.state));
  }
}

/** One thing that happens. */
function happen(world, tabs, options) {
  const { server } = world;
  const tab = world.pick(tabs);
  const page = tab?.page;
  const stream = server.streams.length && world.pick(server.streams);
  const actions = {
    publish: [30, () => server.publish(world.pick(["a", "b", ...TOPICS]))],
    burst: [5, () => numbers(world.int(30)).forEach(() => server.publish(world.pick(["a", "b", ...TOPICS])))],
    cut: [6, () => stream && server.cut(stream)],
    end: [3, () => stream && server.end(stream, world.random() < 0.5 ? "retry: 2000\n\n" : "")],
    stall: [2, () => stream && (stream.pipe.send = () => {})],
    restart: [1, () => server.streams.forEach((it) => server.cut(it))],
    down: [1, () => (server.isDown = true)],
    up: [3, () => (server.isDown = false)],
    busy: [1, () => (server.refuse = () => ({ status: 503, headers: { "retry-after": "3" } }))],
    free: [3, () => Object.assign(server, { refuse: undefined, isDeaf: false })],
    deaf: [1, () => (server.isDeaf = true)],
    clock: [1, () => (world.skew = world.pick([0, -3_600_000, 3_600_000]))],
    forget: [options.forgets ? 1 : 0, () => (server.hasForgotten = !server.hasForgotten)],
    open: [4, () => tabs.length < options.tabs && tabs.push(new Tab(world, options))],
    kill: [options.tabs > 1 ? 2 : 0, () => tab && (tabs.splice(tabs.indexOf(tab), 1), page.kill())],
    unload: [options.tabs > 1 ? 2 : 0, () => tab && (tabs.splice(tabs.indexOf(tab), 1), page.unload())],
    close: [options.tabs > 1 ? 1 : 0, () => tab && !page.isFrozen && (tabs.splice(tabs.indexOf(tab), 1), tab.stream.close(), page.unload())],
    hide: [4, () => page && !page.isFrozen && page.hide()],
    show: [6, () => page && (page.isFrozen && !tab.isAway && page.thaw(false), page.isFrozen || page.show())],
    freeze: [3, () => page && !page.isFrozen && page.freeze(world.random() < 0.5)],
    thaw: [6, () => page?.isFrozen && !tab.isAway && page.thaw(world.random() < 0.5)],
    leave: [2, () => page && !page.isFrozen && ((tab.isAway = true), page.leave())],
    back: [5, () => tab?.isAway && ((tab.isAway = false), page.comeBack())],
    network: [4, () => page && !page.isFrozen && page.dispatch(world.pick(["online", "offline", "focus"]))],
    mute: [options.mutes ? 1 : 0, () => page && (page.isMute = true)],
    clear: [3, () => page && (page.isMute = false)],
    reconnect: [1, () => page && !page.isFrozen && tab.stream.reconnect()],
    want: [8, () => page && !page.isFrozen && tab.want(world.pick(TOPICS))],
    unwant: [5, () => page && !page.isFrozen && tab.unwant(world.pick(TOPICS))],
  };
  const names = Object.keys(actions);
  let at = world.random() * names.reduce((sum, name) => sum + actions[name][0], 0);
  const name = names.find((name) => (at -= actions[name][0]) < 0);
  actions[name][1]();
  return name;
}

const numbers = (count) => Array.from({ length: count }, (_, at) => at);

/** All pages are shown and all networks are good. */
function heal(world, tabs) {
  const { server } = world;
  Object.assign(server, { isDown: false, isDeaf: false, refuse: undefined, hasForgotten: false });
  for (const tab of tabs) {
    const { page } = tab;
    page.isMute = false;
    if (tab.isAway) page.comeBack();
    else if (page.isFrozen) page.thaw(true);
    page.show();
    page.dispatch("online");
  }
}

async function live(seed, options) {
  const world = new World(seed);
  const { server } = world;
  const trace = [];
  const tabs = [new Tab(world, options)];
  Object.assign(server, options.server);
  try {
    for (let step = 0; step < STEPS; step++) {
      trace.push(`${world.now} ${happen(world, tabs, options)}`);
      await world.run(world.pick([0, 1, 10, 100, 1_000, 4_000]));
      if (world.errors.length) throw world.errors[0];
      if (options.shares || options.tabs === 1) assert.ok(server.mostStreams <= 1, `${server.mostStreams} streams at one time`);
    }
    heal(world, tabs);
    await world.run(60_000);
    server.publish("a");
    await world.run(180_000);
    if (world.errors.length) throw world.errors[0];
    for (const tab of tabs) tab.checkAll();
    if (options.shares && tabs.length && !options.mutes) assert.equal(server.streams.length, 1);
    for (const { page } of [...tabs]) page.unload();
    await world.run(1_000);
    assert.equal(server.connections.size, 0);
  } catch (error) {
    error.message = `seed ${seed}, after ${trace.length} steps: ${error.message}\n${trace.slice(-8).join("\n")}`;
    throw error;
  }
}

const kinds = {
  "one page": { tabs: 1 },
  "one page, arrays": { tabs: 1, server: { asArrays: true } },
  "one page, events that do not say their topic": { tabs: 1, server: { isTyped: true } },
  "one page, gaps that are repaired later": { tabs: 1, holds: true, server: { retain: 8 } },
  "one page, a server that cannot change topics": { tabs: 1, losesStarts: true, server: { control: "" } },
  "one page, several servers": { tabs: 1, losesStarts: true, forgets: true },
  "one page, networks that show no stream": { tabs: 1, losesStarts: true, mutes: true },
  "tabs that share": { tabs: 5, shares: true },
  "tabs that share, arrays": { tabs: 4, shares: true, server: { asArrays: true } },
  "tabs that share, and gaps": { tabs: 4, shares: true, server: { retain: 30 } },
  "tabs that share, several servers, networks that show no stream": { tabs: 4, shares: true, losesStarts: true, forgets: true, mutes: true },
};

for (const [name, options] of Object.entries(kinds)) {
  test(`each event once and in order: ${name}`, async () => {
    const first = SEED === undefined ? 1 : Number(SEED);
    const count = SEED === undefined ? Math.ceil(WORLDS / Object.keys(kinds).length) : 1;
    for (let seed = first; seed < first + count; seed++) await live(seed, options);
  });
}
