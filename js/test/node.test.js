/** The module with the real `fetch`, timers and sockets of Node. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { test } from "node:test";
import { open } from "../tower-sse.js";

/** A server that numbers its events, and the address of its stream. */
async function serve(answer) {
  const server = createServer(answer).listen(0, "127.0.0.1");
  await once(server, "listening");
  const close = () => {
    server.closeAllConnections();
    server.close();
  };
  return { url: `http://127.0.0.1:${server.address().port}/events?kept=a%20b`, close };
}

test("events come, a cut is resumed, and closing ends the request", async () => {
  const requests = [];
  let closed;
  const isClosed = new Promise((resolve) => (closed = resolve));
  const { url, close } = await serve((request, response) => {
    requests.push(request);
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write('retry: 20\nevent: hello\ndata: {"v":1,"heartbeat":15000,"resumed":"fresh","topics":["t"]}\nid: 0\n\n');
    if (requests.length === 1) {
      response.write("id: 1\ndata: {\"n\":1}\n\nid: 2\nda");
      setTimeout(() => response.destroy(), 20);
    } else {
      // In pieces within a character.
      const [first, second] = [Buffer.from('id: 2\ndata: {"n":2,"text":"€'), Buffer.from('"}\n\nevent: live\ndata: \n\n')];
      response.write(first.subarray(0, -1));
      setTimeout(() => response.write(Buffer.concat([first.subarray(-1), second])), 20);
      response.on("close", closed);
    }
  });
  const stream = open(url, { topics: ["t"], headers: { "x-user": "17" } });
  const events = [];
  for await (const { json } of stream) {
    events.push(json);
    if (json.n === 2) break;
  }
  assert.deepEqual(events, [{ n: 1 }, { n: 2, text: "€" }]);
  assert.deepEqual([stream.lastEventId, stream.state.phase, stream.stats.opens], ["2", "open", 2]);
  stream.close();
  await isClosed;
  assert.deepEqual(
    requests.map(({ url, headers }) => [url, headers["last-event-id"], headers["x-user"], headers.accept]),
    [
      ["/events?kept=a+b&topic=t&hello=1", undefined, "17", "text/event-stream"],
      ["/events?kept=a+b&topic=t&hello=1", "1", "17", "text/event-stream"],
    ],
  );
  close();
});

test("a refusal is read, and a response without an end is given up", async () => {
  const { url, close } = await serve((request, response) => {
    response.writeHead(request.headers["x-kind"] === "endless" ? 404 : 403, { "content-type": "text/plain" });
    if (request.headers["x-kind"] === "endless") response.write("for ever");
    else response.end("not you");
  });
  const outcome = (kind, connectTimeout) =>
    new Promise((resolve) => {
      const texts = [];
      const stream = open(url, {
        headers: { "x-kind": kind },
        connectTimeout,
        retries: 1,
        backoff: { base: 10 },
        onRefused: ({ text }) => void texts.push(text),
      });
      stream.subscribe(({ phase, why }) => phase === "closed" && resolve([why, texts]));
    });
  assert.deepEqual(await outcome("whole", 15_000), ["refused", ["not you"]]);
  assert.deepEqual(await outcome("endless", 200), ["gave up", []]);
  close();
});

test("a loop ends when its stream is closed", async () => {
  const { url, close } = await serve((_, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write("data: 1\n\n");
  });
  const stream = open(url, { hello: false });
  const seen = [];
  for await (const { data } of stream) {
    seen.push(data);
    queueMicrotask(stream.close);
  }
  assert.deepEqual(seen, ["1"]);
  close();
});
