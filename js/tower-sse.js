/**
 * A client for event streams: each event once and in order, over cuts, sleep, reloads, and networks that show no stream.
 *
 * The README says how to use it. From the top: `open`, the state machine; the topics; what reaches the page; the parser; `share`.
 */

/**
 * @import * as Api from "./tower-sse.d.ts"
 *
 * @typedef {{ type: string, topic?: string, data?: string, value?: unknown }} RawEvent
 *   It has a `value` instead of `data` if it was an entry of an array.
 * @typedef {{ id?: string, event?: RawEvent, gap?: Api.Gap, isLive?: boolean, isEnd?: boolean }} Block
 * @typedef {Block & { after: string, id: string, isAside?: boolean, connection?: number }} Step
 *   Moves the last event id from `after` to `id`.
 * @typedef {{ topics: string[], wait?: number, isAside?: boolean }} Ask
 *   A request for events. `isAside`: for the start of topics. Its ids are not those of the stream.
 * @typedef {AbortController & Ask & { names: Set<string>, openedAt: number, heardAt: number, isWhole?: boolean, isRead?: boolean, isTold?: boolean,
 *   client?: string, hasEvents?: boolean }} Exchange
 * @typedef {{ topics: string[], refused: [topic: string, why: string][] }} Has
 *   What a stream has of the topics, and what the server does not give.
 * @typedef {Has & { isLive: boolean, isOpen: boolean }} Status
 * @typedef {{ ok: boolean, status: number, answer: any, floor: number }} Answer
 * @typedef {{ own: Map<string, number>, starting(): string[], hasStarted(name: string): void, covers(has: Has): boolean,
 *   tellRefused(has: Has): void, status(): Status, id(): string, lead(): void, follow(): void, alone(): void, ask(ask: Ask): Promise<void>,
 *   rest(failures: number, error: any): Promise<unknown>, accept(step: Step): void, room(): any, isFull(): boolean, change(): void,
 *   caughtUp(caughtUp: boolean): void, check(): void, close(): void, logout(): void }} Host
 */

const LONGEST = 2 ** 31 - 1; // A longer timer of a browser ends at once.
const LEAST_PAUSE = 250; // between the beginnings of two streams or polls
const GOOD_AFTER = 10_000; // A stream of this age has not failed.
const POLL = 25; // seconds
const STREAM_AGAIN = 600_000; // A client that polls tries a stream again after this time.
const BACKLOG = 1_000; // While more steps wait in the page, nothing is read.
const LEAST_SILENCE = 5_000; // A server with a short heartbeat may still have a hiccup.
/** @type {Api.Gap} A place to repair what is left to repair. */
const NO_GAP = { topics: [] };

