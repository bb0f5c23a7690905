import assert from "node:assert/strict";
import { test } from "node:test";
import { Page, World } from "./world.js";

/** A page with one stream, and what it has seen. */
function visit(options = {}, pageOptions = {}, world = new World()) {
  const page = new Page(world, pageOptions);
  const stream = page.open("/events", { topics: ["a"], ...options });
  const seen = [];
  stream.on("*", (event) => seen.push(event.json.n));
  return { world, server: world.server, page, stream, seen };
}

const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, at) => from + at);

test("a stream connects after the current task, and not if it is closed in it", async () => {
  const { world, server, page, stream } = visit();
  page.open("/events").close();
  assert.equal(stream.state.phase, "idle");
  assert.equal(server.requests.length, 0);
  await world.run(100);
  assert.equal(stream.state.phase, "open");
  assert.equal(server.requests.length, 1);
  assert.equal(server.requests[0].url.search, "?topic=a&hello=1");
  assert.equal(server.requests[0].headers.get("accept"), "text/event-stream");
});

test("a cut before the first event loses nothing", async () => {
  const { world, server, seen } = visit();
  await world.run(100);
  server.cut(server.streams[0]);
  server.publish("a");
  server.publish("a");
  await world.run(5_000);
  assert.deepEqual(seen, [1, 2]);
  assert.match(server.requests[1].headers.get("last-event-id"), /-0-7k3m9p2xr$/);
});
