/**
 * The size of this client and of others in a page, and the speed of their parsers. `npm run bench` prints the table of the README.
 *
 * Each parser gets the same bytes in the same pieces, so the decoding of UTF-8 counts for all.
 */

import { readFileSync } from "node:fs";
import { cpus } from "node:os";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { getLines, getMessages } from "@microsoft/fetch-event-source/lib/esm/parse.js";
import { build } from "esbuild";
import { createParser } from "eventsource-parser-4";
import { parser } from "../tower-sse.js";

const root = fileURLToPath(new URL("..", import.meta.url));
const versionOf = (name) => JSON.parse(readFileSync(`${root}/node_modules/${name}/package.json`)).version;

// ---- Sizes

/** @type {[string, string][]} What a table calls it, and what a page imports. */
const IMPORTS = [
  ["tower-sse: all", 'export * from "./tower-sse.js"'],
  ["tower-sse: without `share`", 'export { open } from "./tower-sse.js"'],
  ["tower-sse: `parser` alone", 'export { parser } from "./tower-sse.js"'],
  ["eventsource", 'export * from "eventsource"'],
  ["eventsource-parser", 'export { createParser } from "eventsource-parser-4"'],
  ["@microsoft/fetch-event-source", 'export { fetchEventSource } from "@microsoft/fetch-event-source"'],
  ["reconnecting-eventsource", 'export { default } from "reconnecting-eventsource"'],
  ["event-source-polyfill", 'export * from "event-source-polyfill"'],
  ["sse.js", 'export { SSE } from "sse.js"'],
];

console.log("| import | version | minified | gzip -9 |\n|---|---|---|---|");
for (const [name, contents] of IMPORTS) {
  const stdin = { contents, resolveDir: root };
  const { outputFiles } = await build({ stdin, bundle: true, minify: true, format: "esm", target: "es2022", write: false });
  const [{ contents: bytes }] = outputFiles;
  const isOurs = name.startsWith("tower-sse");
  const version = isOurs ? JSON.parse(readFileSync(`${root}/package.json`)).version : versionOf(name === "eventsource-parser" ? "eventsource-parser-4" : name);
  const number = (bytes) => bytes.toLocaleString("en");
  console.log(`| ${name} | ${version} | ${number(bytes.length)} B | ${number(gzipSync(bytes, { level: 9 }).length)} B |`);
}

// ---- Parsers

/** Each makes a function that takes bytes, and calls `found` with the data of each event. */
const PARSERS = {
  "tower-sse": (found) => decoded(parser({ event: (_, data) => found(data) })),
  "eventsource-parser": (found) => {
    const it = createParser({ onEvent: ({ data }) => found(data) });
    return decoded((text) => it.feed(text));
  },
  "@microsoft/fetch-event-source": (found) => {
    return getLines(getMessages(() => {}, () => {}, ({ data }) => found(data)));
  },
};

function decoded(feed) {
  const utf8 = new TextDecoder();
  return (bytes) => feed(utf8.decode(bytes, { stream: true }));
}

const small = 'event: price\nid: 1763612345678-0-7k3m9p2xr\ndata: {"symbol":"AAPL","price":187.42}\n\n';
const token = 'data: {"choices":[{"delta":{"content":" lighthouse"}}]}\n\n';
const medium = `id: 17\ndata: ${JSON.stringify({ text: "ä lamp, ".repeat(120) })}\n\n`;

/** What is read, the size of the pieces, and the number of events. */
const LOADS = [
  ["events of 83 B, in pieces of 16 KiB", small.repeat(50_000), 16_384, 50_000],
  ["events of 57 B, a piece each", token.repeat(50_000), token.length, 50_000],
  ["events of 1.1 KB, in pieces of 1,400 B", medium.repeat(10_000), 1_400, 10_000],
  ["one event of 4 MiB, in pieces of 16 KiB", `data: ${"x".repeat(4 << 20)}\n\n`, 16_384, 1],
];
const RUNS = 9;

function piecesOf(text, size) {
  const bytes = new TextEncoder().encode(text);
  return Array.from({ length: Math.ceil(bytes.length / size) }, (_, at) => bytes.subarray(at * size, (at + 1) * size));
}

/** Milliseconds of the processor. Other programs run beside this one. */
function time(make, pieces, expected) {
  let count = 0;
  let length = 0;
  const feed = make((data) => (count++, (length += data.length)));
  const began = process.cpuUsage();
  for (const piece of pieces) feed(piece);
  const { user, system } = process.cpuUsage(began);
  if (count !== expected || !length) throw new Error(`${count} events instead of ${expected}`);
  return (user + system) / 1_000;
}

const names = Object.keys(PARSERS);
console.log(`\n| MB in a second of the processor, best of ${RUNS} runs | ${names.join(" | ")} |\n|---|${"---|".repeat(names.length)}`);
for (const [what, text, size, expected] of LOADS) {
  const pieces = piecesOf(text, size);
  const bytes = pieces.reduce((sum, { length }) => sum + length, 0);
  const best = Object.fromEntries(names.map((name) => [name, Infinity]));
  // In turn, so that a machine that slows down does so for all.
  for (let run = 0; run < RUNS; run++) {
    for (const name of names) best[name] = Math.min(best[name], time(PARSERS[name], pieces, expected));
  }
  console.log(`| ${what} | ${names.map((name) => Math.round(bytes / best[name] / 1_000)).join(" | ")} |`);
}
console.log(`\nNode ${process.versions.node}, esbuild ${versionOf("esbuild")}, ${cpus()[0].model.trim()}.`);
