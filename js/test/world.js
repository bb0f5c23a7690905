/**
 * A world with a clock of its own: pages, their tabs, locks and channels, a network, and a server that speaks the wire of tower-sse.
 *
 * Nothing in it waits for real time. The same seed gives the same world.
 */

import { setMaxListeners } from "node:events";
import { readFileSync } from "node:fs";

const file = new URL("../tower-sse.js", import.meta.url);
const globals = ["globalThis", "setTimeout", "clearTimeout", "Date", "Math", "fetch", "location", "navigator", "BroadcastChannel", "performance"];
/** Runs the module with other globals. Each page has its own module, as in a browser. */
const runModule = new Function(...globals, `"use strict";${readFileSync(file, "utf8").replace(/^export /gm, "")}\nreturn { open, share };`);

const START = 1_763_612_000_000;

export class World {
  now = START;
  /** By how much the clock of the machine is wrong. */
  skew = 0;
  pages = [];
  errors = [];
  #tasks = [];
  #order = 0;
  #locks = new Map();
  #channels = new Map();
  #stored = new Map();
  #random;

  constructor(seed = 1) {
    this.#random = seed >>> 0;
    this.server = new Server(this);
  }

  /** mulberry32 */
  random() {
    this.#random = (this.#random + 0x6d2b79f5) | 0;
    let t = Math.imul(this.#random ^ (this.#random >>> 15), 1 | this.#random);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  int(below) {
    return Math.floor(this.random() * below);
  }

  pick(list) {
    return list[this.int(list.length)];
  }

  /** Runs a task later. Tasks for the same time keep their order. */
  post(ms, run) {
    const task = { at: this.now + Math.max(ms, 0), order: this.#order++, run };
    const tasks = this.#tasks;
    let low = 0;
    for (let high = tasks.length; low < high; ) {
      const middle = (low + high) >> 1;
      if (tasks[middle].at > task.at) low = middle + 1;
      else high = middle;
    }
    tasks.splice(low, 0, task);
    return task;
  }

  cancel(task) {
    if (task) task.run = undefined;
  }

  /** Lets the given time pass. */
  async run(ms) {
    const until = this.now + ms;
    await settled();
    for (let task; (task = this.#tasks.at(-1)) && task.at <= until; ) {
      this.#tasks.pop();
      if (!task.run) continue;
      this.now = Math.max(this.now, task.at);
      task.run();
      await settled();
    }
    this.now = until;
  }

  // ---- Web Locks

  request(page, name, options, callback) {
    const lock = this.#lock(name);
    return new Promise((resolve, reject) => {
      const request = { page, callback, resolve, reject };
      const refuse = () => page.post(0, () => reject(new DOMException("the request is over", "AbortError")));
      if (options.signal?.aborted) return refuse();
      options.signal?.addEventListener("abort", () => {
        if (!lock.queue.includes(request)) return;
        lock.queue.splice(lock.queue.indexOf(request), 1);
        refuse();
      });
      if (options.steal) {
        const { holder } = lock;
        const refuse = () => holder.reject(new DOMException("the lock is stolen", "AbortError"));
        // The word that a lock is lost may come later than a message of the tab that has it.
        const late = this.random() < 0.5 ? 0 : 50;
        holder?.page.post(0, () => holder.page.post(late, refuse));
        this.#grant(lock, request);
      } else {
        lock.queue.push(request);
        this.#next(lock);
      }
    });
  }

  #lock(name) {
    if (!this.#locks.has(name)) this.#locks.set(name, { holder: undefined, queue: [] });
    return this.#locks.get(name);
  }

  #grant(lock, request) {
    lock.holder = request;
    request.page.post(0, async () => {
      const result = await request.callback();
      if (lock.holder !== request) return;
      this.#release(lock);
      request.resolve(result);
    });
  }

  #release(lock) {
    lock.holder = undefined;
    this.#next(lock);
  }

  #next(lock) {
    if (!lock.holder && lock.queue.length) this.#grant(lock, lock.queue.shift());
  }

  /** What the browser does when a page is gone. */
  forget(page) {
    for (const lock of this.#locks.values()) {
      lock.queue = lock.queue.filter((request) => request.page !== page);
      if (lock.holder?.page === page) this.#release(lock);
    }
    for (const channels of this.#channels.values()) {
      for (const channel of [...channels]) if (channel.page === page) channels.delete(channel);
    }
  }

  // ---- BroadcastChannel