/** @type {typeof Api.open} */
export function open(url, options = {}) {
  const { hello = true, poll = "auto", connectTimeout = 15_000, retries = Infinity, headers, body, share, resume, lazy } = options;
  const { base = 1_000, cap = 30_000 } = options.backoff ?? {};
  const canRepeat = /^get$/i.test(options.method ?? "get") || typeof body === "function";
  const stats = { opens: 0, events: 0, bytes: 0, errors: 0, lastByteAt: 0, lastEventAt: 0 };
  const tabs = /** @type {{ hosts: Set<Host>, logout(): unknown, join(url: string, host: Host): typeof tab } | undefined} */ (/** @type {any} */ (share));
  const logout = tabs?.logout();
  /** Ends the listeners to events of the page itself. */
  const page = new AbortController();
  const alarm = newAlarm();
  const sideAlarm = newAlarm();
  /** @type {any} */
  let hiddenTimer;
  /** Why there is no stream. */
  const reasons = new Set(lazy ? ["new", "unused"] : ["new"]);
  /** @type {Set<(state: Api.State) => void>} */
  const watchers = new Set();
  /** @type {Api.State} */
  let state = Object.freeze({ phase: "idle", attempt: 0, transport: poll === "always" ? "poll" : "stream", caughtUp: false, stale: false, role: "alone" });
  /** At most one. @type {Exchange | undefined} */
  let main;
  /** A request beside it, or beside the stream of another tab. @type {Exchange | undefined} */
  let side;
  let connection = 0; // counts the streams, and the series of polls
  let isLive = false; // The page has had all that this connection has sent, up to now.
  /** The page has failed to repair it. @type {Api.Gap | undefined} */
  let gapLeft;
  let canPoll = hello; // as far as is known
  /** @type {ReturnType<typeof newTab> | undefined} */
  let tab;
  /** Where the stream resumes. Events before it may still wait in the page. */
  let [received, ...keptNames] = options.lastEventId !== undefined ? [options.lastEventId] : ((resume && stored("sessionStorage", resume)) || "").split("\n");
  let silence = options.silence ?? 60_000; // A stream that is silent for so long is dead.
  let retry = 0; // the last `retry:`
  let notBefore = 0; // The server has asked for no attempt before.
  let beganAt = 0; // the last main exchange
  let mute = 0; // exchanges in a row that showed nothing
  let pollsSince = 0;
  let hasNewHeaders = false; // since a 401
  /** Where topics can be changed. Empty: nowhere. @type {string | undefined} */
  let control;

  const delivery = newDelivery(received, {
    isNews: (step) => topics.isNews(step) && (tab?.isForPage(step.event?.topic) ?? true),
    gap: async (gap) => {
      if (gap === NO_GAP && !gapLeft) return;
      set({ stale: true });
      gapLeft = { ...gap, ...gapLeft, topics: [...new Set([...(gapLeft?.topics ?? []), ...gap.topics])] };
      await options.onGap?.(gapLeft);
      gapLeft = undefined;
      set({ stale: !options.onGap });
    },
    live(step) {
      if (step.connection !== connection || state.phase !== "open") return;
      isLive = true;
      light();
      tab?.tell();
    },
    used: (isUsed) => lazy && (isUsed ? unpark("unused") : setTimeout(() => delivery.isUsed() || park("unused"), 1_000)),
  });

  const fixed = new Set(options.topics);
  const topics = newTopics(fixed, keptNames, {
    others: () => tab?.others() ?? [],
    put,
    reopen: () => connectIn(0),
    rest: (failures, floor) => sleep(pause(failures, floor)),
    tell: () => (light(), tab?.tell()),
    refused: (topic, why) => options.onTopicRefused?.(topic, why),
  });
  const topicsChanged = () => (light(), tab ? tab.topicsChanged() : topics.change());
  /** @param {string} name */
  const leaveTopic = (name) => topics.remove(name) && topicsChanged();

  // ---- Parked or not

  function begin() {
    if (state.phase === "closed") return;
    const { document } = globalThis;
    const leave = () => (save(), park("away"));
    const back = () => (noteLogout(), unpark("away"), noteVisibility(), wake());
    const acts = {
      pagehide: leave,
      freeze: leave,
      pageshow: back,
      resume: back,
      focus: back,
      visibilitychange: () => (document.hidden ? noteVisibility() : back()),
      storage: noteLogout,
      offline: () => main?.openedAt && watch(main, 1 / 3),
      // Another network may show streams.
      online: () => (switchTo("stream"), wake()),
    };
    for (const target of [globalThis, document]) {
      for (const [type, act] of Object.entries(acts)) target?.addEventListener?.(type, act, { signal: page.signal });
    }
    noteVisibility();
    unpark("new");
  }

  function noteVisibility() {
    clearTimeout(hiddenTimer);
    if (!globalThis.document?.hidden) return unpark("hidden");
    save();
    const { hidden = share && !(canShare() && canPoll) ? 5_000 : "keep" } = options;
    if (hidden !== "keep") hiddenTimer = setTimeout(() => park("hidden"), Math.min(hidden, LONGEST));
  }

  /** An id that says how far some topics were read counts for a stream that has them. */
  function save() {
    const id = delivery.id();
    if (resume) stored("sessionStorage", resume, [id, ...(isLate(id) ? topics.withLate(topics.own.keys()) : [])].join("\n"));
  }

  const isAtRest = () => state.phase === "idle" || state.phase === "parked";

  /** @param {string} reason */
  function park(reason) {
    reasons.add(reason);
    if (isAtRest() || state.phase === "closed") return;
    stop();
    set({ phase: "parked", role: "alone" });
  }

  /** @param {string} reason */
  function unpark(reason) {
    reasons.delete(reason);
    if (isAtRest() && !reasons.size) start();
  }

  function start() {
    // A tab that follows asks with polls what it has missed.
    tab = canPoll ? tabs?.join(`${url}`, host) : undefined;
    if (tab) set({ phase: "following", role: "follower" });
    else connectIn(0);
  }

  function stop() {
    drop();
    tab?.leave();
    tab = undefined;
  }

  /** @param {Api.State["why"]} why @param {unknown} [error] */
  function end(why, error) {
    if (state.phase === "closed") return;
    stop();
    page.abort();
    tabs?.hosts.delete(host);
    set({ phase: "closed", why, error });
    delivery.end(received);
  }

  const close = () => (end("closed"), delivery.close());

  /** Another tab may have logged out. */
  function noteLogout() {
    const last = tabs?.logout();
    if (last && last !== logout) close();
  }

  /** Shows whether the page has everything. */
  function light() {
    if (state.phase === "open") set({ caughtUp: isLive && topics.isCovered() });
  }

  /** @param {Partial<Api.State>} changes */
  function set(changes) {
    const old = state;
    const isMoved = (changes.phase ?? old.phase) !== old.phase;
    if (isMoved) isLive = false;
    const next = { ...old, ...(isMoved && { caughtUp: false, retryAt: undefined }), ...changes };
    if (Object.entries(next).every(([name, value]) => value === old[/** @type {keyof Api.State} */ (name)])) return;
    state = Object.freeze(next);
    if (isMoved) tab?.tell();
    for (const watcher of [...watchers]) call(watcher, state);
  }

  // ---- When to connect

  /** The page is in use again, or the network is back. */
  function wake() {
    // Bytes that wait to be read come first.
    setTimeout(() => {
      if (state.phase === "waiting") {
        const ms = Math.max(Math.random() * 300, notBefore - now());
        if (ms < alarm.left()) connectIn(ms);
      } else if (main?.openedAt && isSilent(main, 1 / 2)) connectIn(0);
      tab?.wake();
    });
  }

  /** Replaces the main exchange. `isNextPoll`: for the page, the stream stays open. @param {number} ms */
  function connectIn(ms, isNextPoll = false) {
    drop();
    ms = Math.min(Math.max(ms, beganAt + LEAST_PAUSE - now(), 0), LONGEST);
    if (!isNextPoll) connection++;
    if (!isNextPoll) set(ms ? { phase: "waiting", retryAt: Date.now() + ms } : { phase: "connecting" });
    alarm.set(ms, () => connect(isNextPoll));
  }

  function drop() {
    main?.abort();
    side?.abort();
    main = side = undefined;
    sideAlarm.clear();
    topics.closed();
    alarm.clear();
  }

  /** @param {boolean} isNextPoll */
  function connect(isNextPoll) {
    beganAt = now();
    if (beganAt - pollsSince > STREAM_AGAIN) switchTo("stream");
    const isPoll = state.transport === "poll";
    // The first poll asks what was missed. The next ones wait for more.
    const wait = isPoll ? (isNextPoll ? POLL : 0) : undefined;
    if (!wait) set({ phase: "connecting" });
    const it = (main = newExchange({ wait, topics: topics.query(received, !isPoll && control !== "") }));
    watch(it);
    load(it).then(
      () => ended(it),
      (error) => failed(it, error),
    );
  }

  /** @param {Api.State["transport"]} transport */
  function switchTo(transport) {
    if (poll !== "auto" || transport === state.transport) return;
    // A stream that shows nothing once more is enough to poll again.
    mute = transport === "stream" ? 1 : 0;
    pollsSince = now();
    set({ transport });
  }

  /** The response has ended as it should. @param {Exchange} it */
  function ended(it) {
    if (it !== main) return;
    if (!canRepeat) return end("ended");
    if (it.wait === undefined) {
      const isGood = it.hasEvents || (it.openedAt && now() - it.openedAt >= GOOD_AFTER);
      return tryAgain(isGood ? 0 : state.attempt + 1, retry);
    }
    set({ attempt: 0 });
    pass(it, [{ isLive: true }]);
    if (it === main) connectIn(0, true);
  }

  /** @param {Exchange} it @param {any} error */
  async function failed(it, error) {
    if (it !== main) return;
    const attempt = state.attempt + 1;
    stats.errors++;
    if (error instanceof RangeError) return end("too large", error);
    const response = /** @type {Response | undefined} */ (error?.response);
    if (!response) return tryAgain(attempt, retry, error);
    const { status } = response;
    if (status === 204) return end("ended");
    // Chromium takes a head that breaks off for a whole one.
    const isCut = status === 200 && EVENT_STREAM.startsWith(typeOf(response));
    const text = (await response.text().catch(() => "")).slice(0, 1_000);
    if (it !== main) return;
    alarm.clear();
    const verdict = await call(options.onRefused, { status, text, headers: response.headers, attempt });
    if (it !== main) return;
    if (verdict === undefined && status === 401 && typeof headers === "function" && !hasNewHeaders) {
      hasNewHeaders = true;
      connectIn(0);
    } else if (verdict === "stop" || (verdict === undefined && !isTemporary(status) && !isCut)) end("refused", error);
    else tryAgain(attempt, Math.max(retry, verdict > 0 ? verdict : retryAfter(response)), error);
  }

  /**
   * @param {number} failures in a row
   * @param {number} floor what the server has told
   * @param {unknown} [error] none: the stream has ended without a failure
   */
  function tryAgain(failures, floor, error) {
    if (failures > retries || !canRepeat) return end("gave up", error);
    notBefore = now() + floor;
    connectIn(pause(error || !floor ? failures : 0, floor));
    set({ attempt: failures, error });
  }

  /** Spreads the clients, above what the server has told. @param {number} failures @param {number} floor */
  function pause(failures, floor) {
    const growth = 2 ** Math.max(failures - 1, 0);
    const random = Math.random();
    return floor ? floor * (1 + random / 2) * Math.min(growth, 8) : base / 2 + random * Math.min(base * growth, cap);
  }

  // ---- Whether the stream lives

  /** How long it may be silent. @param {Exchange} it */
  const limit = (it) => (it.openedAt ? silence || LONGEST : connectTimeout + 1000 * (it.wait ?? 0));

  /** @param {Exchange} it @param {number} part of its limit */
  const isSilent = (it, part) => now() - it.heardAt >= part * limit(it);

  /** Ends the exchange when it has been silent for a part of its limit. @param {Exchange} it */
  function watch(it, part = 1) {
    (it === side ? sideAlarm : alarm).set(it.heardAt + part * limit(it) - now(), () => {
      // Nothing is heard while nothing is read.
      if (delivery.isFull()) it.heardAt = now();
      if (!isSilent(it, part)) return watch(it);
      if (it === side) return it.abort();
      // Polls would be shown by a network that only shows no streams.
      if (!it.openedAt && hello && (++mute > 1 || it.wait !== undefined)) switchTo(it.wait === undefined ? "poll" : "stream");
      failed(it, new Error("the server is silent"));
    });
  }

  /** @param {Exchange} it @param {number} bytes */
  function heard(it, bytes) {
    it.heardAt = now();
    stats.lastByteAt = Date.now();
    stats.bytes += bytes;
    if (it === main && it.openedAt && it.heardAt - it.openedAt >= GOOD_AFTER) set({ attempt: 0 });
  }

  /** The response shows what it has: a first event, or a comment. That to a poll shows it when it is whole. @param {Exchange} it */
  function opened(it) {
    if (it !== main || (it.wait !== undefined && !it.isWhole)) return;
    if (!it.openedAt) {
      it.openedAt = now();
      mute = 0;
      hasNewHeaders = false;
      stats.opens++;
      set({ phase: "open", error: undefined });
    }
    watch(it);
  }

  // ---- One exchange

  /** @param {string} path @param {AbortSignal} signal @param {RequestInit} request @param {Record<string, string>} more headers */
  async function send(path, signal, request, more) {
    const own = typeof headers === "function" ? await headers({ number: state.attempt + 1, signal }) : headers;
    const all = new Headers(own);
    for (const name in more) all.set(name, more[name]);
    return (options.fetch ?? fetch)(path, { credentials: options.credentials, headers: all, signal, ...request });
  }

  /** @param {Exchange} it */
  function address(it) {
    const target = new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href);
    for (const topic of it.topics) target.searchParams.append("topic", topic);
    if (hello) target.searchParams.set("hello", "1");
    if (it.wait !== undefined) target.searchParams.set("wait", `${it.wait}`);
    return target;
  }

  /** Requests events, and reads them to the end of the response. @param {Exchange} it */
  async function load(it) {
    const { signal } = it;
    const target = address(it);
    const id = it.isAside ? "" : received;
    // Across origins, the header would need a preflight. The response to a poll with the id in its address can be shared.
    const isInQuery = it.wait !== undefined || (globalThis.location && location.origin !== target.origin);
    if (id && isInQuery) target.searchParams.set("lastEventId", id);
    const response = await send(
      target.href,
      signal,
      { method: options.method, body: typeof body === "function" ? body() : body, cache: "no-store" },
      { accept: EVENT_STREAM, ...(id && !isInQuery && { "last-event-id": byteString(id) }) },
    );
    if (response.status !== 200 || typeOf(response) !== EVENT_STREAM) {
      throw Object.assign(new Error(`the server says ${response.status}`), { response });
    }
    const feed = parser(
      {
        event: (type, data, id) => receive(it, type, data, id),
        id: (id) => pass(it, [{ id }]),
        retry: (ms) => (retry = ms),
        comment: () => opened(it),
      },
      options.maxEvent,
    );
    if (!response.body && it.wait === undefined) {
      switchTo("poll");
      throw new Error("this runtime cannot stream");
    }
    if (!hello) {
      heard(it, 0);
      opened(it);
      pass(it, [{ isLive: true }]);
    }
    const reader = response.body?.getReader();
    const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
    if (!reader) {
      const text = await response.text();
      heard(it, text.length);
      feed(text);
    }
    for (let read; reader && !(read = await reader.read()).done && !signal.aborted; await delivery.room()) {
      heard(it, read.value.length);
      feed(utf8.decode(read.value, { stream: true }));
    }
    it.isWhole = true;
    if (it.wait !== undefined) opened(it);
  }

  /** Does something beside the main exchange, for as long as something is heard. @template T @param {Exchange} it @param {() => Promise<T>} act */
  async function beside(it, act) {
    side = it;
    watch(it);
    try {
      // Headers of the page may never come.
      return await Promise.race([act(), new Promise((_, reject) => it.signal.addEventListener("abort", () => reject(it.signal.reason)))]);
    } finally {
      if (it === side) sideAlarm.clear();
    }
  }

  /** @param {Exchange} it @param {string} type @param {string} data @param {string} [id] */
  function receive(it, type, data, id) {
    if (!it.isRead) {
      it.isRead = true;
      it.isTold = hello && type === "hello" && greeted(it, parsed(data));
      // A server without polls answers with a stream.
      if (it.wait !== undefined && (!it.isTold || it.client)) {
        if (it === side) {
          canPoll = false;
          throw new Error("the server has no polls");
        }
        it.wait = undefined;
      }
      opened(it);
      if (it.isTold) return pass(it, [{ id }]);
      // A server without hello does not say when the client has caught up.
      if (it === main) pass(it, [{ isLive: true }]);
    }
    pass(it, (it.isTold && ownBlocks(type, data, id)) || [{ id, event: { type, data } }]);
  }

  /** @param {Exchange} it @param {any} told */
  function greeted(it, told) {
    if (!(told?.v > 0)) return false;
    for (const name of told.topics) it.names.add(name);
    it.client = told.client;
    if (it.isAside) return true;
    silence = told.heartbeat && Math.max(3 * told.heartbeat, LEAST_SILENCE);
    set({ resumed: told.resumed });
    if (gapLeft) accept({ after: received, id: received, gap: NO_GAP });
    opened(it);
    if (it !== main) return true;
    if (told.client) control = told.control ?? "";
    topics.opened(it, told.topics);
    return true;
  }

  /** @param {Exchange} it @param {Block[]} blocks that came together */
  function pass(it, blocks) {
    const { isAside, names } = it;
    if (it.signal.aborted) return;
    let after = isAside ? "" : received;
    const steps = blocks.map((block) => {
      const { id = after, event } = block;
      if (event && names.has(event.type)) event.topic ??= event.type;
      if (block.id !== undefined && !isAside) topics.noteId(id, it, event?.topic);
      const step = { ...block, after, id, isAside, connection };
      after = id;
      return step;
    });
    const hasEvents = steps.some(({ event }) => event);
    it.hasEvents ||= hasEvents;
    if (it === main) {
      tab?.send(steps);
      if (hasEvents) set({ attempt: 0 });
    }
    steps.forEach(accept);
  }

  /** @param {Step} step */
  function accept(step) {
    if (!step.isAside) received = step.id;
    if (step.event) {
      stats.events++;
      stats.lastEventAt = Date.now();
    }
    delivery.put(step);
  }

  /** Asks for the full set of topics of the open stream. `undefined`: it cannot be changed. @param {string[]} topics */
  async function put(topics) {
    if (!main?.client || !control) return;
    const it = newExchange({ topics });
    const target = new URL(control, address(main)).href;
    const request = { method: "PUT", body: JSON.stringify({ client: main.client, topics }) };
    const ask = () => send(target, it.signal, request, { "content-type": "application/json" });
    return beside(it, async () => {
      let response = await ask();
      // The token may have expired on the way.
      if (response.status === 401 && typeof headers === "function") response = await ask();
      const { ok, status } = response;
      return { ok, status, answer: await (ok ? response.json() : response.text()), floor: retryAfter(response) };
    });
  }

  // ---- Among other tabs

  /** @type {Host} */
  const host = {
    ...topics,
    ...delivery,
    status: () => ({ ...topics.status(), isLive, isOpen: state.phase === "open" }),
    id: () => received,
    lead() {
      set({ phase: "connecting", role: "leader" });
      connectIn(0);
    },
    follow() {
      drop();
      set({ phase: "following", role: "follower" });
    },
    alone() {
      tab = undefined;
      set({ role: "alone" });
      connectIn(0);
    },
    /** Asks what was missed, beside the stream of another tab. @param {Ask} ask */
    async ask(ask) {
      const names = ask.isAside ? ask.topics : topics.withLate(ask.topics);
      const it = newExchange({ ...ask, topics: names, wait: 0 });
      try {
        await beside(it, () => load(it));
      } finally {
        if (!canPoll && tab) {
          tab.leave();
          host.alone();
        }
      }
    },
    rest: (failures, error) => sleep(pause(failures, retryAfter(error?.response))),
    accept,
    caughtUp: (/** @type {boolean} */ caughtUp) => set({ caughtUp }),
    check: alarm.check,
    close,
    logout() {
      tab?.sayOver();
      close();
    },
  };
  tabs?.hosts.add(host);

  if (options.signal?.aborted) close();
  options.signal?.addEventListener("abort", close, { signal: page.signal });
  // Later, so that a stream that is closed at once makes no request.
  queueMicrotask(begin);

  return /** @type {any} */ ({
    stats,
    get state() {
      return state;
    },
    get lastEventId() {
      return delivery.id();
    },
    on(/** @type {string} */ type, /** @type {Function} */ listener, /** @type {{ signal?: AbortSignal }} */ { signal } = {}) {
      const end = delivery.on(type, listener);
      const off = () => (end(), signal?.removeEventListener("abort", off));
      if (signal?.aborted) off();
      else signal?.addEventListener("abort", off);
      return off;
    },
    off: delivery.off,
    topic(/** @type {string} */ name, /** @type {Function | undefined} */ listener) {
      if (topics.add(name)) topicsChanged();
      // A function for each call, because each call counts.
      const off = delivery.on(topicKey(name), (/** @type {unknown} */ event) => listener?.(event));
      let isOn = true;
      return () => {
        if (isOn) leaveTopic(name);
        isOn = false;
        off();
      };
    },
    removeTopic: (/** @type {string} */ name) => void (fixed.delete(name) && leaveTopic(name)),
    subscribe(/** @type {(state: Api.State) => void} */ listener) {
      const watcher = (/** @type {Api.State} */ state) => listener(state);
      watchers.add(watcher);
      watcher(state);
      return () => void watchers.delete(watcher);
    },
    reconnect() {
      if (reasons.has("new") || state.phase === "closed") return;
      reasons.clear();
      if (isAtRest()) start();
      else if (state.role === "follower") tab?.wake();
      else connectIn(0);
    },
    close,
    [Symbol.asyncIterator]: delivery.iterate,
    [Symbol.dispose ?? "dispose"]: close,
  });
}

