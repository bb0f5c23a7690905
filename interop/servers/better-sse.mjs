// Numbered events with better-sse: one each 50 ms, to all. With `?ids`, they have ids, and a client resumes. Without, it gets what comes.
//
// Prints its port. Exits when the standard input ends.

import { createServer } from "node:http";
import { createEventBuffer, createSession } from "better-sse";

let last = 0;
const clients = new Set();
setInterval(() => {
  last++;
  for (const send of clients) send(last);
}, 50);

const server = createServer(async (request, response) => {
  const session = await createSession(request, response, { keepAlive: 500, retry: 100 });
  const hasIds = request.url.includes("ids");
  // A `push` always has an id.
  const push = (number) => session.push(number, "message", `${number}`);
  const send = hasIds ? push : (number) => session.batch(createEventBuffer().data(number).dispatch());
  if (hasIds && session.lastId) for (let number = Number(session.lastId) + 1; number <= last; number++) send(number);
  clients.add(send);
  session.on("disconnected", () => clients.delete(send));
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.resume().on("end", () => process.exit());