  channel(page, name) {
    if (!this.#channels.has(name)) this.#channels.set(name, new Set());
    const all = this.#channels.get(name);
    const channel = {
      page,
      onmessage: undefined,
      postMessage(message) {
        const data = structuredClone(message);
        for (const other of all) if (other !== channel) other.page.post(1, () => all.has(other) && other.onmessage?.({ data }));
      },
      close: () => void all.delete(channel),
    };
    all.add(channel);
    return channel;
  }

  // ---- localStorage

  /** All pages have the same one. The others are told of a change. */
  storage(page) {
    const tell = () => {
      for (const other of this.pages) if (other !== page) other.post(1, () => other.dispatch("storage"));
    };
    return store(this.#stored, tell);
  }
}

const store = (map, changed = () => {}) => ({
  getItem: (key) => map.get(key) ?? null,
  setItem: (key, value) => (map.set(key, value), changed()),
  removeItem: (key) => map.delete(key) && changed(),
});

/** All microtasks are done. */
const settled = () => new Promise(setImmediate);

/** A tab with one page. */
export class Page {
  isFrozen = false;
  isGone = false;
  isMute = false;
  #pending = [];
  #events = new EventTarget();

  constructor(world, { isSecure = true, storage = new Map(), hidden = false } = {}) {
    this.world = world;
    this.storage = storage;
    world.pages.push(this);
    this.document = Object.assign(new EventTarget(), { hidden, baseURI: "https://shop.example/page" });
    const events = this.#events;
    const locks = { request: (name, options, callback) => world.request(this, name, options, callback) };
    const page = this;
    function BroadcastChannel(name) {
      return world.channel(page, name);
    }
    const env = {
      // A hidden page gets its timers once a second.
      setTimeout: (act, ms = 0) => this.post(this.document.hidden ? Math.max(ms, 1_000) : ms, act),
      clearTimeout: (task) => world.cancel(task),
      Date: { now: () => world.now + world.skew, parse: Date.parse },
      performance: { now: () => world.now - START },
      Math: Object.assign(Object.create(Math), { random: () => world.random() }),
      fetch: (url, init) => world.server.fetch(this, url, init),
      location: { origin: "https://shop.example", href: "https://shop.example/page" },
      navigator: isSecure ? { locks } : {},
      BroadcastChannel,
      document: this.document,
      addEventListener: events.addEventListener.bind(events),
      sessionStorage: store(storage),
      localStorage: world.storage(this),
      reportError: (error) => world.errors.push(error),
    };
    this.env = env;
    Object.assign(this, runModule(env, ...globals.slice(1).map((name) => env[name])));
  }

  get isAlive() {
    return !this.isGone && !this.isFrozen;
  }

  post(ms, act) {
    const task = this.world.post(ms, () => this.#do(task, act));
    return task;
  }

  #do(task, act) {
    if (this.isGone || !task.run) return;
    if (this.isFrozen) this.#pending.push([task, act]);
    else act();
  }

  dispatch(type) {
    this.#events.dispatchEvent(new Event(type));
  }

  hide() {
    this.document.hidden = true;
    this.document.dispatchEvent(new Event("visibilitychange"));
  }

  show() {
    this.document.hidden = false;
    this.document.dispatchEvent(new Event("visibilitychange"));
  }

  /** The browser stops the page. `isTold`: with an event before. */
  freeze(isTold) {
    if (isTold) this.document.dispatchEvent(new Event("freeze"));
    this.isFrozen = true;
  }

  thaw(isTold) {
    this.isFrozen = false;
    const pending = this.#pending;
    this.#pending = [];
    for (const [task, act] of pending) this.world.post(0, () => this.#do(task, act));
    if (isTold) this.document.dispatchEvent(new Event("resume"));
  }

  /** Into the back/forward cache, and back. */
  leave() {
    this.dispatch("pagehide");
    this.isFrozen = true;
  }

  comeBack() {
    this.isFrozen = false;
    this.thaw(false);
    this.dispatch("pageshow");
  }

  /** The process of the page is killed: it can say nothing. */
  kill() {
    this.isGone = true;
    this.world.server.lose(this);
    this.world.forget(this);
    this.world.pages.splice(this.world.pages.indexOf(this), 1);
  }

  /** The page is left for good: it is told before. */
  unload() {
    this.dispatch("pagehide");
    this.kill();
  }
}

const BASE = 1_763_612_345_000;
const ERA = "7k3m9p2xr";
const idOf = (position) => `${BASE + position}-0-${ERA}`;
const positionOf = (text) => Number(text.split("-")[0]) - BASE;

/** The wire of tower-sse: hello, live, position, gap, long polls, and topics of the open stream. */
export class Server {
  heartbeat = 15_000;
  control = "/topics";
  isDown = false;
  /** Requests for topics are never answered. */
  isDeaf = false;
  /** Refuses with this status. */
  refuse = undefined;
  retain = Infinity;
  asArrays = false;
  /** Events have a type of their own, so they do not say their topic. */
  isTyped = false;
  requests = [];
  /** The most streams that pages that are alive had at one time. */
  mostStreams = 0;
  connections = new Set();
  #world;
  #topics = new Map();
  #newest = 0;

  constructor(world) {
    this.#world = world;
  }

  topic(name) {
    if (!this.#topics.has(name)) this.#topics.set(name, { events: [], lost: 0, count: 0 });
    return this.#topics.get(name);
  }

  publish(name) {
    const topic = this.topic(name);
    topic.events.push({ position: ++this.#newest, n: ++topic.count });
    while (topic.events.length > this.retain) topic.lost = topic.events.shift().position;
    for (const connection of [...this.connections]) this.#pump(connection);
  }

  get streams() {
    return [...this.connections].filter(({ wait }) => wait === undefined);
  }

  /** Streams end without a word. */
  cut(connection) {
    this.connections.delete(connection);
    connection.pipe.fail();
  }

  /** A stream ends as it should. */
  end(connection, last = "") {
    this.connections.delete(connection);
    if (last) connection.pipe.send(last);
    connection.pipe.end();
  }

  lose(page) {
    for (const connection of this.connections) if (connection.page === page) this.connections.delete(connection);
  }

  // ---- HTTP

  async fetch(page, address, { method = "GET", headers, body, signal }) {
    const url = new URL(address);
    const request = { page, method, url, headers, body, at: this.#world.now };
    const answer = await new Promise((resolve, reject) => {
      const pipe = new Pipe(this.#world, page, resolve, reject);
      const abort = () => {
        pipe.abort(signal.reason);
        for (const connection of this.connections) if (connection.pipe === pipe) this.connections.delete(connection);
      };
      if (signal?.aborted) return abort();
      setMaxListeners(0, signal);
      signal.addEventListener("abort", abort);
      // The request itself is on its way, whatever becomes of the page.
      this.#world.post(5, () => pipe.isOpen && !page.isGone && this.#handle(request, pipe));
    });
    return answer;
  }

  #handle(request, pipe) {
    this.requests.push(request);
    if (this.isDown) return pipe.fail();
    const refused = this.refuse?.(request);
    if (refused) return pipe.answer(refused.status, refused.headers ?? {}, refused.text ?? "refused");
    if (request.method === "PUT") return this.isDeaf || this.#putTopics(request, pipe);
    if (this.foreign) return this.foreign(pipe, request);
    this.#open(request, pipe);
  }

  #open({ page, url, headers }, pipe) {
    const query = url.searchParams;
    const wait = query.has("wait") ? Number(query.get("wait")) : undefined;
    const lastEventId = headers.get("last-event-id") ?? query.get("lastEventId") ?? "";
    const connection = { page, pipe, wait, client: `${this.#world.random()}`, topics: new Map(), seen: 0, sentId: "", hasSent: false };
    const names = new Set(query.getAll("topic"));
    const gap = lastEventId ? this.#resume(connection, names, lastEventId) : this.#start(connection, names);
    pipe.open();
    if (query.get("hello") === "1") {
      const isPoll = wait !== undefined;
      const hello = {
        v: 1,
        ...(!isPoll && { client: connection.client }),
        heartbeat: this.heartbeat,
        resumed: lastEventId ? (gap ? "gap" : "continued") : "fresh",
        behind: false,
        topics: [...names],
        ...(!isPoll && this.control && { control: this.control }),
      };
      if (!gap) connection.sentId = lastEventId || connection.standing;
      pipe.send(`event: hello\ndata: ${JSON.stringify(hello)}\n${gap ? "" : `id: ${connection.sentId}\n`}\n`);
    }
    if (gap) this.#sendGap(connection, gap);
    this.connections.add(connection);
    if (wait === undefined) {
      const alive = this.streams.filter((it) => it.page.isAlive).length;
      this.mostStreams = Math.max(this.mostStreams, alive);
    }
    this.#pump(connection);
    if (!this.connections.has(connection)) return;
    if (wait === undefined) {
      pipe.send(`event: live\ndata: \n${this.#idIfAhead(connection)}\n`);
      this.#beat(connection);
    } else this.#world.post(1_000 * wait, () => this.#endPoll(connection));
  }

  #sendGap(connection, { names, after }) {
    const next = Math.min(...[...connection.topics].map(([name, cursor]) => this.#next(name, cursor)?.position ?? Infinity));
    const floor = Math.max(...names.map((name) => this.topic(name).lost));
    const id = Math.min(floor, next - 1);
    const isForward = connection.seen <= id;
    if (isForward) {
      connection.seen = id;
      connection.sentId = idOf(id);
    }
    connection.hasSent = true;
    const data = JSON.stringify({ topics: names, after });
    connection.pipe.send(`event: gap\ndata: ${data}\n${isForward ? `id: ${idOf(id)}\n` : ""}\n`);
  }

  /** Each topic starts with its last event. */
  #start(connection, names) {
    const before = [];
    for (const name of names) {
      const last = this.topic(name).events.at(-1);
      connection.topics.set(name, last ? last.position - 1 : this.#newest);
      if (last) before.push(last.position - 1);
    }
    connection.seen = Math.min(...before, this.#newest);
    connection.standing = idOf(connection.seen);
  }

  #resume(connection, names, id) {
    const [seen, late, list = ""] = id.split(";");
    connection.seen = positionOf(seen);
    const lost = [];
    // A late topic that is not among the names may be read by another one.
    const lateNames = list.split(",");
    const isAnyLate = late && !lateNames.every((name) => names.has(name));
    for (const name of names) {
      const cursor = late && (isAnyLate || lateNames.includes(name)) ? positionOf(late) : connection.seen;
      if (this.topic(name).lost > cursor) lost.push(name);
      connection.topics.set(name, Math.max(cursor, this.topic(name).lost));
    }
    return lost.length > 0 && { names: lost, after: id };
  }

  #next(name, cursor) {
    const { events } = this.topic(name);
    // The newest ones are asked for most.
    let at = events.length;
    while (at > 0 && events[at - 1].position > cursor) at--;
    return events[at];
  }

  /** Sends all events that wait, in order. */
  #pump(connection) {
    const { topics, pipe } = connection;
    const batch = [];
    for (;;) {
      const waiting = [...topics].map(([name, cursor]) => ({ name, event: this.#next(name, cursor) })).filter(({ event }) => event);
      const late = waiting.filter(({ event }) => event.position <= connection.seen);
      const from = late.length ? late : waiting;
      if (!from.length) break;
      const next = from.reduce((first, it) => (it.event.position < first.event.position ? it : first));
      topics.set(next.name, next.event.position);
      if (late.length) {
        const names = late.map(({ name }) => name).join(",");
        connection.sentId = `${idOf(connection.seen)};${BASE + next.event.position}-0;${names}`;
      } else {
        connection.seen = next.event.position;
        connection.sentId = idOf(connection.seen);
      }
      connection.hasSent = true;
      const { n } = next.event;
      if (this.asArrays) batch.push({ topic: next.name, event: "number", id: connection.sentId, data: { n } });
      else pipe.send(`event: ${this.isTyped ? "number" : next.name}\ndata: {"n":${n},"topic":"${next.name}"}\nid: ${connection.sentId}\n\n`);
    }
    if (batch.length) pipe.send(`event: batch\ndata: ${JSON.stringify(batch)}\nid: ${connection.sentId}\n\n`);
    if (connection.wait !== undefined && (connection.hasSent || connection.wait === 0)) this.#endPoll(connection);
  }

  #idIfAhead(connection) {
    if (connection.sentId === idOf(connection.seen)) return "";
    connection.sentId = idOf(connection.seen);
    return `id: ${connection.sentId}\n`;
  }

  #position(connection) {
    const id = this.#idIfAhead(connection);
    return id && `event: position\ndata: \n${id}\n`;
  }

  #endPoll(connection) {
    if (this.connections.has(connection)) this.end(connection, this.#position(connection));
  }

  #beat(connection) {
    if (!this.heartbeat) return;
    this.#world.post(this.heartbeat, () => {
      if (!this.connections.has(connection)) return;
      if (!this.isSilent) connection.pipe.send(`:\n\n${this.#position(connection)}`);
      this.#beat(connection);
    });
  }

  #putTopics({ body, url }, pipe) {
    const { client, topics } = JSON.parse(body);
    const connection = this.streams.find((it) => it.client === client);
    if (url.pathname !== "/topics" || !connection || this.hasForgotten) return pipe.answer(404, {}, "no open stream has this id");
    const isRefused = (name) => name.startsWith("secret");
    const given = topics.filter((name) => !isRefused(name));
    for (const name of connection.topics.keys()) if (!given.includes(name)) connection.topics.delete(name);
    for (const name of given) {
      const last = this.topic(name).events.at(-1);
      if (!connection.topics.has(name)) connection.topics.set(name, last ? last.position - 1 : this.#newest);
    }
    const refused = topics.filter(isRefused).map((topic) => ({ topic, why: "not yours" }));
    pipe.answer(200, {}, JSON.stringify({ topics: given, refused, position: idOf(this.#newest) }));
    this.#pump(connection);
  }
}

/** The way from the server to one `fetch` of a page. */
class Pipe {
  isOpen = true;
  #world;
  #page;
  #resolve;
  #reject;
  #held;
  #chunks = [];
  #reader;
  #latency;

  constructor(world, page, resolve, reject) {
    this.#latency = 1 + world.int(20);
    this.#world = world;
    this.#page = page;
    this.#resolve = resolve;
    this.#reject = reject;
    // A network that shows a response when it has ended.
    if (page.isMute) this.#held = [];
  }

  /** All that the page sees comes by this way, in order. */
  #deliver(act) {
    if (this.#held) this.#held.push(act);
    else this.#page.post(this.#latency, act);
  }

  answer(status, headers, text) {
    this.isOpen = false;
    const response = this.#response(status, headers);
    this.#put(text);
    this.#put(undefined);
    this.#page.post(this.#latency, () => this.#resolve(response));
  }

  open(headers = { "content-type": "text/event-stream" }) {
    this.#deliver(() => this.#resolve(this.#response(200, headers)));
  }

  send(text) {
    // Cut at any place, as networks do.
    const at = this.#world.int(text.length + 1);
    for (const part of [text.slice(0, at), text.slice(at)]) if (part) this.#deliver(() => this.#put(part));
  }

  end() {
    this.isOpen = false;
    this.#deliver(() => this.#put(undefined));
    const held = this.#held ?? [];
    this.#held = undefined;
    for (const act of held) this.#deliver(act);
  }

  fail() {
    this.isOpen = false;
    this.#held = undefined;
    this.#page.post(this.#latency, () => this.#break(new TypeError("network error")));
  }

  abort(reason) {
    this.isOpen = false;
    this.#held = [];
    this.#break(reason);
  }

  #break(error) {
    this.error = error;
    this.#reject(error);
    this.#reader?.reject(error);
  }

  #put(text) {
    this.#chunks.push(text);
    this.#serve();
  }

  #serve() {
    if (!this.#reader) return;
    const { resolve, reject } = this.#reader;
    if (this.#chunks.length) {
      this.#reader = undefined;
      const text = this.#chunks.shift();
      resolve(text === undefined ? { done: true } : { done: false, value: new TextEncoder().encode(text) });
    } else if (this.error) {
      this.#reader = undefined;
      reject(this.error);
    }
  }

  #read = () =>
    new Promise((resolve, reject) => {
      this.#reader = { resolve, reject };
      if (this.error) this.#chunks = [];
      this.#serve();
    });

  #response(status, headers) {
    const text = async () => {
      let all = "";
      for (let read; !(read = await this.#read()).done; ) all += new TextDecoder().decode(read.value);
      return all;
    };
    return {
      status,
      ok: status >= 200 && status < 300,
      headers: new Headers(headers),
      body: { getReader: () => ({ read: this.#read }), cancel: async () => {} },
      text,
      json: async () => JSON.parse(await text()),
    };
  }
}

/** What is missed takes so long to come, though bytes come all the time. */
export function slow(server, ms) {
  const { fetch } = server;
  server.fetch = async function (page, address, init) {
    const response = await fetch.call(this, page, address, init);
    if (!new URL(address).searchParams.has("wait")) return response;
    const reader = response.body.getReader();
    const chunks = [];
    for (let left = 40, read; left; left--) {
      read = await reader.read();
      chunks.push(read);
      if (read.done) break;
    }
    const read = async () => {
      await new Promise((resolve, reject) => {
        init.signal.addEventListener("abort", () => reject(init.signal.reason));
        page.env.setTimeout(resolve, chunks.length && ms / 40);
      });
      return chunks.shift() ?? reader.read();
    };
    return { ...response, body: { getReader: () => ({ read }) } };
  };
}