/**
 * The topics: which the page wants, and which the open stream has.
 *
 * @param {Iterable<string>} fixed
 * @param {string[]} kept names for the id that the page begins with
 * @param {{ others(): Iterable<string>, put(topics: string[]): Promise<Answer | undefined>, reopen(): void,
 *   rest(failures: number, floor: number): Promise<unknown>, tell(): void, refused(topic: string, why: string): void }} host
 */
function newTopics(fixed, kept, host) {
  /** How often the page wants each. */
  const own = new Map([...fixed].map((name) => [name, 1]));
  /** How far the page has had the topics that it wants. @type {Map<string, string>} */
  const had = new Map([...fixed].map((name) => [name, ""]));
  /** The refused topics of its own that the page was told of. @type {Set<string>} */
  const told = new Set();
  /** What the open stream has. @type {string[]} */
  let has = [];
  /** What it was asked for last. @type {string[]} */
  let asked = [];
  let isAgain = false; // It has to be asked again.
  /** What the server refuses, and why. @type {Map<string, string>} */
  let refused = new Map();
  /** What the query of the open stream named in vain. @type {Has["refused"]} */
  let missing = [];
  /** Their start comes before the next id. @type {string[]} */
  let started = [];
  /** Topics that begin with what was asked for last, unless the page has left them since. @type {string[]} */
  let starting = [];
  let notFound = 0; // in a row
  let failures = 0; // in a row
  let isChanging = false;
  /** @type {Exchange | undefined} */
  let open;
  /** An id can say how far some topics were read: a stream that resumes after it has to have them. */
  let late = [kept];
  /** Ends a pause. */
  let hasten = () => {};

  const wanted = () => [...new Set([...own.keys(), ...host.others()])];
  const keyOf = (/** @type {string[]} */ topics) => JSON.stringify(topics.sort());

  /** @param {Iterable<string>} names */
  const withLate = (names) => [...new Set([...names, ...late.flat()])];

  /** A topic that the stream has already starts for the page only if it leaves the stream first. @param {string} name */
  const isReady = (name) => !isStarting(name) || !has.includes(name) || started.includes(name);

  /** The page has not had its start, so a resume does not name it: the open stream adds it. @param {string} name */
  const isStarting = (name) => own.has(name) && !had.has(name);

  /** @param {string} name */
  const hasStarted = (name) => void (isStarting(name) && had.set(name, ""));

  /** Whether an event of the topic is from before its start, which follows. @param {string} name */
  const isEarly = (name) => open && !isReady(name);

  /** Tells the server what is wanted. Several changes make one request. */
  async function change() {
    if (isChanging) return;
    isChanging = true;
    await null;
    for (let next; open; await ask(next, open)) {
      next = wanted().filter(isReady);
      if (!isAgain && keyOf(next) === keyOf(asked)) break;
    }
    isChanging = false;
  }

  /** @param {string[]} topics @param {Exchange} stream */
  async function ask(topics, stream) {
    asked = topics;
    starting = topics.filter(isStarting);
    isAgain = false;
    for (const name of topics) stream.names.add(name);
    // The tabs that follow have to know before the events of a topic are missing.
    host.tell();
    let floor = 0;
    try {
      const response = await host.put(topics);
      if (open !== stream) return;
      const { ok = false, status = 404, answer } = response ?? {};
      floor = response?.floor ?? 0;
      if (ok) {
        notFound = failures = 0;
        has = answer.topics;
        started = starting.filter((name) => has.includes(name) && isStarting(name));
        missing = [];
        refuse(new Map(answer.refused.map((/** @type {{ topic: string, why: string }} */ { topic, why }) => [topic, why])));
      } else if (status === 404) {
        // The stream is gone, cannot be changed, or is at another server. In the last two cases, only its query can help.
        notFound += response ? 1 : 2;
        host.reopen();
      } else if (isTemporary(status)) throw answer;
      else refuse(new Map(topics.filter((topic) => !has.includes(topic)).map((topic) => [topic, answer])));
    } catch {
      if (open !== stream) return;
      isAgain = true;
      const isClosed = new Promise((resolve) => (hasten = () => floor || resolve(0)));
      await Promise.race([host.rest(++failures, floor), isClosed]);
    }
  }

  /** @param {typeof refused} all */
  function refuse(all) {
    refused = all;
    tellRefused(status());
    host.tell();
  }

  /** Tells the page, once, which of its topics the server does not give. @param {Has} has */
  function tellRefused({ refused }) {
    const names = new Map(refused);
    for (const name of told) if (!names.has(name)) told.delete(name);
    for (const [topic, why] of names) {
      if (!own.has(topic) || told.has(topic)) continue;
      told.add(topic);
      call(() => host.refused(topic, why));
    }
  }

  /** The topics that the stream has are those that it surely has. @returns {Has} */
  function status() {
    const surely = new Set(asked);
    return { topics: has.filter((name) => surely.has(name)), refused: [...missing, ...refused] };
  }

  /** Whether a stream has all topics that the page wants and may have. @param {Has} has */
  const covers = ({ topics, refused }) => {
    const given = new Set([...topics, ...refused.map(([name]) => name)]);
    return [...own.keys()].every((name) => given.has(name));
  };

  return {
    change,
    own,
    starting: () => [...own.keys()].filter(isStarting),
    hasStarted,
    withLate,
    status,
    covers,
    tellRefused,
    /** Whether the open stream covers them. One of another server does not say. */
    isCovered: () => !open || covers(status()),
    /** Returns whether nobody in the page wanted it before. @param {string} name */
    add(name) {
      const count = own.get(name) ?? 0;
      own.set(name, count + 1);
      if (!count) {
        told.delete(name);
        isAgain ||= refused.delete(name);
      }
      return !count;
    },
    /** Returns whether nobody in the page wants it any more. @param {string} name */
    remove(name) {
      const count = (own.get(name) ?? 1) - 1;
      if (count) return !own.set(name, count);
      had.delete(name);
      starting = starting.filter((other) => other !== name);
      return own.delete(name);
    },
    /** Whether the page has not had the event. @param {Step} step */
    isNews({ after, id, event }) {
      const topic = event?.topic ?? "";
      if (isEarly(topic)) return false;
      // An event without an id has no position.
      if (id === after || !own.has(topic)) return true;
      const position = positionOf(id);
      if (order(position, had.get(topic) ?? "") <= 0) return false;
      had.set(topic, position);
      return true;
    },
    /**
     * Returns the topics for a new stream.
     *
     * @param {string} id from which it resumes
     * @param {boolean} canChange when it is open
     */
    query(id, canChange) {
      const isPart = id && canChange && notFound < 2;
      const named = wanted().filter((name) => !refused.has(name) && !(isPart && isStarting(name)));
      const names = withLate(named);
      asked = isPart ? names : wanted();
      isAgain = false;
      started = isPart ? [] : [...names];
      return names;
    },
    /** @param {Exchange} it @param {string[]} given what it has */
    opened(it, given) {
      open = it;
      has = it.topics;
      failures = 0;
      // A server may give a topic another name: then this says nothing.
      const isSame = given.every((name) => has.includes(name));
      missing = isSame ? has.filter((name) => !given.includes(name)).map((name) => [name, "the stream has begun without it"]) : [];
      tellRefused(status());
      host.tell();
      change();
    },
    closed() {
      open = undefined;
      started = [];
      hasten();
    },
    /** @param {string} id that has come @param {Exchange} it @param {string} [topic] of its event */
    noteId(id, it, topic = "") {
      started.splice(0).forEach(hasStarted);
      if (!isEarly(topic)) hasStarted(topic);
      // An event of a topic that is new is from after the change. Of other events, that is not known.
      const isNew = topic && !has.includes(topic);
      late = !isLate(id) ? [] : it !== open ? [it.topics] : isNew ? [asked] : [has, asked];
    },
  };
}

