// Runs a headless Firefox and shows all pages in it, as only one program can drive a Firefox. FIREFOX is the path of the browser.
// Exits, and closes Firefox, when the standard input ends.
//
// Prints `{ port, version }`. A client connects to the port and sends `{ page, url, types, times }` in a line. It gets the page's
// reports, line by line. The page is closed when the connection ends.

import { createServer } from "node:net";
import puppeteer from "puppeteer-core";
import { addressOf, fileAt, isOurs } from "./pages.mjs";

const browser = await puppeteer.launch({
  browser: "firefox",
  executablePath: process.env.FIREFOX,
  extraPrefsFirefox: { "network.proxy.type": 0 },
  // The test that starts this program has a time limit.
  timeout: 0,
});
browser.on("disconnected", () => process.exit(1));
process.stdin.resume().on("end", async () => {
  browser.removeAllListeners("disconnected");
  await browser.close();
  process.exit();
});

const server = createServer((socket) => {
  socket.on("error", () => {});
  let wanted = "";
  socket.setEncoding("utf8").on("data", (text) => {
    wanted += text;
    if (!wanted.endsWith("\n")) return;
    show(JSON.parse(wanted), socket).catch((error) => {
      // A pending call fails when the page is closed. That is not an error.
      if (!socket.destroyed) complain(error, socket);
    });
  });
});
server.listen(0, "127.0.0.1", async () => {
  const version = (await browser.version()).split("/").at(-1);
  process.stdout.write(JSON.stringify({ port: server.address().port, version }) + "\n");
});

// Firefox sometimes loses a page that is opened while another one is closed. So these calls run one after the other.
let last = Promise.resolve();
const inTurn = (act) => (last = last.then(act, act));

async function show(wanted, socket) {
  // A context has its own cookies, caches and connections.
  const context = await inTurn(() => browser.createBrowserContext());
  const close = () => inTurn(() => context.close()).catch(() => {});
  if (socket.destroyed) return close();
  socket.on("close", close);
  const page = await inTurn(() => context.newPage());
  page.on("request", (request) => answer(request).catch(() => {}));
  page.on("pageerror", (error) => complain(error, socket));
  // An exposed function would cost several round trips per call.
  page.on("console", (message) => socket.write(message.text() + "\n"));
  await page.setRequestInterception(true);
  await page.evaluateOnNewDocument(() => (globalThis.say = (observation) => console.log(observation)));
  await page.goto(addressOf(wanted), { timeout: 0 });
}

async function answer(request) {
  if (!isOurs(request.url())) return request.continue();
  const { status, type, body } = await fileAt(request.url());
  return request.respond({ status, contentType: type, body });
}

function complain(error, socket) {
  process.stderr.write(`${error.stack}\n`);
  socket.destroy();
}
