"use strict";
/* Draws the interactive charts from the JSON in #data. Knows Plotly; leaves the response browser to browser.js. */
const traitlineData = JSON.parse(document.getElementById("data").textContent);

(function () {
  const data = traitlineData;
  const axis = data.axis;
  const place = new Map(axis.checkpoints.map((name, i) => [name, axis.places[i]]));
  const strategyOf = new Map(data.strategies.map((s) => [s.name, s]));
  const drawn = new Map(); // chart element -> function that returns its figure
  const CONFIG = { responsive: true, displayModeBar: false };

  // Plotly reads a few tags in its texts; names come from files, so theirs are kept from it.
  const safe = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const shown = (value, digits = 0) => (value === null || value === undefined ? "?" : value.toFixed(digits));
  const signed = (value) => (value === null ? "?" : (value > 0 ? "+" : "") + value.toFixed(1));
  const stars = (p) => (p === null ? "" : p < 0.001 ? "***" : p < 0.01 ? "**" : p < 0.05 ? "*" : "");
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const strategy = (name) => strategyOf.get(name) || { label: name, colour: "#888888" };

  function element(tag, attributes = {}, text = "") {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.textContent = text;
    return made;
  }

  function choice(label, options, onChange) {
    const wrapped = element("label", {}, label);
    const select = element("select");
    for (const [value, text] of options) {
      const option = element("option", { value: String(value) }, text);
      select.append(option);
    }
    select.addEventListener("change", () => onChange(select.value));
    wrapped.append(select);
    return wrapped;
  }

  // Charts are drawn when they come near the window, and again when the colour scheme changes.
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
    for (const chart of drawn.keys()) if (chart.dataset.drawn) draw(chart);
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("beforeprint", () => { for (const chart of drawn.keys()) draw(chart); });

  function addChart(parent, title, said, describe, make, low) {
    const figure = element("figure");
    const caption = element("figcaption");
    caption.append(element("b", {}, title), element("span", { class: "said" }, said));
    const chart = element("div", { class: low ? "chart low" : "chart", role: "img", "aria-label": describe });
    figure.append(caption, chart);
    parent.append(figure);
    drawn.set(chart, make);
    near.observe(chart);
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
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: css("--ink"), size: 12, family: "system-ui, sans-serif" },
      margin: { l: 46, r: 8, t: 8, b: 46 },
      showlegend: false,
      hovermode: "closest",
      dragmode: false,
    };
    return Object.assign(base, extra);
  }
  const lines = () => ({ gridcolor: css("--line"), zerolinecolor: css("--soft"), linecolor: css("--soft") });
  const diverging = () => [[0, "#2166ac"], [0.5, css("--panel")], [1, "#b2182b"]];
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

  // ---- effects: emergence, transfer, negative coefficient

  function effectFigure(panel, index) {
    const curve = panel.curves[index], band = panel.controls[index], shade = strategy(panel.strategy).colour;
    const at = curve.x.map((_, i) => i).filter((i) => curve.delta_trait[i] !== null);
    const missing = curve.x.map((_, i) => i).filter((i) => curve.status[i] === "no_vector");
    const pick = (name, rows) => rows.map((i) => curve[name][i]);
    const control = new Map(band.x.map((x, i) => [x, `controls ${signed(band.low[i])} to ${signed(band.high[i])} (${band.n[i]})`]));
    const hover = at.map((i) => [
      `<b>${safe(curve.checkpoint[i])}</b>`,
      `delta ${signed(curve.delta_trait[i])} [${signed(curve.ci_low[i])}, ${signed(curve.ci_high[i])}]`,
      `p adjusted ${shown(curve.p_adjusted[i], 4)}, two-sided ${shown(curve.p_two_sided[i], 4)}`,
      `trait ${shown(curve.baseline_trait[i])} → ${shown(curve.steered_trait[i])}`,
      `coherence ${shown(curve.baseline_coherence[i])} → ${shown(curve.steered_coherence[i])}`,
      control.get(curve.x[i]) || "no controls",
      `refusals ${shown(curve.refusal_rate[i] === null ? null : 100 * curve.refusal_rate[i])} %, missing scores ${shown(curve.n_missing[i])}`,
      `cut at the length limit ${shown(curve.length_cut[i] === null ? null : 100 * curve.length_cut[i])} %, repetition ${shown(curve.repetition[i], 2)}`,
      `n: ${shown(curve.n_questions[i])} questions, ${shown(curve.n_rows_steered[i])} steered, ${shown(curve.n_rows_baseline[i])} baseline rows`,
      `vector from ${shown(curve.n_pairs[i])} pairs${curve.fragile[i] ? " (fragile)" : ""}${curve.steerable[i] ? "; steerable" : ""}`,
    ].join("<br>"));
    const error = {
      type: "data", symmetric: false, thickness: 1.4, width: 0, color: shade,
      array: at.map((i) => (curve.ci_high[i] === null ? 0 : curve.ci_high[i] - curve.delta_trait[i])),
      arrayminus: at.map((i) => (curve.ci_low[i] === null ? 0 : curve.delta_trait[i] - curve.ci_low[i])),
    };
    const thin = (name, dash, colour) => ({
      x: curve.x, y: curve[name], mode: "lines", line: { color: colour, width: 1.4, dash }, yaxis: "y2", connectgaps: true, hoverinfo: "skip",
    });
    const traces = [
      { x: [...band.x, ...band.x.toReversed()], y: [...band.high, ...band.low.toReversed()], fill: "toself", fillcolor: css("--band"),
        mode: "lines", line: { color: css("--band"), width: 3 }, opacity: 0.6, hoverinfo: "skip" },
      { x: missing.map((i) => curve.x[i]), y: missing.map(() => 0), mode: "markers", marker: { symbol: "x-thin", size: 7, line: { width: 2, color: css("--soft") } },
        text: missing.map((i) => `<b>${safe(curve.checkpoint[i])}</b><br>no vector`), hovertemplate: "%{text}<extra></extra>" },
      { x: pick("x", at), y: pick("delta_trait", at), error_y: error, mode: "lines+markers", line: { color: shade, width: 2 }, cliponaxis: false,
        marker: { size: 7, color: at.map((i) => (curve.fragile[i] ? css("--paper") : shade)), line: { color: shade, width: 1.6 } },
        text: hover, hovertemplate: "%{text}<extra></extra>" },
      thin("baseline_coherence", "dot", css("--soft")), thin("steered_coherence", "solid", shade),
    ];
    const shapes = stageBands();
    if (panel.onset) {
      const [after, by] = panel.onset, widen = after === by ? 0.01 * (axis.limits[1] - axis.limits[0]) : 0;
      shapes.push({ type: "rect", x0: after - widen, x1: by + widen, y0: 0.3, y1: 1, xref: "x", yref: "paper", fillcolor: css("--onset"), line: { width: 0 }, layer: "below", opacity: 0.7 });
    }
    const marks = at.filter((i) => stars(curve.p_adjusted[i])).map((i) => ({
      x: curve.x[i], y: curve.ci_high[i] === null ? curve.delta_trait[i] : curve.ci_high[i], xref: "x", yref: "y", text: stars(curve.p_adjusted[i]),
      showarrow: false, textangle: -90, yanchor: "bottom", font: { size: 9 } }));
    const layout = layoutOf({
      xaxis: Object.assign(trainingAxis(), { anchor: "y2" }),
      yaxis: Object.assign(lines(), { domain: [0.3, 1], title: { text: "delta", standoff: 2, font: { size: 11 } }, zeroline: true }),
      yaxis2: Object.assign(lines(), { domain: [0, 0.22], range: [0, 105], tickvals: [0, 50, 100], title: { text: "coh.", standoff: 2, font: { size: 11 } }, zeroline: false }),
      shapes, annotations: [...axisMarks(), ...marks], margin: foot,
    });
    return { traces, layout };
  }

  function commonRange(panels, indexOf) {
    let low = 0, high = 0;
    for (const panel of panels) {
      const curve = panel.curves[indexOf(panel)], band = panel.controls[indexOf(panel)];
      for (const value of [...curve.ci_low, ...curve.ci_high, ...curve.delta_trait, ...band.low, ...band.high]) {
        if (value !== null) { low = Math.min(low, value); high = Math.max(high, value); }
      }
    }
    const margin = Math.max(0.06 * (high - low), 1);
    return [low - margin, high + 2 * margin];
  }

  function effectSection(section, variants) {
    const usable = variants.filter((variant) => variant.panels.length);
    if (!usable.length) return;
    let target = 0, dose = "";
    const render = () => {
      empty(section);
      const panels = usable[target].panels;
      const indexOf = (panel) => Math.max(0, panel.doses.indexOf(panel.doses.includes(dose) ? dose : panel.main));
      const range = commonRange(panels, indexOf);
      const alone = data.traits.every((trait) => panels.filter((panel) => panel.trait === trait).length < 2);
      for (const trait of data.traits) {
        const own = panels.filter((panel) => panel.trait === trait);
        if (own.length && !alone) section.append(element("h3", {}, trait));
        for (const panel of own) {
          const index = indexOf(panel), label = strategy(panel.strategy).label;
          const make = () => {
            const figure = effectFigure(panel, index);
            figure.layout.yaxis.range = range;
            return figure;
          };
          const describe = `${trait}, ${label}, ${panel.doses[index]}: ${panel.said}. The numbers are in the table below.`;
          const said = panel.doses[index] === panel.main ? panel.said : panel.doses[index];
          addChart(section, alone ? `${trait}, ${label}` : label, said, describe, make);
        }
      }
    };
    const controls = element("div", { class: "controls" });
    const doses = [...new Set(usable.flatMap((variant) => variant.panels.flatMap((panel) => panel.doses)))];
    if (usable.length > 1) controls.append(choice("steered network", usable.map((v, i) => [i, v.target]), (value) => { target = Number(value); render(); }));
    if (doses.length > 1) controls.append(choice("dose", [["", "as in the verdicts"], ...doses.map((d) => [d, d])], (value) => { dose = value; render(); }));
    if (controls.childElementCount) section.append(controls);
    render();
  }

  for (const section of document.querySelectorAll("[data-effects]")) effectSection(section, data.effects[section.dataset.effects]);

  // ---- geometry

  function trajectoryFigure(rows, norms) {
    const line = (row, name, dash, mode) => ({
      x: row.checkpoint.map((c) => place.get(c)), y: row[name], mode, line: { color: strategy(row.strategy).colour, width: 1.8, dash }, marker: { size: 5 },
      text: row.checkpoint.map((c, i) => `<b>${safe(c)}</b><br>${name.replaceAll("_", " ")} ${shown(row[name][i], 3)}<br>reliability ${shown(row.reliability[i], 2)}`),
      hovertemplate: "%{text}<extra></extra>", connectgaps: true,
    });
    const traces = rows.flatMap((row) => norms ? [line(row, norms, "solid", "lines+markers")] : [
      line(row, "cosine_to_final", "solid", "lines+markers"), line(row, "corrected_to_final", "dash", "lines"), line(row, "cosine_to_previous", "dot", "lines"),
    ]);
    const yaxis = Object.assign(lines(), norms ? (norms === "l2_norm" ? { type: "log", dtick: "D2" } : { rangemode: "tozero" }) : { range: [Math.min(-0.35, ...rows.flatMap((r) => [...r.cosine_to_final, ...r.corrected_to_final, ...r.cosine_to_previous]).map((v) => (v === null ? 0 : v - 0.05))), 1.15] });
    const ceilings = norms ? [] : data.geometry.ceilings.filter((one) => rows.some((row) => row.trait === one.trait && row.strategy === one.strategy && row.layer === one.layer));
    const bands = ceilings.map((one) => ({
      type: "rect", x0: axis.limits[0], x1: axis.limits[1], y0: Math.min(1, one.cosine), y1: 1, fillcolor: strategy(one.strategy).colour, opacity: 0.25, line: { width: 0 }, layer: "below" }));
    return { traces, layout: layoutOf({ xaxis: trainingAxis(), yaxis, annotations: axisMarks(), shapes: [...stageBands(), ...bands], margin: foot }) };
  }

  function matrixFigure(matrix, across, down, limit, digits, texts, form) {
    const text = matrix.map((row) => row.map((v) => (v === null ? "" : form === "delta" ? signed(v) : v.toFixed(digits))));
    const hover = matrix.map((row, i) => row.map((v, j) => `${safe(down[i])} × ${safe(across[j])}<br>${v === null ? "nothing measured" : v.toFixed(2)}`));
    const trace = {
      type: "heatmap", z: matrix, x: across.map((_, i) => i), y: down.map((_, i) => i), zmin: -limit, zmax: limit, colorscale: diverging(),
      text: texts ? text : hover, customdata: hover, hovertemplate: "%{customdata}<extra></extra>", showscale: !texts, xgap: 1, ygap: 1,
      colorbar: { thickness: 8, len: 0.9, outlinewidth: 0 },
    };
    if (texts) trace.texttemplate = "%{text}";
    const labels = (names, most) => {
      const every = Math.ceil(names.length / most);
      const kept = names.map((_, i) => i).filter((i) => (names.length - 1 - i) % every === 0);
      return { tickvals: kept, ticktext: kept.map((i) => safe(axis.short[names[i]] || names[i])), automargin: true, showgrid: false, zeroline: false, tickfont: { size: 10 } };
    };
    const layout = layoutOf({ xaxis: labels(across, 12), yaxis: Object.assign(labels(down, 20), { autorange: "reversed" }), margin: { l: 20, r: 8, t: 8, b: 20 } });
    return { traces: [trace], layout };
  }

  function geometrySection(section, kind) {
    const order = data.strategies.map((s) => s.name);
    const lined = data.geometry.trajectories.filter((row) => kind !== "trajectories" || row.checkpoint.length > 1);
    const unsorted = kind === "matrices" ? data.geometry.matrices : lined;
    const all = unsorted.toSorted((a, b) => order.indexOf(a.strategy) - order.indexOf(b.strategy));
    const layers = data.geometry.layers.filter((layer) => all.some((row) => row.layer === layer));
    if (!layers.length) return;
    const render = (layer) => {
      empty(section);
      const alone = data.traits.every((trait) => all.filter((row) => row.layer === layer && row.trait === trait).length < 2);
      for (const trait of data.traits) {
        const rows = all.filter((row) => row.layer === layer && row.trait === trait);
        if (!rows.length) continue;
        if (kind !== "matrices") {
          const key = rows.map((row) => strategy(row.strategy).label).join(", ");
          addChart(section, trait, "", `${trait}, layer ${layer}: ${key}`, () => trajectoryFigure(rows, { norms: "norm_over_activation_norm", lengths: "l2_norm" }[kind]), true);
          continue;
        }
        if (!alone) section.append(element("h3", {}, trait));
        for (const row of rows) {
          const label = strategy(row.strategy).label;
          addChart(section, alone ? `${trait}, ${label}` : label, "", `${trait}, ${label}, layer ${layer}: cosine between checkpoints`,
            () => matrixFigure(row.cosines, data.geometry.matrix_checkpoints, data.geometry.matrix_checkpoints, 1, 2, false));
        }
      }
    };
    const controls = element("div", { class: "controls" });
    if (layers.length > 1) controls.append(choice("layer", layers.map((l) => [l, `layer ${l}`]), (value) => render(Number(value))));
    if (kind !== "matrices") for (const s of data.strategies.filter((s) => all.some((row) => row.strategy === s.name))) {
      const key = element("span", {}, `● ${s.label}`);
      key.style.color = s.colour;
      controls.append(key);
    }
    section.append(controls);
    render(layers[0]);
  }

  for (const section of document.querySelectorAll("[data-geometry]")) geometrySection(section, section.dataset.geometry);

  // ---- traits against each other

  function crossedSection(section, kind) {
    const filled = data.crossed.filter((one) => one[kind].some((row) => row.some((v) => v !== null)));
    if (!filled.length) return;
    const checkpoints = axis.checkpoints.filter((name) => filled.some((one) => one.checkpoint === name)).toReversed();
    const deltas = filled.flatMap((one) => one[kind].flat()).filter((v) => v !== null);
    const limit = kind === "cosines" ? 1 : Math.max(1, ...deltas.map(Math.abs));
    const render = (checkpoint) => {
      empty(section);
      for (const one of filled.filter((row) => row.checkpoint === checkpoint)) {
        const label = strategy(one.strategy).label;
        const what = kind === "effects" ? "vectors down, rubrics across" : "cosine";
        addChart(section, label, what, `${label} at ${checkpoint}: ${what}`,
          () => matrixFigure(one[kind], data.traits, data.traits, limit, 2, true, kind === "effects" ? "delta" : "cosine"), true);
      }
    };
    const controls = element("div", { class: "controls" });
    controls.append(choice("checkpoint", checkpoints.map((name) => [name, name]), render));
    section.append(controls);
    render(checkpoints[0]);
  }

  for (const section of document.querySelectorAll("[data-crossed]")) crossedSection(section, section.dataset.crossed);

  // ---- facets, and the vectors on a plane

  function facetFigure(panel) {
    const traces = panel.lines.map((one) => ({
      name: safe(one.facet), x: one.x, y: one.share, mode: "lines+markers", line: { color: one.colour, width: 1.8 }, marker: { size: 5 },
      error_y: { type: "data", symmetric: false, thickness: 1, width: 0, color: one.colour,
        array: one.high.map((v, i) => (v === null ? 0 : Math.max(0, v - one.share[i]))), arrayminus: one.low.map((v, i) => (v === null ? 0 : Math.max(0, one.share[i] - v))) },
      text: one.checkpoint.map((c, i) => `<b>${safe(c)}</b><br>${safe(one.facet)}: ${shown(one.count[i])} of ${shown(one.total[i])}<br>${shown(one.share[i], 2)} [${shown(one.low[i], 2)}, ${shown(one.high[i], 2)}]`),
      hovertemplate: "%{text}<extra></extra>",
    }));
    return { traces, layout: layoutOf({
      xaxis: trainingAxis(), yaxis: Object.assign(lines(), { range: [-0.02, 1.02] }), annotations: axisMarks(), shapes: stageBands(), margin: foot }) };
  }

  function mapFigure(map) {
    const last = map.checkpoint.length - 1, shade = strategy(map.strategy).colour;
    const trace = {
      x: map.x, y: map.y, mode: "lines+markers+text", line: { color: css("--soft"), width: 1 }, cliponaxis: false,
      marker: { size: 9, color: map.checkpoint.map((c) => place.get(c)), colorscale: "Viridis", line: { color: css("--paper"), width: 1 } },
      text: map.checkpoint.map((c, i) => (i === 0 || i === last ? safe(axis.short[c] || c) : "")), textposition: map.x.map((x) => (x > 0 ? "middle right" : "top left")), textfont: { size: 10, color: shade },
      customdata: map.checkpoint.map(safe), hovertemplate: "%{customdata}<extra></extra>",
    };
    const bare = () => Object.assign(lines(), { showticklabels: false, showgrid: false, zeroline: false, mirror: true, showline: true });
    const low = Math.min(...map.x), high = Math.max(...map.x), pad = 0.35 * (high - low);
    return { traces: [trace], layout: layoutOf({ xaxis: Object.assign(bare(), { range: [low - pad, high + pad] }), yaxis: Object.assign(bare(), { scaleanchor: "x" }), margin: { l: 8, r: 8, t: 8, b: 8 } }) };
  }

  for (const section of document.querySelectorAll("[data-facets]"))
    for (const panel of data.facets) {
      addChart(section, panel.title, panel.said, `${panel.title}, ${panel.said}: shares along training. The numbers are in the table below.`, () => facetFigure(panel), true);
      const key = element("div", { class: "key" });
      for (const one of panel.lines) {
        const name = element("span", {}, `● ${one.facet}`);
        name.style.color = one.colour;
        key.append(name);
      }
      section.lastElementChild.append(key);
    }
  for (const section of document.querySelectorAll("[data-maps]"))
    for (const map of data.maps) addChart(section, map.trait, `${strategy(map.strategy).label}, stress ${shown(map.stress, 2)}`, `${map.trait}: checkpoints on a plane`, () => mapFigure(map), true);
})();