/**
 * Gives the page its events, one by one. While something holds it, they wait.
 *
 * @param {string} lastId
 * @param {{ isNews(step: Step): boolean, gap(gap: Api.Gap): Promise<void>, live(step: Step): void, used(isUsed: boolean): void }} host
 */
function newDelivery(lastId, host) {
  /** @type {Step[]} */
  let steps = [];
  let isHeld = false;
  let isOver = false;
  /** @type {Map<string, Set<Function>>} */
  const listeners = new Map();
  /** Each takes an event, and resolves when its loop is through with it. @type {Set<(event?: ReceivedEvent) => Promise<unknown>>} */
  const iterators = new Set();
  /** @type {((value?: unknown) => void)[]} */
  let readers = [];

  const isUsed = () => listeners.size + iterators.size > 0;
  const isFull = () => steps.length > BACKLOG;

  /** @param {Step} step */
  async function put(step) {
    steps.push(step);
    if (isHeld) return;
    isHeld = true;
    for (let step; (step = steps.shift()); ) {
      const taken = step.event && host.isNews(step) ? give(new ReceivedEvent(step.event, step.id)) : [];
      // An iterator that is slow holds the stream, and the server keeps what comes.
      for (const isThrough of taken) await isThrough;
      if (step.gap) await host.gap(step.gap).catch(report);
      if (!step.isAside) lastId = step.id;
      if (step.isLive) host.live(step);
      if (step.isEnd) finish();
      if (!isFull()) for (const read of readers.splice(0)) read();
    }
    isHeld = false;
  }

  /** @param {ReceivedEvent} event */
  function give(event) {
    for (const key of new Set([event.type, "*", topicKey(event.topic)])) {
      for (const listener of [...(listeners.get(key) ?? [])]) call(listener, event);
    }
    return [...iterators].map((take) => take(event));
  }

  function finish() {
    isOver = true;
    for (const take of iterators) take();
  }

  /** @param {string} key @param {Function} listener */
  function off(key, listener) {
    const some = listeners.get(key);
    some?.delete(listener);
    if (!some?.size) listeners.delete(key);
    host.used(isUsed());
  }

  return {
    isUsed,
    isFull,
    put,
    off,
    /** The last id that all of the page is through with. */
    id: () => lastId,
    /** @param {string} key @param {Function} listener */
    on(key, listener) {
      listeners.set(key, (listeners.get(key) ?? new Set()).add(listener));
      host.used(true);
      return () => off(key, listener);
    },
    /** Resolves when the page can take more. */
    room: () => isFull() && new Promise((resolve) => readers.push(resolve)),
    iterate() {
      /** Of those who wait for an event. @type {((result: { done: boolean, value: any }) => void)[]} */
      const asks = [];
      let isLeft = false;
      let through = (/** @type {unknown} */ _) => {};
      const take = (/** @type {ReceivedEvent | undefined} */ event) => {
        if (!event) return leave();
        asks.shift()?.({ done: false, value: event });
        return new Promise((resolve) => (asks.length ? resolve(0) : (through = resolve)));
      };
      async function leave() {
        isLeft = true;
        for (const give of asks.splice(0)) give({ done: true, value: undefined });
        if (iterators.delete(take)) host.used(isUsed());
        through(0);
      }
      return {
        next: () =>
          new Promise((give) => {
            asks.push(give);
            through(0);
            if (isOver || isLeft) return leave();
            iterators.add(take);
            host.used(true);
          }),
        async return(/** @type {unknown} */ value) {
          leave();
          return { done: true, value };
        },
        [Symbol.asyncIterator]() {
          return this;
        },
      };
    },
    /** What waits is still delivered. @param {string} id */
    end: (id) => put({ after: id, id, isEnd: true }),
    /** What waits is dropped. */
    close() {
      steps = [];
      finish();
    },
  };
}

