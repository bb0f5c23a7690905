// Tabs, by the ARIA pattern: arrow keys, Home and End move; Tab goes into the panel. The address has the name of the tab.

/** Calls `shown(name)` when a tab is selected, and at the beginning. */
export function tabs(list, shown) {
  const all = [...list.querySelectorAll("[role=tab]")];
  const panel = (tab) => document.getElementById(tab.getAttribute("aria-controls"));

  function select(tab) {
    for (const other of all) {
      other.setAttribute("aria-selected", other === tab);
      other.tabIndex = other === tab ? 0 : -1;
      panel(other).hidden = other !== tab;
    }
    tab.scrollIntoView({ block: "nearest", inline: "nearest" });
    history.replaceState(null, "", `#${panel(tab).id}`);
    shown(panel(tab).id);
  }

  list.addEventListener("click", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (tab) select(tab);
  });
  list.addEventListener("keydown", (event) => {
    const at = all.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    const tab = all[(to + all.length) % all.length];
    tab.focus();
    select(tab);
  });
  const named = () => all.find((tab) => `#${panel(tab).id}` === location.hash);
  addEventListener("hashchange", () => named() && select(named()));
  select(named() ?? all[0]);
}
