// Many clients in one process. CLIENT is the path of `tower-sse.js`.
// Usage: storm.mjs COUNT URL
//
// Prints `{ live }` when all clients are live. Then reads `{ last }`, a number: prints `{ clients }` when all are live again and have had the
// event with this number. Each has `planned`, the pause before its first attempt after the cut in milliseconds, and what it was told of its resume.

import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const { open } = await import(pathToFileURL(process.env.CLIENT));
const [count, url] = process.argv.slice(2);
let wanted;
let then = () => say({ live: true });
const say = (line, then) => process.stdout.write(JSON.stringify(line) + "\n", then);

const clients = [];
while (clients.length < Number(count)) {
  const it = { first: undefined, last: undefined, wrong: 0, planned: undefined, resumed: undefined, opens: 0 };
  const stream = open(url);
  stream.on("*", ({ data }) => {
    const number = Number(data);
    it.first ??= number;
    if (it.last !== undefined && number !== it.last + 1) it.wrong++;
    it.last = number;
    check();
  });
  stream.subscribe(({ phase, retryAt, resumed, caughtUp }) => {
    if (phase === "waiting" && retryAt) it.planned ??= Math.round(retryAt - Date.now());
    Object.assign(it, { resumed, caughtUp, opens: stream.stats.opens });
    check();
  });
  clients.push(it);
}

function check() {
  if (!then || clients.length < count || !clients.every(({ caughtUp, last }) => caughtUp && (wanted === undefined || last === wanted))) return;
  then();
  then = undefined;
}

for await (const line of createInterface({ input: process.stdin })) {
  wanted = JSON.parse(line).last;
  then = () => say({ clients }, () => process.exit());
  check();
}
