/// <reference lib="esnext.disposable" />

/** Opens an event stream. It connects after the current task, and stays connected until it is closed. */
export function open<E extends object = Record<string, unknown>>(url: string | URL, options?: Options): EventStream<E>;

/**
 * One stream for all tabs of one user. The name has to contain the user: tabs with the same name get the same events.
 *
 * Needs a secure origin (https or localhost). On others, each visible tab has its own stream, and a hidden one is parked.
 */
export function share(name: string): Tabs;

/**
 * Parses an event stream that comes in pieces of any size, by the rules of the HTML standard.
 *
 * Throws a `RangeError` when an event has more than `max` characters. Default: 16 Mi.
 */
export function parser(to: ParserEvents, max?: number): (text: string) => void;

export interface ParserEvents {
  /** `id`: absent if the block has none. The id of an earlier event then stays the last event id. */
  event(type: string, data: string, id?: string): void;
  /** The id of a block without data. */
  id?(id: string): void;
  retry?(ms: number): void;
  comment?(text: string): void;
}

export interface Options {
  /** Topics that the stream has from its beginning: `?topic=a&topic=b`. */
  topics?: Iterable<string>;
  /** Headers of each request. A function is called for each one, so that a token is never old. */
  headers?: HeadersInit | ((attempt: { number: number; signal: AbortSignal }) => HeadersInit | Promise<HeadersInit>);
  /** Default: GET. A stream of another method is opened once, unless `body` is a function. */
  method?: string;
  body?: BodyInit | (() => BodyInit);
  credentials?: RequestCredentials;
  fetch?: typeof fetch;
  /** Closes the stream. */
  signal?: AbortSignal;
  /** Resumes after this event. */
  lastEventId?: string;
  /** Keeps the last event id over a reload, under this key of `sessionStorage`. For pages that keep what they show. */
  resume?: string;
  /** The pause after failures, in milliseconds, if the server tells none. Default: 1000, doubled up to 30000, with jitter. */
  backoff?: { base?: number; cap?: number };
  /** Closes the stream after so many failures in a row. Default: never. */
  retries?: number;
  /** Whether the server is tower-sse: asks for its `hello`. Default: true. */
  hello?: boolean;
  /** Connects only while somebody listens. A second after the last listener has left, the stream is parked. Default: false. */
  lazy?: boolean;
  /** How long nothing may arrive before the first event or comment is whole, in milliseconds. Default: 15000. */
  connectTimeout?: number;
  /**
   * How long a stream may be silent, in milliseconds. 0: for ever. Default: 60000.
   *
   * If the server tells its heartbeat, it is three of them, and at least 5000.
   */
  silence?: number;
  /** Parks the stream of a page that is hidden for so many milliseconds. Default: keep, and 5000 if tabs cannot share. */
  hidden?: "keep" | number;
  /** Whether to poll: in a network that shows no stream, never, always. Default: auto. */
  poll?: "auto" | "never" | "always";
  /** The most characters of an event. A larger one closes the stream. Default: 16 Mi. */
  maxEvent?: number;
  /** One stream for all tabs: `share("user 17")`. */
  share?: Tabs;
  /**
   * Decides what an answer means that is no stream. A number: try again, not before so many milliseconds.
   *
   * Default: 408, 425, 429 and 5xx are tried again. So is a 401, once, if `headers` is a function. All others close the stream.
   */
  onRefused?(answer: Refusal): Verdict | undefined | Promise<Verdict | undefined>;
  /** Some events are lost. Load the state again: what follows waits for the promise. */
  onGap?(gap: Gap): unknown;
  /** The server does not give a topic. */
  onTopicRefused?(topic: string, why: string): void;
}

export interface Refusal {
  readonly status: number;
  /** The first 1000 characters. */
  readonly text: string;
  readonly headers: Headers;
  readonly attempt: number;
}

export type Verdict = "again" | "stop" | number;

export interface Gap {
  readonly topics: string[];
  /** The last event before the gap. */
  readonly after?: string;
}

export interface StreamEvent<T = unknown> {
  readonly type: string;
  readonly data: string;
  /** The data as JSON, parsed when it is first asked for. Throws if it is none. */
  readonly json: T;
  /** Where a stream resumes that has had this event. */
  readonly id: string;
  readonly topic?: string;
}

/** A snapshot: it never changes, and it is a new object only if something of it has changed. */
export interface State {
  readonly phase: "idle" | "connecting" | "open" | "waiting" | "parked" | "following" | "closed";
  /** Why it is closed. */
  readonly why?: "closed" | "ended" | "refused" | "gave up" | "too large";
  /** The last failure, until the stream is open again. */
  readonly error?: unknown;
  /** Failures in a row. */
  readonly attempt: number;
  /** When the next attempt begins, as `Date.now()`. */
  readonly retryAt?: number;
  readonly transport: "stream" | "poll";
  /** How the last resume went, by the server. */
  readonly resumed?: "fresh" | "continued" | "gap";
  /** The page has had every event until now. */
  readonly caughtUp: boolean;
  /** Events are lost, and `onGap` has not yet repaired it. */
  readonly stale: boolean;
  /** Among the tabs that share. */
  readonly role: "alone" | "leader" | "follower";
}

/** Counters, which change all the time. They are not part of the state. */
export interface Stats {
  readonly opens: number;
  readonly events: number;
  readonly bytes: number;
  readonly errors: number;
  /** As `Date.now()`, and 0 before the first one. */
  readonly lastByteAt: number;
  readonly lastEventAt: number;
}

export interface EventStream<E extends object = Record<string, unknown>> extends AsyncIterable<StreamEvent> {
  readonly state: State;
  readonly stats: Stats;
  /** The last event that all listeners are through with. */
  readonly lastEventId: string;
  /** Listens to events of a type, or to all: `*`. Returns the function that ends it. */
  on<K extends keyof E & string>(type: K, listener: (event: StreamEvent<E[K]>) => void, options?: { signal?: AbortSignal }): () => void;
  on(type: "*", listener: (event: StreamEvent<E[keyof E]>) => void, options?: { signal?: AbortSignal }): () => void;
  off(type: string, listener: (event: never) => void): void;
  /** Adds a topic to the stream, and listens to it. Calls are counted: the last function that is called removes the topic. */
  topic<T = unknown>(name: string, listener?: (event: StreamEvent<T>) => void): () => void;
  /** Takes back a topic of the options. It stays while a call of `topic` holds it. */
  removeTopic(name: string): void;
  /** Calls the listener now and with each new state. Returns the function that ends it. */
  subscribe(listener: (state: State) => void): () => void;
  /** Connects again, now. */
  reconnect(): void;
  /** Ends the stream for good. */
  close(): void;
  [Symbol.dispose](): void;
}

export interface Tabs {
  readonly name: string;
  /** Closes the streams of all tabs, for example at a logout. */
  close(): void;
}
