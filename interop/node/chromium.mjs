// Shows a page in a running Chromium, whose DevTools are at the address in CHROMIUM.
// Usage: chromium.mjs PAGE TIMES URL [EVENT_TYPE...]

import { writeSync } from "node:fs";
import { addressOf, fileAt } from "./pages.mjs";

const [page, times, url, ...types] = process.argv.slice(2);
const browser = await connect(process.env.CHROMIUM);
// A context has its own cookies, caches and connections.
const { browserContextId } = await browser.send("Target.createBrowserContext", { disposeOnDetach: true });
const { targetId } = await browser.send("Target.createTarget", { url: "about:blank", browserContextId });
const { sessionId } = await browser.send("Target.attachToTarget", { targetId, flatten: true });
const inPage = (method, params) => browser.send(method, params, sessionId);

browser.on("Fetch.requestPaused", async ({ requestId, request }) => {
  const { status, type, body } = await fileAt(request.url);
  const responseHeaders = [{ name: "content-type", value: type }];
  const fields = { responseCode: status, responseHeaders, body: body.toString("base64") };
  await inPage("Fetch.fulfillRequest", { requestId, ...fields });
});
browser.on("Runtime.bindingCalled", ({ payload }) => {
  writeSync(1, payload + "\n");
  if (JSON.parse(payload).closed) process.exit();
});
browser.on("Runtime.exceptionThrown", ({ exceptionDetails }) => {
  writeSync(2, JSON.stringify(exceptionDetails) + "\n");
  process.exit(1);
});
await inPage("Fetch.enable", { patterns: [{ urlPattern: "*/interop/*" }] });
await inPage("Runtime.enable");
await inPage("Runtime.addBinding", { name: "say" });
await inPage("Page.navigate", { url: addressOf({ page, url, types, times: Number(times) }) });

/// The part of the Chrome DevTools Protocol that this program needs.
async function connect(address) {
  const socket = new WebSocket(address);
  await new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onerror = reject;
  });
  socket.onclose = () => process.exit(1);
  const answers = new Map();
  const listeners = new Map();
  let last = 0;
  socket.onmessage = ({ data }) => {
    const { id, method, params, result, error } = JSON.parse(data);
    if (id === undefined) return listeners.get(method)?.(params);
    const { resolve, reject } = answers.get(id);
    answers.delete(id);
    return error ? reject(new Error(error.message)) : resolve(result);
  };
  return {
    on: (method, listener) => listeners.set(method, listener),
    send(method, params = {}, sessionId = undefined) {
      const id = ++last;
      socket.send(JSON.stringify({ id, method, params, sessionId }));
      return new Promise((resolve, reject) => answers.set(id, { resolve, reject }));
    },
  };
}
