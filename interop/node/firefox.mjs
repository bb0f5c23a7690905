// A Firefox without a window, which FIREFOX names, and the pages in it: one program alone may drive a Firefox, so this one does for
// all. It ends when its standard input does, and Firefox with it.
//
// It begins by saying `{ port, version }`. Who connects to the port says `{ page, url, types, times }` in a line, and gets what the
// page says, line by line. The page is closed with the connection.

import { createServer } from "node:net";
import puppeteer from "puppeteer-core";
import { addressOf, fileAt, isOurs } from "./pages.mjs";

const browser = await puppeteer.launch({
  browser: "firefox",
  executablePath: process.env.FIREFOX,
  extraPrefsFirefox: { "network.proxy.type": 0 },
  // Who started this has a bound.
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
      // What it is in the middle of fails when the page is closed.
      if (!socket.destroyed) complain(error, socket);
    });
  });
});
server.listen(0, "127.0.0.1", async () => {
  const version = (await browser.version()).split("/").at(-1);
  process.stdout.write(JSON.stringify({ port: server.address().port, version }) + "\n");
});

// Firefox now and then loses a page that is opened while another one is closed: so it is one after the other.
let last = Promise.resolve();
const inTurn = (act) => (last = last.then(act, act));

async function show(wanted, socket) {
  // Its own cookies, caches and connections.
  const context = await inTurn(() => browser.createBrowserContext());
  const close = () => inTurn(() => context.close()).catch(() => {});
  if (socket.destroyed) return close();
  socket.on("close", close);
  const page = await inTurn(() => context.newPage());
  page.on("request", (request) => answer(request).catch(() => {}));
  page.on("pageerror", (error) => complain(error, socket));
  // A function that is exposed costs several turns for each call.
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
