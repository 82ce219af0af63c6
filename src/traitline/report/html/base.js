"use strict";
/* What every chart shares: the data in #data, colours that can be seen on the page, the training axis, a chart with its numbers.
   Knows Plotly's layouts; leaves what is drawn to the scripts after it. */
const traitline = (function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const axis = data.axis;
  const strategyOf = new Map(data.strategies.map((s) => [s.name, s]));
  const drawn = new Map(); // chart element -> function that returns its figure
  const CONFIG = { responsive: true, displayModeBar: false };
  const LEAST_CONTRAST = 3; // of a line with the page
  const MOST_CHARTS = 8; // of one block; where there are more, one trait is shown at a time

  // Plotly reads a few tags in its texts; names come from files, so theirs are kept from it.
  const safe = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const shown = (value, digits = 0) => (value === null || value === undefined ? "?" : value.toFixed(digits));
  const signed = (value) => (value === null ? "?" : (value > 0 ? "+" : "") + value.toFixed(1).replace("-", "−"));
  const stars = (p) => (p === null ? "" : p < 0.001 ? "***" : p < 0.01 ? "**" : p < 0.05 ? "*" : "");
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const channels = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const hexOf = (found) => "#" + found.map((c) => Math.round(c).toString(16).padStart(2, "0")).join("");
  function luminance(hex) {
    const [r, g, b] = channels(hex).map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }
  function contrast(a, b) {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  }
  // A colour moved towards the ink until a line of it stands out from the page.
  function visible(colour) {
    const paper = css("--paper"), ink = channels(css("--ink"));
    let found = colour;
    for (let share = 0.1; contrast(found, paper) < LEAST_CONTRAST && share <= 1; share += 0.1) {
      found = hexOf(channels(colour).map((c, i) => c + share * (ink[i] - c)));
    }
    return found;
  }
  function strategy(name) {
    const found = strategyOf.get(name) || { label: name, colour: "#888888" };
    return { label: found.label, colour: visible(found.colour) };
  }

  function element(tag, attributes = {}, text = "") {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.textContent = text;
    return made;
  }

  function choice(label, options, onChange) {
    const wrapped = element("label", {}, label);
    const select = element("select");
    for (const [value, text] of options) select.append(element("option", { value: String(value) }, text));
    select.addEventListener("change", () => onChange(select.value));
    wrapped.append(select);
    return wrapped;
  }

  // A name with a mark of its colour; `colourOf` is asked again when the theme changes.
  function keyed(name, colourOf, symbol = "circle") {
    const key = element("span", { class: "keyed" });
    const dot = element("span", { class: `dot ${symbol}`, "aria-hidden": "true" });
    dot.recolour = () => { dot.style.background = colourOf(); };
    dot.recolour();
    key.append(dot, element("span", {}, name));
    return key;
  }

  function tableOf({ head, rows }, label) {
    const box = element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label });
    const table = element("table"), top = element("tr"), body = element("tbody");
    for (const name of head) top.append(element("th", { scope: "col" }, name));
    for (const row of rows) {
      const line = element("tr");
      for (const cell of row) line.append(element("td", {}, cell === null || cell === undefined ? "" : String(cell)));
      body.append(line);
    }
    const thead = element("thead");
    thead.append(top);
    table.append(thead, body);
    box.append(table);
    return box;
  }

  // Charts are drawn when they come near the window, and again when the colours change.
  const near = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
    { rootMargin: "600px" },
  );
  function draw(chart) {
    near.unobserve(chart);
    if (!drawn.has(chart)) return;
    const { traces, layout } = drawn.get(chart)();
    Plotly.react(chart, traces, layout, CONFIG);
    chart.dataset.drawn = "yes";
  }
  function redraw() {
    for (const dot of document.querySelectorAll(".dot")) if (dot.recolour) dot.recolour();
    for (const chart of drawn.keys()) if (chart.dataset.drawn) draw(chart);
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("beforeprint", () => {
    document.documentElement.dataset.print = "yes";
    for (const told of document.querySelectorAll("details.told:not([open])")) { told.dataset.folded = "yes"; told.open = true; }
    redraw();
    for (const chart of drawn.keys()) if (!chart.dataset.drawn) draw(chart);
  });
  addEventListener("afterprint", () => {
    delete document.documentElement.dataset.print;
    for (const told of document.querySelectorAll("details[data-folded]")) { told.open = false; delete told.dataset.folded; }
    redraw();
  });

  // A link to a place inside something folded opens it.
  function reveal() {
    const place = document.getElementById(location.hash.slice(1));
    if (!place || !place.closest("details")) return;
    for (let fold = place.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
    place.scrollIntoView({ block: "center" });
  }
  addEventListener("hashchange", reveal);
  document.addEventListener("click", ({ target }) => { if (target.closest("a")?.getAttribute("href") === location.hash) reveal(); });
  reveal();

  // A box that has more to its right says so.
  const wide = new ResizeObserver((entries) => entries.forEach(({ target }) => {
    const fits = target.scrollWidth <= target.clientWidth;
    target.classList.toggle("fits", fits);
    target.previousElementSibling.hidden = fits;
  }));
  for (const hint of document.querySelectorAll(".hint")) wide.observe(hint.nextElementSibling);

  /* One chart: its title and a few words, what a screen reader says of it, a function that makes its figure, and one that
     makes the table of its numbers, which is built when it is opened; a note stands below it. `trait` is what it is shown with. */
  function addChart(parent, { title, said = "", describe, make, table, note = "", low = false, trait = null }) {
    const figure = element("figure", trait === null ? {} : { "data-trait": trait });
    const caption = element("figcaption");
    caption.append(element("b", {}, title), element("span", { class: "said" }, said));
    const chart = element("div", { class: low ? "chart low" : "chart", role: "img", "aria-label": describe });
    figure.append(caption, chart);
    if (note) figure.append(element("p", { class: "small note" }, note));
    if (table) {
      const numbers = element("details", { class: "behind" });
      const summary = element("summary", {}, "Numbers");
      summary.append(element("span", { class: "unseen" }, ` of ${title} ${said}`));
      numbers.append(summary);
      numbers.addEventListener("toggle", () => {
        if (numbers.open && numbers.childElementCount === 1) numbers.append(tableOf(table(), describe));
      });
      figure.append(numbers);
    }
    parent.append(figure);
    drawn.set(chart, make);
    near.observe(chart);
  }

  function addHeading(parent, trait) {
    parent.append(element("h3", { "data-trait": trait }, trait));
  }

  /* Called when a block has its charts: where it has many, of several traits, a choice above the first block of its section shows
     one trait at a time, in all blocks of the section. Those not shown are not drawn; print shows all. */
  const shownTrait = new Map(); // section of the page -> the trait chosen; empty for all
  function settle(block, label = "trait") {
    const section = block.closest("section"), figures = [...block.querySelectorAll(":scope > figure[data-trait]")];
    const traits = [...new Set(figures.map((one) => one.dataset.trait))];
    if (!shownTrait.has(section) && figures.length > MOST_CHARTS && traits.length > 1) {
      shownTrait.set(section, traits[0]);
      const first = section.querySelector(".charts");
      let controls = first.querySelector(":scope > .controls");
      if (!controls) first.before(controls = element("div", { class: "controls" }));
      controls.prepend(choice(label, [...traits.map((name) => [name, name]), ["", "all"]], (value) => { shownTrait.set(section, value); show(section); }));
    }
    if (shownTrait.has(section)) show(section);
  }
  function show(section) {
    const chosen = shownTrait.get(section);
    for (const one of section.querySelectorAll(".charts > [data-trait]")) one.classList.toggle("other", chosen !== "" && one.dataset.trait !== chosen);
  }

  function empty(section) {
    for (const chart of section.querySelectorAll(".chart")) {
      near.unobserve(chart);
      drawn.delete(chart);
      if (chart.dataset.drawn) Plotly.purge(chart);
    }
    for (const old of section.querySelectorAll(":scope > figure, :scope > h3")) old.remove();
  }

  function layoutOf(extra) {
    const base = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--ink"), size: 12, family: "system-ui, sans-serif" },
      margin: { l: 46, r: 8, t: 8, b: 46 }, showlegend: false, hovermode: "closest", dragmode: false,
    };
    return Object.assign(base, extra);
  }
  const lines = () => ({ gridcolor: css("--line"), zerolinecolor: css("--soft"), linecolor: css("--soft") });
  function trainingAxis() {
    const slots = axis.slots.filter((slot) => slot[1]);
    return Object.assign(lines(), {
      range: axis.limits, tickvals: axis.ticks.map((t) => t[0]), ticktext: axis.ticks.map((t) => safe(t[1])), tickangle: slots.length ? 0 : "auto",
      title: { text: axis.title, font: { size: 11 }, standoff: slots.length ? 34 : 6 }, zeroline: false, showgrid: false, ticks: "outside",
    });
  }
  // Breaks of the axis, and the upright names of the checkpoints that stand evenly spaced after it.
  function axisMarks() {
    const foot = { y: 0, xref: "x", yref: "paper", showarrow: false };
    const breaks = axis.gaps.map((x) => ({ ...foot, x, text: "//", yanchor: "middle", bgcolor: css("--paper"), font: { size: 11 } }));
    const names = axis.slots.filter((slot) => slot[1]).map(([x, name]) => ({ ...foot, x, text: safe(name), textangle: -90, yanchor: "top", yshift: -3, font: { size: 9 } }));
    const told = new Set(axis.slots.map((slot) => slot[1]));
    const stages = axis.stages.filter((stage) => !told.has(stage[0])).map(([name, x]) => ({
      ...foot, x, y: 1, text: safe(name), xanchor: "left", yanchor: "top", font: { size: 9, color: css("--soft") } }));
    return [...breaks, ...names, ...stages];
  }
  const stageBands = () => axis.stages.filter((_, i) => i % 2 === 0).map(([, x0, x1]) => ({
    type: "rect", x0, x1, y0: 0, y1: 1, xref: "x", yref: "paper", fillcolor: css("--panel"), line: { width: 0 }, layer: "below" }));
  const foot = axis.slots.some((slot) => slot[1]) ? { l: 46, r: 8, t: 8, b: 74 } : { l: 46, r: 8, t: 8, b: 46 };

  return {
    data, axis, safe, shown, signed, stars, css, visible, strategy, element, choice, keyed, addChart, addHeading, settle, empty, layoutOf, lines,
    trainingAxis, axisMarks, stageBands, foot, channels, hexOf, contrast,
  };
})();
