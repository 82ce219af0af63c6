"use strict";
/* Draws what post-training did: the stages before any steering, and what the descendants' own vectors do. */
(function () {
  const { data, safe, shown, signed, css, visible, strategy, element, choice, keyed, addChart, addHeading, settle, empty, layoutOf, lines } = traitline;
  const SPREAD = 0.07; // between the lines of one stage
  const SYMBOLS = { o: "circle", s: "square", D: "diamond", "^": "triangle-up", v: "triangle-down", P: "cross" }; // as the figures name them
  const number = (value, digits = 1) => (value === null ? "" : value.toFixed(digits));
  const percent = (value) => (value === null ? "" : `${(100 * value).toFixed(0)} %`);
  const places = (names) => Object.assign(lines(), {
    tickvals: names.map((_, i) => i), ticktext: names.map(safe), range: [-0.5, names.length - 0.5], automargin: true, showgrid: false, zeroline: false, ticks: "outside" });
  const arms = (at, low, high) => ({
    type: "data", symmetric: false, thickness: 1.4, width: 0, array: at.map((v, i) => (v === null || high[i] === null ? 0 : Math.max(0, high[i] - v))),
    arrayminus: at.map((v, i) => (v === null || low[i] === null ? 0 : Math.max(0, v - low[i]))) });

  // A range that holds every number, with some air, inside the limits of the scale.
  function rangeOf(values, least = -Infinity, most = Infinity) {
    const known = values.filter((v) => v !== null), low = Math.min(...known), high = Math.max(...known), air = 0.08 * (high - low) || 1;
    return [Math.max(least, low - air), Math.min(most, high + air)];
  }

  // ---- stages

  const linesOf = (names) => data.stages.flatMap((panel) => panel.lines.flatMap((one) => names.flatMap((name) => one[name])));
  const has = (panel, name) => panel.lines.some((one) => one[name].some((v) => v !== null));
  const MEASURES = [
    { name: "level", title: "trait score", said: "before any steering", needs: ["level"], range: () => rangeOf(linesOf(["level", "low", "high"]), 0, 100) },
    { name: "refusals", title: "refusals", said: "told to show the trait: solid; not told: dotted", needs: ["refusals", "told_refusals"], range: () => [-0.04, 1.04] },
    { name: "projection", title: "projection", said: "along the last checkpoint's vector", needs: ["projection"], range: () => rangeOf([0, ...linesOf(["projection"])]) },
  ];

  function stageFigure(panel, measure) {
    const traces = panel.lines.flatMap((one, k) => {
      const shade = strategy(one.strategy).colour, x = panel.stages.map((_, i) => i + SPREAD * (k - (panel.lines.length - 1) / 2));
      const text = panel.stages.map((stage, i) => [
        `<b>${safe(stage)}</b>, ${safe(strategy(one.strategy).label)}`, `trait ${shown(one.level[i], 1)} [${shown(one.low[i], 1)}, ${shown(one.high[i], 1)}]`,
        `refusals ${percent(one.refusals[i]) || "?"}, told ${percent(one.told_refusals[i]) || "?"}`, `projection ${shown(one.projection[i], 3)}`,
        `coherence ${shown(one.coherence[i])}; ${shown(one.n[i])} questions`, ...(one.p[i] === null ? [] : [`change of trait: p adjusted ${shown(one.p[i], 4)}`]),
      ].join("<br>"));
      const line = (y, dash, mode) => ({ x, y, mode, line: { color: shade, width: 2, dash }, marker: { size: 7 }, text, hovertemplate: "%{text}<extra></extra>", cliponaxis: false });
      if (measure.name === "refusals") return [line(one.refusals, "dot", "lines+markers"), line(one.told_refusals, "solid", "lines+markers")].map((trace, i) => ({ ...trace, marker: { size: i ? 7 : 4 } }));
      const trace = line(one[measure.name], "solid", "lines+markers");
      return [measure.name === "level" ? { ...trace, error_y: { ...arms(one.level, one.low, one.high), color: shade } } : trace];
    });
    const yaxis = Object.assign(lines(), { range: measure.range(), zeroline: measure.name === "projection", ...(measure.name === "refusals" ? { tickformat: ".0%", tickvals: [0, 0.25, 0.5, 0.75, 1] } : {}) });
    return { traces, layout: layoutOf({ xaxis: places(panel.stages), yaxis, margin: { l: 46, r: 12, t: 8, b: 30 } }) };
  }

  function stageTable(panel) {
    const head = ["strategy", "stage", "trait score", "95 % interval", "p adjusted of the change", "coherence", "refusals", "told to: trait", "refusals", "projection"];
    const rows = panel.lines.flatMap((one) => panel.stages.map((stage, i) => [
      strategy(one.strategy).label, stage, number(one.level[i]), one.low[i] === null ? "" : `${number(one.low[i])} to ${number(one.high[i])}`, number(one.p[i], 4),
      number(one.coherence[i]), percent(one.refusals[i]), number(one.told[i]), percent(one.told_refusals[i]), number(one.projection[i], 3)]));
    return { head, rows };
  }

  function course(panel, measure) {
    const told = measure.needs.at(-1), worded = measure.name === "refusals" ? percent : (v) => (v === null ? "" : shown(v, measure.name === "level" ? 0 : 2));
    return panel.lines.map((one) => {
      const steps = panel.stages.map((stage, i) => [stage, worded(one[told][i])]).filter(([, text]) => text);
      return steps.length ? `${strategy(one.strategy).label} ${steps.map((step) => step.join(" ")).join(", ")}` : "";
    }).filter(Boolean).join("; ");
  }

  for (const section of document.querySelectorAll("[data-stages]")) {
    const controls = element("div", { class: "controls" });
    for (const name of new Set(data.stages.flatMap((panel) => panel.lines.map((one) => one.strategy)))) controls.append(keyed(strategy(name).label, () => strategy(name).colour));
    section.append(controls);
    for (const panel of data.stages) {
      addHeading(section, panel.trait);
      for (const measure of MEASURES.filter((one) => one.needs.some((name) => has(panel, name)))) {
        addChart(section, {
          title: measure.title, said: measure.said, low: true, make: () => stageFigure(panel, measure), table: () => stageTable(panel), trait: panel.trait,
          describe: `${panel.trait}, ${measure.title} along ${panel.stages.join(", ")}: ${course(panel, measure)}. Its numbers are in the table that follows.` });
      }
    }
    settle(section);
  }

  // ---- descendants' vectors

  function sourceFigure(panel, range) {
    const step = Math.min(0.17, 0.8 / panel.sources.length);
    const at = (k) => panel.targets.map((_, i) => i + step * (k - (panel.sources.length - 1) / 2));
    const traces = panel.sources.map((one, k) => {
      const shade = visible(one.colour);
      return {
        x: at(k), y: one.delta, mode: "markers", cliponaxis: false, error_y: { ...arms(one.delta, one.low, one.high), color: shade },
        marker: { size: 8, symbol: symbolOf(one), color: panel.targets.map((_, i) => (one.fragile[i] ? css("--paper") : shade)), line: { color: shade, width: 1.6 } },
        text: panel.targets.map((target, i) => [
          `vector of <b>${safe(one.name)}</b> on <b>${safe(target)}</b>`, `delta ${signed(one.delta[i])} [${signed(one.low[i])}, ${signed(one.high[i])}]`,
          `p adjusted ${shown(one.p[i], 4)}`, `vector from ${shown(one.pairs[i])} pairs${one.fragile[i] ? " (fragile)" : ""}${one.steerable[i] ? "; steerable" : ""}`].join("<br>")),
        hovertemplate: "%{text}<extra></extra>",
      };
    });
    const missing = panel.sources.flatMap((one, k) => panel.targets.map((_, i) => ({ one, i, x: at(k)[i] })).filter(({ i }) => one.status[i] === "no_vector"));
    traces.push({
      x: missing.map((m) => m.x), y: missing.map(() => 0), mode: "markers", marker: { symbol: "x-thin", size: 7, line: { width: 2, color: missing.map((m) => visible(m.one.colour)) } },
      text: missing.map((m) => `vector of <b>${safe(m.one.name)}</b> on <b>${safe(panel.targets[m.i])}</b><br>no vector`), hovertemplate: "%{text}<extra></extra>" });
    const marks = panel.sources.flatMap((one, k) => panel.targets.map((_, i) => i).filter((i) => one.steerable[i] && one.delta[i] !== null).map((i) => ({
      x: at(k)[i], y: one.high[i] ?? one.delta[i], text: "*", showarrow: false, yanchor: "bottom", font: { size: 13 } })));
    const between = panel.targets.slice(1).map((_, i) => ({ type: "line", x0: i + 0.5, x1: i + 0.5, y0: 0, y1: 1, yref: "paper", line: { color: css("--line"), width: 1 }, layer: "below" }));
    const yaxis = Object.assign(lines(), { range, zeroline: true, title: { text: "delta", standoff: 2, font: { size: 11 } } });
    return { traces, layout: layoutOf({ xaxis: { ...places(panel.targets), title: { text: "steered network", font: { size: 11 }, standoff: 4 } }, yaxis, shapes: between, annotations: marks, margin: { l: 46, r: 8, t: 8, b: 30 } }) };
  }
  const symbolOf = (one) => SYMBOLS[one.marker];

  function sourceTable(panel) {
    const text = (one, i) => (one.delta[i] === null ? one.status[i].replaceAll("_", " ") : `${signed(one.delta[i])} [${signed(one.low[i])}, ${signed(one.high[i])}]${one.steerable[i] ? " *" : ""}`);
    return { head: ["vector of", "pairs", ...panel.targets], rows: panel.sources.map((one) => [one.name, number(one.pairs.find((n) => n !== null) ?? null, 0), ...panel.targets.map((_, i) => text(one, i))]) };
  }

  for (const section of document.querySelectorAll("[data-descendants]")) {
    const doses = [...new Set(data.sources.map((panel) => panel.dose))];
    const render = (dose) => {
      empty(section);
      const pairs = data.traits.flatMap((trait) => data.strategies.map((s) => data.sources.filter((panel) => panel.trait === trait && panel.strategy === s.name)));
      const drawn = pairs.filter((own) => own.length).map((own) => own.find((panel) => panel.dose === dose) || own[0]);
      const range = rangeOf([0, ...drawn.flatMap((panel) => panel.sources.flatMap((one) => [...one.delta, ...one.low, ...one.high]))], -100, 110);
      const alone = data.traits.every((trait) => drawn.filter((panel) => panel.trait === trait).length < 2);
      for (const panel of drawn) {
        const label = strategy(panel.strategy).label;
        if (!alone && panel === drawn.find((one) => one.trait === panel.trait)) addHeading(section, panel.trait);
        const told = panel.sources.map((one) => {
          const steps = panel.targets.map((target, i) => (one.delta[i] === null ? "" : `${signed(one.delta[i])} on ${target}`)).filter(Boolean);
          return `vector of ${one.name}: ${steps.join(", ") || "none"}`;
        }).join("; ");
        addChart(section, {
          title: alone ? `${panel.trait}, ${label}` : label, said: panel.dose === dose ? "" : panel.dose, low: true, make: () => sourceFigure(panel, range), table: () => sourceTable(panel), trait: panel.trait,
          describe: `${panel.trait}, ${label}, ${panel.dose}: ${told}. Its numbers are in the table that follows.` });
      }
      settle(section);
    };
    const controls = element("div", { class: "controls" });
    if (doses.length > 1) controls.append(choice("dose", doses.map((name) => [name, name]), render));
    for (const one of new Map(data.sources.flatMap((panel) => panel.sources).map((one) => [one.name, one])).values()) {
      controls.append(keyed(`vector of ${one.name}`, () => visible(one.colour), symbolOf(one)));
    }
    section.append(controls);
    render(doses[0]);
  }
})();
