// A page in a Chromium of its own, which CHROMIUM names, and somebody who looks at it.
// Usage: examples-pages.mjs URL
//
// It says `{ open }` when the page is there. Who writes `{ fill: [SELECTOR, TEXT] }`, `{ click: SELECTOR }` or
// `{ see: [SELECTOR, TEXT] }` in a line gets a line when that is done, or when the text is to be seen there. What the page throws
// and does not catch is told as `{ uncaught }`. It ends when its standard input does, and Chromium with it.

import { createInterface } from "node:readline";
import puppeteer from "puppeteer-core";

const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM,
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server"],
  // Who started this has a bound.
  timeout: 0,
  protocolTimeout: 0,
});
// Whatever is waited for.
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
  const { fill, click, see } = JSON.parse(line);
  if (fill) await page.locator(fill[0]).fill(fill[1]);
  if (click) await page.locator(click).click();
  if (see) await page.waitForFunction(isSeen, { polling: "mutation" }, ...see);
  say({ done: line });
}

function isSeen(selector, text) {
  const elements = [...document.querySelectorAll(selector)];
  return elements.some((element) => element.checkVisibility() && element.textContent.includes(text));
}