/** What events have as JSON, apart from them: an event can be frozen, and in a proxy. @type {WeakMap<ReceivedEvent, unknown>} */
const values = new WeakMap();

class ReceivedEvent {
  /** @param {RawEvent} raw @param {string} id */
  constructor({ type, topic, data, value }, id) {
    this.type = type;
    this.topic = topic;
    this.id = id;
    /** @type {string} */
    this.data = data ?? (typeof value === "string" ? value : JSON.stringify(value));
    if (data === undefined) values.set(this, value);
  }

  get json() {
    if (!values.has(this)) values.set(this, JSON.parse(this.data));
    return values.get(this);
  }
}

/** A timer that lets waiting bytes be read before it acts, and that can act when it is late: hidden pages get timers late. */
function newAlarm() {
  /** @type {any} */
  let timer;
  let at = 0;
  let act = () => {};
  const clear = () => clearTimeout(timer);
  function ring() {
    clear();
    at = Infinity;
    act();
  }
  return {
    clear: () => (clear(), (at = Infinity)),
    left: () => at - now(),
    check: () => at <= now() && ring(),
    /** @param {number} ms @param {() => void} then */
    set(ms, then) {
      clear();
      at = now() + ms;
      act = then;
      timer = setTimeout(() => (timer = setTimeout(ring)), Math.min(ms, LONGEST));
    },
  };
}

