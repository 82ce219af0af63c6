"use strict";
/* Draws what steering does: emergence, transfer, the negative coefficient. Knows the effect curves; leaves directions to geometry.js. */
(function () {
  const { data, axis, safe, shown, signed, stars, css, strategy, element, choice, addChart, addHeading, settle, empty, layoutOf, lines, trainingAxis, axisMarks, stageBands, foot } = traitline;

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

  function effectTable(panel, index) {
    const curve = panel.curves[index], band = panel.controls[index];
    const control = new Map(band.x.map((x, i) => [x, `${signed(band.low[i])} to ${signed(band.high[i])}`]));
    const percent = (value) => (value === null ? "" : `${(100 * value).toFixed(0)} %`);
    const number = (value, digits = 1) => (value === null ? "" : value.toFixed(digits));
    const head = ["checkpoint", "status", "baseline", "steered", "delta", "95 % interval", "p adjusted", "controls", "coherence, baseline", "steered", "refusals", "missing", "pairs"];
    const rows = curve.x.map((x, i) => [
      curve.checkpoint[i], curve.steerable[i] ? "steerable" : curve.status[i].replaceAll("_", " "), number(curve.baseline_trait[i]), number(curve.steered_trait[i]),
      number(curve.delta_trait[i]), curve.ci_low[i] === null ? "" : `${signed(curve.ci_low[i])} to ${signed(curve.ci_high[i])}`, curve.p_adjusted[i], control.get(x) || "",
      number(curve.baseline_coherence[i]), number(curve.steered_coherence[i]), percent(curve.refusal_rate[i]), number(curve.n_missing[i], 0), number(curve.n_pairs[i], 0),
    ]);
    return { head, rows };
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
        if (own.length && !alone) addHeading(section, trait);
        for (const panel of own) {
          const index = indexOf(panel), label = strategy(panel.strategy).label;
          const make = () => {
            const figure = effectFigure(panel, index);
            figure.layout.yaxis.range = range;
            return figure;
          };
          const describe = `${trait}, ${label}, ${panel.doses[index]}: ${panel.said}. Its numbers are in the table that follows.`;
          const said = panel.doses[index] === panel.main ? panel.said : panel.doses[index];
          addChart(section, { title: alone ? `${trait}, ${label}` : label, said, describe, make, table: () => effectTable(panel, index), trait });
        }
      }
      settle(section);
    };
    const controls = element("div", { class: "controls" });
    const doses = [...new Set(usable.flatMap((variant) => variant.panels.flatMap((panel) => panel.doses)))];
    if (usable.length > 1) controls.append(choice("steered network", usable.map((v, i) => [i, v.target]), (value) => { target = Number(value); render(); }));
    if (doses.length > 1) controls.append(choice("dose", [["", "as in the verdicts"], ...doses.map((d) => [d, d])], (value) => { dose = value; render(); }));
    if (controls.childElementCount) section.append(controls);
    render();
  }

  for (const section of document.querySelectorAll("[data-effects]")) effectSection(section, data.effects[section.dataset.effects]);
})();
