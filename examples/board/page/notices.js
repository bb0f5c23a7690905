// Notifications: a badge, the title, and the browser's own if the viewer allows them.

import { announce, clock, el, find, guarded, load, onSubmit, save, send } from "./dom.js";

const MOST = 50;
const KEY = "board read";

export function notices(stream, me) {
  const list = find("noticeList");
  let all = [];
  /** Notifications up to this number are read, in all tabs. */
  let read = load(localStorage, KEY, 0);
  let isShown = false;
  /** Those that the browser has shown. */
  const byBrowser = new Set();
  const startedAt = Date.now();

  const note = guarded((notice) => {
    if (!Number.isFinite(notice.n) || typeof notice.text !== "string") throw new TypeError("it has no text");
    if (all.some(({ n }) => n === notice.n)) return;
    all = [notice, ...all].sort((one, other) => other.n - one.n).slice(0, MOST);
    const isNew = notice.n > read && notice.at > startedAt;
    if (isNew && document.hidden) tellByBrowser(notice);
    else if (isNew) announce(`${notice.from}: ${notice.text}`);
    paint();
  });

  function paint() {
    const isSeen = isShown && !document.hidden;
    list.replaceChildren(...all.map(({ n, from, text, at }) => {
      const sender = el("b", { textContent: String(from) });
      const more = byBrowser.has(n) ? [" ", el("small", { className: "dim", textContent: "(shown by the browser)" })] : [];
      return el("li", { className: n > read ? "new" : "" }, el("time", { textContent: clock(at) }), sender, el("span", { textContent: text }, ...more));
    }));
    if (isSeen && all.length && all[0].n > read) {
      read = all[0].n;
      save(localStorage, KEY, read);
    }
    const unread = all.filter(({ n }) => n > read).length;
    find("unread").hidden = !unread;
    find("unreadCount").textContent = unread;
    document.title = unread ? `(${unread}) Board` : "Board";
  }

  function tellByBrowser({ n, from, text }) {
    if (!canAsk() || Notification.permission !== "granted") return;
    try {
      // The same tag: of several tabs, one shows it.
      const shown = new Notification(String(from), { body: text, tag: `board ${n}`, icon: "/page/icon.svg" });
      shown.addEventListener("show", () => (byBrowser.add(n), paint()));
      shown.addEventListener("click", () => (window.focus(), shown.close(), (location.hash = "notices")));
    } catch {
      // Browsers of phones show notifications of a service worker only.
      find("permission").textContent = "This browser shows no notifications of a page without a service worker.";
    }
  }

  function paintPermission() {
    const permission = canAsk() ? Notification.permission : "none";
    find("allow").hidden = permission !== "default";
    find("permission").textContent = {
      default: "The browser can tell you when you look elsewhere.",
      granted: "The browser tells you when you look elsewhere.",
      denied: "The browser does not allow notifications of this page.",
      none: "This browser has no notifications here: they need https, or localhost.",
    }[permission];
  }

  find("allow").addEventListener("click", async () => {
    await Notification.requestPermission();
    paintPermission();
  });
  onSubmit(find("noticeForm"), async () => {
    await send("POST", "/notices", { text: find("noticeText").value, to: find("noticeTo").value });
    find("noticeText").value = "";
  });
  document.addEventListener("visibilitychange", paint);
  // Another tab has read them.
  addEventListener("storage", ({ key }) => {
    if (key !== KEY) return;
    read = load(localStorage, KEY, read);
    paint();
  });
  stream.topic("notices", note);
  stream.topic(`notices/${me.who}`, note);
  paintPermission();
  return {
    show(shown) {
      isShown = shown;
      paint();
    },
  };
}

const canAsk = () => "Notification" in globalThis && isSecureContext;