/** @param {Ask} ask @returns {Exchange} */
const newExchange = (ask) => Object.assign(new AbortController(), { names: new Set(ask.topics), openedAt: 0, heardAt: now() }, ask);

let ahead = -Infinity;
/** The clock for durations. That of the machine can be set back, and in some browsers that of the page stops in a sleep. */
const now = () => performance.now() + (ahead = Math.max(ahead, Date.now() - performance.now()));

/** Reads or keeps a text. A page may have no store, may not use it, or it is full. @param {"sessionStorage" | "localStorage"} area @param {string} key @param {string} [text] */
function stored(area, key, text) {
  try {
    const store = globalThis[area];
    if (text === undefined) return store.getItem(key);
    // A text that is too old is worse than none.
    store.removeItem(key);
    store.setItem(key, text);
  } catch {}
}

/** @param {number} ms */
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** @param {unknown} error */
const report = (error) => (globalThis.reportError ?? console.error)(error);

/** Calls a function of the page. Its errors are not those of the stream. @param {Function | undefined} it @param {unknown} [value] */
function call(it, value) {
  try {
    const result = it?.(value);
    return result?.catch?.(report) ?? result;
  } catch (error) {
    report(error);
  }
}

// ---- The wire

/** @type {typeof Api.parser} */
export function parser(to, max = 16 << 20) {
  /** A line whose end has not come. @type {string[]} */
  let pieces = [];
  let size = 0; // of the pieces and the block
  let isFirst = true;
  let isAfterCr = false;
  let type = "";
  /** @type {string | undefined} */
  let data;
  /** @type {string | undefined} */
  let id;

  function endBlock() {
    if (data !== undefined) to.event(type || "message", data, id);
    else if (id !== undefined) to.id?.(id);
    data = id = undefined;
    type = "";
    size = 0;
  }

  /** @param {string} piece */
  function add(piece) {
    size += piece.length;
    if (size > max) throw new RangeError(`an event has more than ${max} characters`);
    pieces.push(piece);
  }

  function endLine() {
    // Joined once for each line: to append each piece to a text takes time by the square.
    const line = pieces.length === 1 ? pieces[0] : pieces.join("");
    pieces = [];
    if (line === "") return endBlock();
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (name === "data") data = data === undefined ? value : `${data}\n${value}`;
    else if (name === "event") type = value;
    else if (name === "id" && !value.includes("\0")) id = value;
    else if (name === "retry" && /^\d+$/.test(value)) to.retry?.(Number(value));
    else {
      // Nothing of it is kept.
      size -= line.length;
      if (name === "") to.comment?.(value);
    }
  }

  return (text) => {
    if (text === "") return;
    let start = (isFirst && text[0] === "\uFEFF") || (isAfterCr && text[0] === "\n") ? 1 : 0;
    isFirst = isAfterCr = false;
    let cr = text.indexOf("\r", start);
    let lf = text.indexOf("\n", start);
    while (cr >= 0 || lf >= 0) {
      const end = cr < 0 || (lf >= 0 && lf < cr) ? lf : cr;
      add(text.slice(start, end));
      endLine();
      start = end + 1;
      if (end === cr) {
        isAfterCr = start === text.length;
        if (text[start] === "\n") start++;
        cr = text.indexOf("\r", start);
      }
      if (lf >= 0 && lf < start) lf = text.indexOf("\n", start);
    }
    if (start < text.length) add(text.slice(start));
  };
}

