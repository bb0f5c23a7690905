// Uses tabs of a browser, as a person does. BROWSER is `chrome` or `firefox`, and PROGRAM is the path of the browser. With the folder PROFILE, the
// browser keeps its tabs in it, and restores those that it had. Otherwise it is new.
//
// Each line of the standard input is `{ id, does, tab, ... }`: what `actions` has. Each gets a line `{ id, value }` or `{ id, error }` when it
// is done, several at a time. A page's uncaught error is a line `{ uncaught }`. Exits, and closes the browser, when the standard input ends.
//
// The host `plain.test` is this machine, by an address that browsers do not trust: its pages have no locks.

import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import puppeteer from "puppeteer-core";

const isFirefox = process.env.BROWSER === "firefox";
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const { PROFILE } = process.env;
const preferences = `${PROFILE}/Default/Preferences`;
if (PROFILE && !isFirefox && !existsSync(preferences)) {
  mkdirSync(`${PROFILE}/Default`, { recursive: true });
  writeFileSync(preferences, JSON.stringify({ session: { restore_on_startup: 1 } }));
}

const browser = await puppeteer.launch({
  browser: process.env.BROWSER,
  executablePath: process.env.PROGRAM,
  userDataDir: PROFILE,
  acceptInsecureCerts: true,
  args: isFirefox
    ? []
    : [
        ...["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server", "--host-resolver-rules=MAP plain.test 127.0.0.1"],
        ...(PROFILE ? ["--restore-last-session"] : []),
      ],
  // Pages that are hidden or left are treated as people's browsers treat them.
  ignoreDefaultArgs: isFirefox
    ? false
    : [
        ...["--disable-back-forward-cache", "--disable-background-timer-throttling", "--disable-backgrounding-occluded-windows", "--disable-renderer-backgrounding"],
        // Chromium restores nothing when it is asked for a page.
        ...(PROFILE ? ["about:blank"] : []),
      ],
  extraPrefsFirefox: {
    "network.proxy.type": 0,
    "network.dns.forceResolve": "127.0.0.1",
    // Seconds until a silent connection of HTTP/2 is asked whether it lives, and until it has to answer. By default, 58 and 8.
    "network.http.http2.ping-threshold": 3,
    "network.http.http2.ping-timeout": 3,
    ...(PROFILE && {
      "browser.startup.page": 3,
      "browser.sessionstore.resume_from_crash": true,
      "browser.sessionstore.max_resumed_crashes": -1,
      "browser.sessionstore.restore_on_demand": false,
      "browser.sessionstore.interval": 500,
      "browser.sessionstore.interval.idle": 500,
    }),
  },
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

function note(tab, page) {
  tabs.set(tab, page);
  page.on("pageerror", (error) => say({ uncaught: `${error.stack ?? error}` }));
}

const patience = { waitUntil: "domcontentloaded", timeout: 20_000 };

const actions = {
  /** `user`: another one has cookies and storage of their own. */
  open: ({ tab, url, user = "" }) =>
    inTurn(async () => {
      if (!users.has(user)) users.set(user, await browser.createBrowserContext());
      const page = await users.get(user).newPage();
      note(tab, page);
      await load(() => page.goto(url, patience));
    }),
  /** Waits for a page that the browser has kept in its profile. */
  async restored({ tab, url }) {
    for (;;) {
      const known = new Set(tabs.values());
      const page = (await browser.pages()).find((page) => page.url() === url && !known.has(page));
      if (page) return note(tab, page);
      await pause(50);
    }
  },
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
  /** Kills the process of the page. */
  async crash({ page }) {
    if (isFirefox) {
      const id = await processOf(page);
      process.kill(id, "SIGKILL");
      while (existsSync(`/proc/${id}`)) await pause(10);
      return;
    }
    const session = await page.createCDPSession();
    session.send("Page.crash").catch(() => {});
    await new Promise((resolve) => page.once("error", resolve));
  },
  /** As a browser that saves energy. The process of a page of Firefox stands still. */
  async freeze({ page, tab, is }) {
    if (isFirefox) {
      if (is) frozen.set(tab, await processOf(page));
      process.kill(frozen.get(tab), is ? "SIGSTOP" : "SIGCONT");
      return;
    }
    const session = await page.createCDPSession();
    await session.send("Page.setWebLifecycleState", { state: is ? "frozen" : "active" });
    await session.detach();
  },
  /** The whole browser stands still, as in a machine that sleeps. */
  halt: ({ is }) => each(is ? "SIGSTOP" : "SIGCONT"),
  /** Kills the whole browser. This program ends with it. */
  async kill() {
    browser.removeAllListeners("disconnected");
    const isGone = new Promise((resolve) => browser.process().once("exit", resolve));
    each("SIGKILL");
    await isGone;
    process.exit(9);
  },
};

const frozen = new Map();

/** Sends a signal to all processes of the browser. */
const each = (signal) => processes(browser.process().pid).forEach((id) => attempt(() => process.kill(id, signal)));

/** The process of a page: the one that grows with it. */
async function processOf(page) {
  const BYTES = 256 << 20;
  const sizes = () =>
    new Map(processes(browser.process().pid).map((id) => [id, 1024 * (attempt(() => /RssAnon:\s*(\d+)/.exec(readFileSync(`/proc/${id}/status`, "utf8"))[1]) ?? 0)]));
  const before = sizes();
  await page.evaluate((bytes) => void (globalThis.ballast = new Uint8Array(bytes).fill(1)), BYTES);
  const after = sizes();
  await page.evaluate(() => void delete globalThis.ballast);
  const grown = [...after.keys()].filter((id) => after.get(id) - (before.get(id) ?? 0) > BYTES / 2);
  if (grown.length !== 1) throw new Error(`these have grown: ${grown}`);
  return grown[0];
}

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
