// Shows a page in a new Chromium, and uses the page on request. CHROMIUM is the path of the browser.
// Usage: examples-pages.mjs URL
//
// Prints `{ open }` when the page has loaded. Then reads lines: `{ fill: [SELECTOR, TEXT] }`, `{ click: SELECTOR }`,
// `{ see: [SELECTOR, TEXT] }` or `{ read: SELECTOR }`. Prints a line when the action is done, or when the page shows the
// text; with `read`, the line has the `texts` of all elements. Prints `{ uncaught }` for each uncaught error of the page. Exits, and closes Chromium, when the standard input ends.

import { createInterface } from "node:readline";
import puppeteer from "puppeteer-core";

const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM,
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server"],
  // The test that starts this program has a time limit.
  timeout: 0,
  protocolTimeout: 0,
});
// Exits even while an action waits.
process.stdin.on("end", async () => {
  await browser.close();
  process.exit();
});
const page = await browser.newPage();
page.setDefaultTimeout(0);
page.on("pageerror", (error) => say({ uncaught: String(error.message ?? error) }));
await page.goto(process.argv[2]);
say({ open: true });

for await (const line of createInterface({ input: process.stdin })) {
  const { fill, click, see, read } = JSON.parse(line);
  if (fill) await page.locator(fill[0]).fill(fill[1]);
  if (click) await page.locator(click).click();
  if (see) await page.waitForFunction(isSeen, { polling: "mutation" }, ...see);
  const texts = read && (await page.$$eval(read, (elements) => elements.map((element) => element.textContent)));
  say({ done: line, texts });
}

function isSeen(selector, text) {
  const elements = [...document.querySelectorAll(selector)];
  return elements.some((element) => element.checkVisibility() && element.textContent.includes(text));
}