/**
 * The server's own events, in a stream that began with hello.
 *
 * @param {string} type @param {string} data @param {string} [id] @returns {Block[] | undefined}
 */
function ownBlocks(type, data, id) {
  if (!data) return type === "live" || type === "position" ? [{ id, isLive: type === "live" }] : undefined;
  const value = type === "gap" || type === "batch" ? parsed(data) : undefined;
  if (type === "gap") return value?.topics && [{ id, gap: value }];
  if (!Array.isArray(value) || !value.every((entry) => entry?.id)) return;
  return value.map(({ id, topic, event = "message", data }) => ({ id, event: { type: event, topic, value: data } }));
}

/** @param {string} json @returns {any} */
function parsed(json) {
  try {
    return JSON.parse(json);
  } catch {
    return undefined;
  }
}

const EVENT_STREAM = "text/event-stream";

/** The content type, without parameters. @param {Response} response */
const typeOf = ({ headers }) => (headers.get("content-type") ?? "").split(";")[0].trim().toLowerCase();

/** Of a head that breaks off, Chromium takes the first digits for the status. @param {number} status */
const isTemporary = (status) => [408, 425, 429].includes(status) || status < 200 || status >= 500;

/** @param {Response} [response] */
function retryAfter(response) {
  const value = response?.headers.get("retry-after") ?? "";
  return Math.max(/^\d+$/.test(value) ? 1000 * Number(value) : Date.parse(value) - Date.now(), 0) || 0;
}

/** The UTF-8 of a text, as a header needs it. @param {string} text */
const byteString = (text) => String.fromCharCode(...new TextEncoder().encode(text));

/** No event type has a line end. @param {string} [topic] */
const topicKey = (topic) => `\n${topic}`;

/** Whether it says something of topics that begin: `SEEN;LATE;TOPICS`. @param {string} id */
const isLate = (id) => id.includes(";");

/** The id without it. @param {string} id */
const seenOf = (id) => id.split(";")[0];

/** Compares two positions of one registry, `ms-seq-era`. `NaN`: they have no order. @param {string} a @param {string} b */
function order(a, b) {
  const [x, y] = [a, b].map((id) => /^(\d+)-(\d+)-(\w{9})$/.exec(id) ?? []);
  return x[3] === y[3] ? Number(x[1]) - Number(y[1]) || Number(x[2]) - Number(y[2]) : NaN;
}

/** The position of an event: while topics begin, that is the second one of its id. @param {string} id */
function positionOf(id) {
  const [seen, late] = id.split(";");
  return late ? late + seen.slice(seen.lastIndexOf("-")) : seen;
}

// ---- Tabs

const canShare = () => !!(globalThis.navigator?.locks && globalThis.BroadcastChannel);

/** @type {typeof Api.share} */
export function share(name) {
  const key = `tower-sse ${name}`;
  /** The streams of the page that are not closed. @type {Set<Host>} */
  const hosts = new Set();
  return /** @type {Api.Tabs} */ ({
    name,
    hosts,
    /** Changes with each logout. A page that is parked, or on plain http, has no channel. */
    logout: () => stored("localStorage", key),
    /** @param {string} url @param {Host} host */
    join: (url, host) => (canShare() ? newTab(`${key} ${url}`, host) : undefined),
    close() {
      stored("localStorage", key, `${Math.random()}`);
      for (const host of [...hosts]) host.logout();
    },
  });
}

const BEAT = 5_000;
const DOUBT = 2_000;

/**
 * One tab of several. The one that holds the lock leads: it has the stream, and sends each step to the others.
 *
 * A follower takes a step only if the step begins where the follower is. Otherwise it asks the server what it has missed.
 *
 * @param {string} name
 * @param {Host} host what a tab may do with its stream
 */
