import assert from "node:assert/strict";
import { test } from "node:test";
import { createParser } from "eventsource-parser";
import fc from "fast-check";
import { parser } from "../tower-sse.js";

/** Everything that a parser gives for the pieces, in order. */
function parsed(pieces, max) {
  const seen = [];
  const to = {
    event: (type, data, id) => seen.push({ type, data, id }),
    id: (id) => seen.push({ id }),
    retry: (ms) => seen.push({ retry: ms }),
    comment: (text) => seen.push({ comment: text }),
  };
  const feed = parser(to, max);
  for (const piece of pieces) feed(piece);
  return seen;
}

const events = (pieces) => parsed(pieces).filter((it) => "data" in it);
const event = (data, more = {}) => ({ type: "message", data, id: undefined, ...more });

/** All ways to cut a short text into two and into single characters. */
function* cuts(text) {
  yield [...text];
  for (let at = 0; at <= text.length; at++) yield [text.slice(0, at), text.slice(at)];
}

/** The same text in other pieces. */
const cut = (text, places) => {
  const at = [...new Set(places.map((place) => place % (text.length + 1)))].sort((a, b) => a - b);
  return [0, ...at].map((start, index) => text.slice(start, at[index]));
};

const line = fc.oneof(
  fc.constantFrom("data", "data:", "data: ", "data:  x", "event: t", "event:", "id", "id: 7", "retry: 5", "retry: x", ": c", ":", ""),
  fc.string({ unit: "binary", maxLength: 12 }).map((text) => `data: ${text}`),
  fc.string({ unit: fc.constantFrom("d", ":", " ", "\0", "\uFEFF", "é", "😀", "\n", "\r"), maxLength: 6 }),
);
const stream = fc.array(fc.tuple(line, fc.constantFrom("\n", "\r", "\r\n", "\n\n", "\r\r", "\r\n\r\n", "")), { maxLength: 30 });

test("any text in any cut gives the events of eventsource-parser", () => {
  fc.assert(
    fc.property(stream, fc.boolean(), fc.array(fc.nat(), { maxLength: 20 }), (lines, hasMark, places) => {
      const text = (hasMark ? "\uFEFF" : "") + lines.map((pair) => pair.join("")).join("");
      // eventsource-parser forgets the block's id then, and the standard ignores the line.
      fc.pre(!text.split(/[\r\n]/).some((line) => line.startsWith("id") && line.includes("\0")));
      const expected = [];
      const other = createParser({ onEvent: ({ event, data, id }) => expected.push({ type: event || "message", data, id }) });
      // In one piece, and without a BOM and with a line end: the cuts are ours to bear.
      other.feed(text.replace(/^\uFEFF/, "") + "\n");
      const pieces = cut(text, places);
      assert.deepEqual(events([...pieces, "\n"]), expected);
    }),
    { numRuns: 20_000 },
  );
});

test("a cut changes nothing, comments and reconnection times included", () => {
  fc.assert(
    fc.property(stream, fc.array(fc.nat(), { maxLength: 20 }), (lines, places) => {
      const text = lines.map((pair) => pair.join("")).join("");
      assert.deepEqual(parsed(cut(text, places)), parsed([text]));
    }),
    { numRuns: 5_000 },
  );
});

test("one byte order mark at the beginning is no part of the first line", () => {
  for (const pieces of cuts("\uFEFFdata: a\n\n")) assert.deepEqual(events(pieces), [event("a")]);
  for (const pieces of cuts("\uFEFF\uFEFFdata: a\n\ndata: b\n\n")) assert.deepEqual(events(pieces), [event("b")]);
  for (const pieces of cuts("\n\uFEFFdata: a\n\n")) assert.deepEqual(events(pieces), []);
});

test("each line end is one", () => {
  for (const end of ["\n", "\r", "\r\n"]) {
    const text = ["data: a", "data: b", "", "data: c", "", ""].join(end);
    for (const pieces of cuts(text)) assert.deepEqual(events(pieces), [event("a\nb"), event("c")], JSON.stringify(pieces));
  }
  for (const pieces of cuts("data: a\r\n\ndata: b\n\r")) assert.deepEqual(events(pieces), [event("a"), event("b")]);
});

