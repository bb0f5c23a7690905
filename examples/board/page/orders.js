// Orders: a topic for each, from its first event to its end.

import { announce, clock, el, find, guarded, load, onSubmit, save, send } from "./dom.js";

const MOST = 24;

export function orders(stream, me) {
  /** The newest first. `got`: what the server has told. `end`: how it has ended. */
  let all = [];
  const list = find("orderList");
  find("item").append(...me.items.map(({ item, title }) => el("option", { value: item, textContent: title })));

  function show(kept) {
    const order = { ...kept, got: [...kept.got] };
    const steps = el("ol", { className: "steps" });
    const state = el("span", { className: "dim" });
    const bar = el("progress", { max: order.steps.length, className: "hidden", "aria-label": "progress" });
    order.card = el("li", { className: "card", "data-order": order.number }, el("div", { className: "head" }, el("b", { textContent: order.title }), state), bar, steps);
    order.paint = () => {
      const rows = order.steps.map((name, index) => {
        const got = order.got[index];
        return el("li", { className: got ? "done" : "" }, el("span", { textContent: name }), el("span", { textContent: got ? clock(got) : "" }));
      });
      if (order.end && order.end !== "done") {
        rows.length = order.got.length;
        rows.push(el("li", { className: "failed" }, el("span", { textContent: order.end })));
      }
      steps.replaceChildren(...rows);
      bar.value = order.got.length;
      state.textContent = `order ${order.number}`;
      order.card.dataset.state = order.end ? (order.end === "done" ? "done" : "failed") : "open";
    };
    order.finish = (end, isNews = true) => {
      order.off?.();
      order.end = end;
      order.paint();
      if (isNews) announce(`${order.title}: ${end === "done" ? "delivered" : end}`);
    };
    order.paint();
    list.prepend(order.card);
    all.unshift(order);
    for (const old of all.splice(MOST)) {
      old.off?.();
      old.card.remove();
    }
    return order;
  }

  /** Follows the order from its first step to its end. Steps that come again change nothing. */
  function follow(order) {
    if (order.end) return;
    order.off = stream.topic(order.topic, guarded(({ step, done, of, at, failed }) => {
      if (failed !== undefined) order.finish(String(failed));
      else if (order.steps[done - 1] !== step) throw new TypeError("it names no step");
      else {
        order.got[done - 1] = at;
        if (done === of) order.finish("done");
        else order.paint();
      }
      keep();
    }));
  }

  function keep() {
    save(sessionStorage, "board orders", all.map(({ topic, number, title, steps, got, end }) => ({ topic, number, title, steps, got, end })).reverse());
  }

  // After a reload, the orders that have not ended come again from their first step.
  for (const kept of load(sessionStorage, "board orders", [])) follow(show(kept));

  onSubmit(find("orderForm"), async () => {
    const order = await send("POST", "/orders", { item: find("item").value });
    follow(show({ ...order, got: [] }));
    keep();
  });

  return {
    /** The server does not know the order any more, as after a restart. */
    refused(topic) {
      const order = all.find((order) => order.topic === topic && !order.end);
      order?.finish("the server does not know this order any more");
      keep();
    },
  };
}