function newTab(name, host) {
  const me = `${Math.random()}`;
  const channel = new BroadcastChannel(name);
  const alarm = newAlarm();
  let isLeader = false;
  /** Ends this tab's place in the queue for the lock. @type {AbortController | undefined} */
  let turn;
  /** The highest of a leader. Messages of an earlier leader do not count. */
  let epoch = 0;
  /** What the others want. @type {Map<string, { topics: string[], at: number }>} */
  const wants = new Map();
  /** Of the leader's stream. @type {Status} */
  let status = { topics: [], refused: [], isLive: false, isOpen: false };
  /** Steps that came while this tab was not where they begin. @type {Step[]} */
  let steps = [];
  let isInStep = false;
  let isCatchingUp = false;
  let failures = 0; // in a row

  const say = (/** @type {object} */ message) => channel.postMessage({ from: me, ...message });
  const sayWants = (more = {}) => say({ want: [...host.own.keys()], ...more });

  /** Waits for the lock, and holds it until the turn ends. */
  function queue(steal = false) {
    turn?.abort();
    const mine = (turn = new AbortController());
    const { signal } = mine;
    const lead = () => signal.aborted || (begin(), new Promise((release) => signal.addEventListener("abort", release)));
    navigator.locks.request(name, steal ? { steal } : { signal }, lead).catch((/** @type {Error} */ error) => {
      if (mine !== turn) return;
      if (error.name === "AbortError") return demote();
      leave();
      host.alone();
    });
  }

  function begin() {
    isLeader = true;
    epoch = Math.max(epoch + 1, Date.now());
    host.lead();
    steps = [];
    beat();
  }

  function demote() {
    isLeader = isInStep = false;
    status = host.status();
    host.follow();
    queue();
    listen();
  }

  function leave() {
    say({ want: [] });
    turn?.abort();
    turn = undefined;
    channel.close();
    alarm.clear();
  }

  channel.onmessage = ({ data: message }) => {
    const { from, want, isNew, isAsking, isOver } = message;
    if (isOver) return host.close();
    if (want) wants.set(from, { topics: want, at: now() });
    if (isNew) sayWants();
    if (isLeader) {
      if (want) host.change();
      // A hidden page gets its timers late.
      if (isAsking || isNew) host.check(), tell();
    }
    if (!(message.epoch >= epoch)) return;
    if (isLeader) demote();
    epoch = message.epoch;
    listen();
    if (message.status) note(message.status, seenOf(message.id));
    else message.steps.forEach(take);
  };

  // ---- As the leader

  /** A leader that reads nothing is silent, so that another tab takes over. */
  function tell() {
    if (isLeader && !host.isFull()) say({ epoch, status: host.status(), id: host.id() });
  }

  function beat() {
    tell();
    host.change();
    alarm.set(BEAT, beat);
  }

  // ---- As a follower

  /** Waits for the next word of the leader. Without one, a visible tab takes the stream over. */
  function listen(ms = 2 * BEAT, isInDoubt = false) {
    alarm.set(ms, () => {
      if (!isInDoubt) return wake();
      if (!globalThis.document?.hidden) queue(true);
      listen();
    });
  }

  /** The page is in use: there has to be a leader that lives. */
  function wake() {
    if (isLeader) return;
    say({ isAsking: true });
    listen(DOUBT, true);
  }

  /** @param {Status} said @param {string} id of the leader's stream */
  function note(said, id) {
    status = said;
    host.tellRefused(status);
    sayWants();
    // What it gets of a topic that was missing begins anew.
    isInStep &&= isCovered();
    if ((!isInStep && isCovered()) || !hasHad(id)) catchUp();
    tellPage();
  }

  const tellPage = () => turn && !isLeader && host.caughtUp(isInStep && status.isLive);

  /** Whether the leader's stream has all topics of this tab. */
  const isCovered = () => host.covers(status);

  /** Whether this tab has had all events up to an id. @param {string} id */
  const hasHad = (id) => id === host.id() || order(id, host.id()) <= 0;

  /** @param {Step} step */
  function take(step) {
    const [after, id] = [step.after, step.id].map(seenOf);
    // An event of the start of a topic: a tab that wants the topic asks for its start itself.
    const isLate = after === id && id !== step.id;
    if (isLate) return;
    step = { ...step, after, id };
    if (isInStep && fit(step)) return;
    if (steps.push(step) > BACKLOG) steps = [];
    catchUp();
  }

  /** Takes the step if it fits. Returns whether it is dealt with. @param {Step} step */
  function fit(step) {
    const fits = step.after === host.id() && isCovered() && !host.isFull();
    if (fits) host.accept(step);
    return fits || hasHad(step.id);
  }

  async function catchUp() {
    isInStep = false;
    tellPage();
    // While the leader cannot read, a follower cannot either.
    if (isCatchingUp || !status.isOpen) return;
    isCatchingUp = true;
    try {
      for (;;) {
        await host.room();
        await askForStarts();
        const before = steps.length;
        await ask({ topics: wanted() });
        const at = steps.map(({ id }) => id).lastIndexOf(host.id());
        // A step without an order is in the response if it came before the request.
        steps = steps.filter((step, index) => index > at && !fit(step) && (index >= before || order(step.id, host.id()) > 0));
        if (!isCovered() || !(steps.length || host.starting().length)) break;
        await sleep(LEAST_PAUSE * (1 + Math.random()));
      }
      isInStep = isCovered();
      failures = 0;
    } catch (error) {
      // The next word of the leader is the next attempt.
      await host.rest(++failures, error);
    }
    isCatchingUp = false;
    tellPage();
  }

  /** @param {Ask} what */
  async function ask(what) {
    if (isLeader || !turn) throw new Error("this tab does not follow");
    return host.ask(what);
  }

  async function askForStarts() {
    const topics = host.starting();
    // A tab without an id gets all starts.
    if (host.id() && topics.length) await ask({ topics, isAside: true });
    topics.forEach(host.hasStarted);
  }

  const wanted = () => {
    const refused = new Map(status.refused);
    return [...new Set([...status.topics, ...host.own.keys()])].filter((topic) => !refused.has(topic));
  };

  const others = () => new Set([...wants.values()].flatMap(({ topics, at }) => (now() - at < 3 * BEAT ? topics : [])));

  queue();
  sayWants({ isNew: true });
  listen();

  return {
    leave,
    others,
    tell,
    wake,
    /** @param {Step[]} steps */
    send: (steps) => isLeader && say({ epoch, steps }),
    sayOver: () => say({ isOver: true }),
    topicsChanged() {
      sayWants();
      if (isLeader) return host.change();
      isInStep &&= isCovered();
      tellPage();
      if (host.starting().length) catchUp();
    },
    /** @param {string | undefined} topic */
    isForPage: (topic) => topic === undefined || host.own.has(topic) || !others().has(topic),
  };
}
