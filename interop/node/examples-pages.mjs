// Shows a page in a new browser, and uses the page on request. CHROMIUM or FIREFOX is the path of the browser.
// Usage: examples-pages.mjs URL
//
// Prints `{ open }` when the page has loaded. Then reads lines: `{ fill: [SELECTOR, TEXT] }`, `{ click: SELECTOR }`, `{ press: KEY }`,
// `{ type: TEXT }`, `{ reload: true }`, `{ size: [WIDTH, HEIGHT] }`, `{ allow: PERMISSION }`,
// `{ hide: true }`, which shows another page before this one, `{ hide: false }`, `{ tab: NUMBER }`, which goes to another tab with the same page,
// `{ leave: true }`, which closes the tab, `{ see: [SELECTOR, TEXT] }`, `{ read: SELECTOR }`,
// `{ ask: EXPRESSION }` or `{ until: EXPRESSION }`. Prints a line when the action is done, when the page shows the text, or when the
// expression is true; with `read`, the line has the `texts` of all elements, and with `ask` the `value`. Prints `{ uncaught }` for each
// uncaught error of the page. Exits, and closes the browser, when the standard input ends.

import { createInterface } from "node:readline";
import puppeteer from "puppeteer-core";

const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const { CHROMIUM, FIREFOX } = process.env;
const browser = await puppeteer.launch({
  browser: FIREFOX ? "firefox" : "chrome",
  executablePath: FIREFOX ?? CHROMIUM,
  args: FIREFOX ? [] : ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server"],
  extraPrefsFirefox: { "network.proxy.type": 0 },
  // The test that starts this program has a time limit.
  timeout: 0,
  protocolTimeout: 0,
});
// Exits even while an action waits.
process.stdin.on("end", async () => {
  await browser.close();
  process.exit();
});
const tabs = [];
let page = await show(0);
say({ open: true });

for await (const line of createInterface({ input: process.stdin })) {
  const { fill, click, press, type, reload, size, allow, hide, tab, leave, see, read, ask, until } = JSON.parse(line);
  if (fill) await page.locator(fill[0]).fill(fill[1]);
  if (click) await page.locator(click).click();
  if (press) await page.keyboard.press(press);
  if (type) await page.keyboard.type(type);
  if (reload) await page.reload();
  if (size) await page.setViewport({ width: size[0], height: size[1] });
  if (allow) await browser.defaultBrowserContext().overridePermissions(new URL(page.url()).origin, [allow]);
  if (tab !== undefined) page = await show(tab);
  if (leave) await page.close();
  if (hide) await (await browser.newPage()).bringToFront();
  if (hide === false) await page.bringToFront();
  // A hidden page draws no frames, and `polling: "mutation"` does not see the text of a text node change.
  if (see) await page.waitForFunction(isSeen, { polling: 50 }, ...see);
  if (until) await page.waitForFunction(until, { polling: 50 });
  const value = ask && (await page.evaluate(ask));
  const texts = read && (await page.$$eval(read, (elements) => elements.map((element) => element.textContent)));
  say({ done: line, texts, value });
}

/** Shows a tab of the browser. A new one gets the page. */
async function show(number) {
  const isNew = !tabs[number];
  const tab = (tabs[number] ??= await browser.newPage());
  await tab.bringToFront();
  if (!isNew) return tab;
  tab.setDefaultTimeout(0);
  tab.on("pageerror", (error) => say({ uncaught: String(error.message ?? error) }));
  await tab.goto(process.argv[2]);
  return tab;
}

function isSeen(selector, text) {
  const elements = [...document.querySelectorAll(selector)];
  return elements.some((element) => element.checkVisibility() && element.textContent.includes(text));
}