test("an id belongs to its block, and one with NUL is ignored", () => {
  assert.deepEqual(parsed(["id: 1\ndata: a\n\ndata: b\n\nid: 2\n\nid: 3\nid: 4\0\ndata: c\n\nid\ndata: d\n\n"]), [
    event("a", { id: "1" }),
    event("b"),
    { id: "2" },
    event("c", { id: "3" }),
    event("d", { id: "" }),
  ]);
});

test("a block without data is no event, and its type is forgotten", () => {
  assert.deepEqual(events(["event: t\n\ndata\n\nevent: u\ndata:\ndata:\n\nevent:\ndata: x\n\n"]), [
    event(""),
    event("\n", { type: "u" }),
    event("x"),
  ]);
});

test("a reconnection time has digits only", () => {
  assert.deepEqual(parsed(["retry: 10\nretry: 1e3\nretry:\nretry: -1\nretry: 1099511627776\n\n"]), [{ retry: 10 }, { retry: 2 ** 40 }]);
});

test("UTF-8 that is cut anywhere arrives whole", () => {
  const bytes = new TextEncoder().encode("data: é€😀\n\n");
  for (let at = 0; at <= bytes.length; at++) {
    const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
    const pieces = [bytes.slice(0, at), bytes.slice(at)].map((piece) => utf8.decode(piece, { stream: true }));
    assert.deepEqual(events(pieces), [event("é€😀")]);
  }
});

test("an event without an end is refused at the limit", () => {
  for (const endless of ["x".repeat(10), "data: xxxxx\n", "event: x\nid: 1\ndata: y\n", ": xxxxxxx"]) {
    let fed = 0;
    const feed = parser({ event: () => assert.fail("there is no event") }, 1_000);
    assert.throws(() => {
      for (; fed < 10_000; fed += endless.length) feed(endless);
    }, RangeError);
    // Line ends do not count.
    assert.ok(fed <= 1_200, `${fed}`);
  }
});

test("many events and many comments are no large event", () => {
  assert.equal(events(Array(1_000).fill("data: 0123456789\n\n: a comment of some length\n"), 100).length, 1_000);
  const feed = parser({ event() {} }, 100);
  for (let at = 0; at < 1_000; at++) feed(": a comment\n");
});

test("the time for an event grows with its size, also in small pieces", () => {
  const piece = "x".repeat(64);
  const time = (/** pieces */ count) => {
    let length = 0;
    const feed = parser({ event: (_, data) => (length = data.length) });
    // Of the processor: other programs run beside this one.
    const began = process.cpuUsage();
    feed("data: ");
    for (let at = 0; at < count; at++) feed(piece);
    feed("\n\n");
    const { user, system } = process.cpuUsage(began);
    assert.equal(length, 64 * count);
    return user + system;
  };
  const [small, large] = [16_384, 131_072].map((count) => () => time(count));
  const times = Array.from({ length: 9 }, () => [small(), large()]);
  const [best, most] = [0, 1].map((at) => Math.min(...times.map((pair) => pair[at])));
  // 8 MiB against 1 MiB: 8 times the size. By the square it would be 64 times the time.
  assert.ok(most < 24 * best, `${most} us against ${best} us`);
});

test("a million events leave no memory behind", async () => {
  const { setFlagsFromString } = await import("node:v8");
  setFlagsFromString("--expose-gc");
  const gc = (await import("node:vm")).runInNewContext("gc");
  let count = 0;
  const feed = parser({ event: () => count++ });
  const chunk = "event: tick\nid: 1763612345678-0-7k3m9p2xr\ndata: {\"price\":187.42}\n\n".repeat(100);
  const used = () => (gc(), process.memoryUsage().heapUsed);
  for (let at = 0; at < 1_000; at++) feed(chunk);
  const before = used();
  for (let at = 0; at < 9_000; at++) feed(chunk);
  const grown = used() - before;
  assert.equal(count, 1_000_000);
  assert.ok(grown < 1 << 20, `${grown} bytes`);
});
