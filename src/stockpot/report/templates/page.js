// Brings a page to life: figures say what is under the pointer, methods can be hidden, tables sorted by a column.
// Everything is in the page already; without scripts, or where one fails, the pictures and tables stay as they are.
"use strict";
(() => {
  const pages = document.querySelectorAll.bind(document);
  const tip = document.body.appendChild(document.createElement("div"));
  tip.className = "tip";
  tip.hidden = true;
  const views = [];
  let hidden = [];
  let printing = false;
  let buttons = [];

  // A figure under the pointer: the names and values of its mark, as text.
  function tell(_, event, item, value) {
    tip.hidden = !value;
    if (!value) return;
    const lines = typeof value === "object" ? Object.entries(value) : [["", String(value)]];
    tip.replaceChildren(...lines.filter(([, text]) => text !== "" && text !== "undefined").map(([name, text]) => {
      const line = document.createElement("div");
      line.append(Object.assign(document.createElement("b"), { textContent: name }), " " + text);
      return line;
    }));
    const left = Math.min(event.clientX + 14, document.documentElement.clientWidth - tip.offsetWidth - 8);
    const below = event.clientY + 16 + tip.offsetHeight < window.innerHeight;
    tip.style.left = `${Math.max(4, left) + window.scrollX}px`;
    tip.style.top = `${event.clientY + (below ? 16 : -12 - tip.offsetHeight) + window.scrollY}px`;
  }

  // As wide as its place: axes and legends of a figure that may be narrow, fewer panels in a row of one that has panels.
  function fitted(spec, plot) {
    const natural = parseFloat(plot.querySelector("svg").style.maxWidth);
    const share = plot.clientWidth / natural;
    if (!(share < 1)) return spec;
    const fewer = (holder) => { holder.columns = Math.max(1, Math.floor(holder.columns * share)); };
    if ("fluid" in plot.dataset) spec.width = Math.max(140, spec.width - (natural - plot.clientWidth));
    if (spec.columns) fewer(spec);
    (function legends(part) {
      if (!part || typeof part !== "object") return;
      if (part.legend && part.legend.columns > 1) fewer(part.legend);
      for (const key of Object.keys(part)) if (key !== "values") legends(part[key]);
    })(spec);
    return spec;
  }

  async function enliven(plot) {
    const source = document.getElementById(`${plot.id}-spec`);
    if (!source || plot.dataset.live || printing || !plot.clientWidth) return;
    plot.dataset.live = "yes";
    const spec = fitted(JSON.parse(source.textContent), plot);
    const stage = document.createElement("div");
    const options = { renderer: "svg", actions: false, defaultStyle: false, tooltip: tell, logLevel: 1 };
    const { view } = await vegaEmbed(stage, spec, options);
    if ((spec.params || []).some((parameter) => parameter.name === "hidden")) {
      views.push(view);
      if (hidden.length) await view.signal("hidden", hidden).runAsync();
    }
    const svg = stage.querySelector("svg");
    svg.style.maxWidth = `${svg.getAttribute("width")}px`;
    if (!("fluid" in plot.dataset)) svg.style.minWidth = `${0.75 * svg.getAttribute("width")}px`;
    svg.setAttribute("aria-hidden", "true");
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", plot.querySelector("title").textContent);
    plot.replaceChildren(stage);
    stage.addEventListener("pointerleave", () => { tip.hidden = true; });
  }

  function sortable(table) {
    const body = table.tBodies[0];
    const original = [...body.rows];
    if (original.length < 3) return;
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const was = head.getAttribute("aria-sort");
        const key = (row) => {
          const cell = row.cells[column];
          return "value" in cell.dataset ? Number(cell.dataset.value) : null;
        };
        const numeric = original.some((row) => key(row) !== null);
        const turned = { none: numeric ? "descending" : "ascending", ascending: numeric ? "none" : "descending",
                         descending: numeric ? "ascending" : "none" }[was];
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", turned);
        const sign = turned === "ascending" ? 1 : -1;
        const rows = turned === "none" ? original : [...original].sort((a, b) => {
          const [x, y] = numeric ? [key(a), key(b)] : [a.cells[column].textContent, b.cells[column].textContent];
          if (x === null || y === null) return (x === null) - (y === null);  // what was not measured comes last
          return sign * (numeric ? x - y : x.localeCompare(y, undefined, { numeric: true }));
        });
        body.append(...rows);
      });
    });
  }

  function hide() {
    const boxes = [...pages(".methods input")];
    hidden = boxes.filter((box) => !box.checked).map((box) => box.value);
    const names = new Set(boxes.filter((box) => !box.checked).map((box) => box.dataset.row));
    for (const row of pages("tbody tr")) {
      const name = row.cells[0].textContent;
      row.hidden = names.has(name) || hidden.includes(name);
    }
    for (const view of views) view.signal("hidden", hidden).runAsync();
  }

  pages("table").forEach(sortable);
  pages(".methods").forEach((list) => {
    list.hidden = false;
    list.addEventListener("change", hide);
  });
  pages(".plot").forEach((plot) => enliven(plot));
  pages("details").forEach((fold) => fold.addEventListener("toggle", () => {
    if (fold.open) fold.querySelectorAll(".plot").forEach((plot) => enliven(plot));
  }));
  window.addEventListener("beforeprint", () => {
    printing = true;
    pages("details:not([open])").forEach((fold) => { fold.open = true; fold.dataset.folded = "yes"; });
    // Where a table goes on, its head is repeated, but Chromium leaves out the buttons in it.
    buttons = [...pages("th button")].map((button) => [button.parentNode, button]);
    buttons.forEach(([, button]) => button.replaceWith(...button.childNodes));
  });
  window.addEventListener("afterprint", () => {
    printing = false;
    pages("details[data-folded]").forEach((fold) => { fold.open = false; delete fold.dataset.folded; });
    buttons.forEach(([head, button]) => { button.append(...head.childNodes); head.append(button); });
    buttons = [];
  });
})();
