// Uses tabs of a new browser, as a person does. BROWSER is `chrome` or `firefox`, and PROGRAM is the path of the browser.
//
// Each line of the standard input is `{ id, does, tab, ... }`: what `actions` has. Each gets a line `{ id, value }` or `{ id, error }` when it
// is done, several at a time. A page's uncaught error is a line `{ uncaught }`. Exits, and closes the browser, when the standard input ends.
//
// The host `plain.test` is this machine, by an address that browsers do not trust: its pages have no locks.

import { readdirSync, readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import puppeteer from "puppeteer-core";

const isFirefox = process.env.BROWSER === "firefox";
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const browser = await puppeteer.launch({
  browser: process.env.BROWSER,
  executablePath: process.env.PROGRAM,
  acceptInsecureCerts: true,
  args: isFirefox ? [] : ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server", "--host-resolver-rules=MAP plain.test 127.0.0.1"],
  // Pages that are hidden or left are treated as people's browsers treat them.
  ignoreDefaultArgs: isFirefox
    ? false
    : ["--disable-back-forward-cache", "--disable-background-timer-throttling", "--disable-backgrounding-occluded-windows", "--disable-renderer-backgrounding"],
  extraPrefsFirefox: { "network.proxy.type": 0, "network.dns.forceResolve": "127.0.0.1" },
  // The test that starts this program has time limits.
  timeout: 0,
  protocolTimeout: 0,
});
browser.on("disconnected", () => process.exit(1));
process.stdin.on("end", async () => {
  browser.removeAllListeners("disconnected");
  await browser.close();
  process.exit();
});

const tabs = new Map();
const users = new Map([["", browser.defaultBrowserContext()]]);
// Firefox sometimes loses a page that is opened while another one is closed. So these calls run one after the other.
let last = Promise.resolve();
const inTurn = (act) => (last = last.then(act, act));

/** Tries again if the page does not load: the server may be starting. */
async function load(act) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await act();
    } catch (error) {
      if (attempt === 5) throw error;
      await pause(200);
    }
  }
}

const patience = { waitUntil: "domcontentloaded", timeout: 20_000 };

const actions = {
  /** `user`: another one has cookies and storage of their own. */
  open: ({ tab, url, user = "" }) =>
    inTurn(async () => {
      if (!users.has(user)) users.set(user, await browser.createBrowserContext());
      const page = await users.get(user).newPage();
      tabs.set(tab, page);
      page.on("pageerror", (error) => say({ uncaught: `${error.stack ?? error}` }));
      await load(() => page.goto(url, patience));
    }),
  close: ({ page }) => inTurn(() => page.close()),
  goto: ({ page, url }) => load(() => page.goto(url, patience)),
  reload: ({ page }) => load(() => page.reload(patience)),
  show: ({ page }) => inTurn(() => page.bringToFront()),
  offline: ({ page, is }) => page.setOfflineMode(is),
  ask: ({ page, script }) => page.evaluate(script),
  /** Waits until a script is true. While the page changes, it cannot be asked. */
  async until({ page, script }) {
    for (;;) {
      const isTrue = await Promise.race([page.evaluate(script).catch(() => false), pause(2_000)]);
      if (isTrue) return isTrue;
      await pause(50);
    }
  },
  /** Kills the process of the page. Only Chromium can. */
  async crash({ page }) {
    const session = await page.createCDPSession();
    session.send("Page.crash").catch(() => {});
    await new Promise((resolve) => page.once("error", resolve));
  },
  /** As a browser that saves energy. Only Chromium can. */
  async freeze({ page, is }) {
    const session = await page.createCDPSession();
    await session.send("Page.setWebLifecycleState", { state: is ? "frozen" : "active" });
    await session.detach();
  },
  /** The whole browser stands still, as in a machine that sleeps. */
  async sleep({ ms }) {
    const all = processes(browser.process().pid);
    const each = (signal) => all.forEach((id) => attempt(() => process.kill(id, signal)));
    each("SIGSTOP");
    await pause(ms);
    each("SIGCONT");
  },
};

/** A process may be gone by now. */
function attempt(act) {
  try {
    return act();
  } catch {
    return undefined;
  }
}

/** A process and all that it started. */
function processes(root) {
  const parents = readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map((id) => [Number(id), Number(attempt(() => readFileSync(`/proc/${id}/stat`, "utf8").split(") ").pop().split(" ")[1]))]);
  const all = [root];
  for (const parent of all) all.push(...parents.filter(([, its]) => its === parent).map(([id]) => id));
  return all;
}

say({ id: 0 });
for await (const line of createInterface({ input: process.stdin })) {
  const { id, does, ...what } = JSON.parse(line);
  Promise.resolve({ page: tabs.get(what.tab), ...what })
    .then(actions[does])
    .then(
      (value) => say({ id, value }),
      (error) => say({ id, error: `${does}: ${error.stack}` }),
    );
}
