// A page in Chromium, which runs already: its DevTools are at the address in CHROMIUM. The page is one of those in the folder
// PAGES, and comes from the origin of the stream, without its server's knowing, so that no CORS is in the way.
// Usage: chromium.mjs PAGE URL [EVENT_TYPE...]

import { writeSync } from "node:fs";
import { readFile } from "node:fs/promises";

const [page, url, ...types] = process.argv.slice(2);
const browser = await connect(process.env.CHROMIUM);
// Its own cookies, caches and connections.
const { browserContextId } = await browser.send("Target.createBrowserContext", { disposeOnDetach: true });
const { targetId } = await browser.send("Target.createTarget", { url: "about:blank", browserContextId });
const { sessionId } = await browser.send("Target.attachToTarget", { targetId, flatten: true });
const inPage = (method, params) => browser.send(method, params, sessionId);

browser.on("Fetch.requestPaused", async ({ requestId, request }) => {
  const [name] = new URL(request.url).pathname.split("/interop/").slice(-1);
  const found = await file(name);
  const fields = found
    ? { responseCode: 200, responseHeaders: [{ name: "content-type", value: found.type }], body: found.text }
    : { responseCode: 404 };
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
const address = new URL(`/interop/${page}.html`, url);
address.hash = JSON.stringify({ url, types });
await inPage("Page.navigate", { url: address.href });

/// A file of the pages, or of a package that a page imports.
async function file(name) {
  const type = name.endsWith(".html") ? "text/html; charset=utf-8" : "text/javascript";
  const packages = `${import.meta.dirname}/node_modules`;
  for (const path of [`${process.env.PAGES}/${name}`, `${packages}/${name}`, `${packages}/${name}.js`]) {
    const text = await readFile(path, "base64").catch(() => undefined);
    if (text !== undefined) return { type, text };
  }
}

/// The Chrome DevTools Protocol, as much of it as is needed.
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
