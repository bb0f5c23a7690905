// The machine's figures. The page keeps its history over a reload; the stream resumes after the last sample that the page has.

import { chart } from "./chart.js";
import { announce, attempt, clock, el, find, guarded, load, save, send } from "./dom.js";

const KEY = "board monitor";
const MOST = 300;
const SPAN = 300_000;
const LEVELS = ["info", "warn", "error"];
const MOST_ALERTS = 50;
const FIELDS = ["n", "at", "cpu", "busiest", "used", "memory", "received", "sent"];

const percent = (value) => `${Math.round(value)} %`;
const bytes = (value) => {
  const unit = Math.min(Math.floor(Math.log2(Math.max(value, 1)) / 10), 4);
  return `${(value / 1024 ** unit).toFixed(unit && value / 1024 ** unit < 10 ? 1 : 0)} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
};

const CHARTS = [
  { title: "CPU", names: ["all cores", "busiest"], take: ({ cpu, busiest }) => [cpu, busiest], text: percent, high: 100 },
  { title: "Memory", names: ["in use"], take: ({ used, memory }) => [(100 * used) / memory], text: percent, high: 100, more: ({ used, memory }) => `${bytes(used)} of ${bytes(memory)}` },
  { title: "Network", names: ["received", "sent"], take: ({ received, sent }) => [received, sent], text: (value) => `${bytes(value)}/s` },
];

/** What the page had before it was reloaded: the samples, and where the stream resumes after them. */
export const history = () => load(sessionStorage, KEY, undefined);

export function monitor(me) {
  const kept = history();
  let samples = Array.isArray(kept) ? kept : [];
  const loadedAt = Date.now();
  const counts = { kept: samples.length, came: 0, missed: 0 };
  const marks = samples.length ? [loadedAt] : [];
  if (!me.figures) {
    find("noFigures").hidden = false;
    find("noFigures").textContent = `The server runs on ${me.system}. Its figures come from /proc, which only Linux has.`;
  }

  const painters = CHARTS.map(({ title, names, take, text, high, more }) => {
    const { svg, draw } = chart({ names, label: `${title}: no figures yet` });
    const keys = names.map((_, at) => el("span", { className: `key ${["first", "second"][at]}` }));
    const rest = el("span", { className: "dim" });
    find("charts").append(el("div", { className: "card" }, el("div", { className: "head" }, el("h2", { textContent: title }), rest), el("div", { className: "keys" }, ...keys), svg));
    return (last, to, holes) => {
      const points = samples.map((sample) => [sample.at, ...take(sample)]);
      const top = high ?? Math.max(1024, ...points.flatMap((point) => point.slice(1))) * 1.1;
      draw(points, { from: to - SPAN, to, low: 0, high: top, holes, marks });
      take(last).forEach((value, at) => (keys[at].textContent = `${names[at]} ${text(value)}`));
      rest.textContent = more?.(last) ?? (high ? "" : `up to ${text(top)}`);
      svg.setAttribute("aria-label", `${title}, the last five minutes. Now: ${take(last).map((value, at) => `${names[at]} ${text(value)}`).join(", ")}`);
    };
  });

  /** Where samples are missing before one. */
  const holesOf = (samples) => samples.map(({ n }, at) => at > 0 && n !== samples[at - 1].n + 1);

  function paint() {
    const last = samples.at(-1);
    if (!last || find("monitor").hidden || document.hidden) return;
    const holes = holesOf(samples);
    painters.forEach((painter) => painter(last, Math.max(last.at, Date.now() - 2_000), holes));
    const line = find("history");
    const before = counts.kept ? `, ${counts.kept} of them from before the reload` : "";
    line.textContent = `${samples.length} samples${before}, ${counts.missed} missed`;
    Object.assign(line.dataset, counts, { samples: samples.length });
  }

  const note = guarded((sample) => {
    if (!FIELDS.every((field) => Number.isFinite(sample[field]))) throw new TypeError("it has no figures");
    const last = samples.at(-1);
    // A sample that comes again. The server counts from 1 after a restart.
    if (last && sample.n <= last.n && sample.at <= last.at) return;
    if (last && sample.n > last.n) counts.missed += sample.n - last.n - 1;
    counts.came++;
    samples.push(sample);
    samples.splice(0, samples.length - MOST);
    counts.kept = Math.min(counts.kept, samples.length);
    paint();
  });

  // At the same moments, the stream keeps its position.
  const keep = () => save(sessionStorage, KEY, samples);
  addEventListener("pagehide", keep);
  document.addEventListener("visibilitychange", () => (document.hidden ? keep() : paint()));
  find("work").addEventListener("click", ({ target }) => attempt(target, () => send("POST", "/monitor/work")));
  return { note, paint };
}

/** Alerts by level: each level is a topic. */
export function alerts(stream) {
  const list = find("alertList");
  const on = new Map();
  let all = [];
  const startedAt = Date.now();

  const note = guarded((alert) => {
    if (!LEVELS.includes(alert.level) || typeof alert.text !== "string") throw new TypeError("it is no alert");
    if (all.some((other) => other.at === alert.at && other.text === alert.text)) return;
    all = [alert, ...all].sort((one, other) => other.at - one.at).slice(0, MOST_ALERTS);
    paint();
    // Whoever does not look at the monitor is not told aloud.
    if (alert.level !== "info" && alert.at > startedAt && !find("monitor").hidden) announce(`${alert.level}: ${alert.text}`);
  });

  function paint() {
    list.replaceChildren(...all.map(({ level, text, at }) => el("li", { className: level }, el("time", { textContent: clock(at) }), el("b", { textContent: level }), el("span", { textContent: text }))));
  }

  function choose() {
    const least = Number(find("level").value);
    LEVELS.forEach((level, index) => {
      if (index >= least && !on.has(level)) on.set(level, stream.topic(`alerts/${level}`, note));
      if (index < least && on.has(level)) {
        on.get(level)();
        on.delete(level);
        all = all.filter((alert) => alert.level !== level);
      }
    });
    save(localStorage, "board level", least);
    paint();
  }

  find("level").value = String(load(localStorage, "board level", 0));
  if (find("level").selectedIndex < 0) find("level").value = "0";
  find("level").addEventListener("change", choose);
  choose();
}
