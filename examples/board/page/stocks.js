// Prices: topics that come and go on the open stream. The page keeps the last minute of each for its chart.

import { chart } from "./chart.js";
import { el, find, guarded, load, onSubmit, save } from "./dom.js";

const MOST = 8;
const SPAN = 60_000;

export function stocks(stream, me) {
  const list = find("stockList");
  const chosen = new Map();

  function add(symbol) {
    const company = me.stocks.find((stock) => stock.symbol === symbol);
    if (!company || chosen.has(symbol) || chosen.size >= MOST) return;
    const price = el("span", { className: "price", textContent: "–" });
    const change = el("span");
    const { svg, draw } = chart({ names: ["price"], isSmall: true, label: `${company.name}, the last minute` });
    const remove = el("button", { type: "button", className: "plain", textContent: "✕", "aria-label": `Remove ${company.name}` });
    const card = el("li", { className: "card", "data-symbol": symbol }, el("div", { className: "head" }, el("b", { textContent: company.name }), el("span", { className: "dim fill", textContent: symbol }), remove), el("div", { className: "head" }, price, change), svg);
    let points = [];
    const off = stream.topic(`stocks/${symbol}`, guarded((news) => {
      if (![news.price, news.change, news.at].every(Number.isFinite)) throw new TypeError("it has no price");
      price.textContent = news.price.toFixed(2);
      change.textContent = `${news.change < 0 ? "▼" : "▲"} ${Math.abs(news.change).toFixed(2)} %`;
      change.className = news.change < 0 ? "down" : "up";
      svg.classList.toggle("up", news.change >= 0);
      svg.classList.toggle("down", news.change < 0);
      points = [...points.filter(([at]) => at > news.at - SPAN), [news.at, news.price]];
      card.dataset.points = points.length;
      const values = points.map(([, value]) => value);
      draw(points, { from: points[0][0], to: news.at, low: Math.min(...values), high: Math.max(...values) });
    }));
    remove.addEventListener("click", () => {
      off();
      card.remove();
      chosen.delete(symbol);
      choose();
      find("symbol").focus();
    });
    chosen.set(symbol, card);
    list.append(card);
  }

  /** What can be chosen next. */
  function choose() {
    const rest = me.stocks.filter(({ symbol }) => !chosen.has(symbol));
    find("symbol").replaceChildren(...rest.map(({ symbol, name }) => el("option", { value: symbol, textContent: `${name} (${symbol})` })));
    find("stockForm").querySelector("button").disabled = chosen.size >= MOST;
    save(localStorage, "board stocks", [...chosen.keys()]);
  }

  load(localStorage, "board stocks", ["FERN", "IVYR", "DUNE"]).forEach(add);
  choose();
  onSubmit(find("stockForm"), async () => {
    add(find("symbol").value);
    choose();
  });
}
