"use strict";
/* Draws several runs in one chart per question: colour, dash and mark tell the runs apart. */
(function () {
  const { data, safe, shown, signed, stars, css, visible, element, addChart, layoutOf, lines, trainingAxis, axisMarks, foot } = traitline;
  const DASHES = { solid: "", dash: "7 4", dot: "2 3", dashdot: "7 3 2 3", longdash: "12 4" };

  function figureOf(question) {
    const traces = [];
    question.curves.forEach((curve, i) => {
      if (!curve) return;
      const run = data.runs[i], shade = visible(run.colour);
      const at = curve.x.map((_, k) => k).filter((k) => curve.delta_trait[k] !== null), of = (name) => at.map((k) => curve[name][k]);
      const arm = (name) => at.map((k) => (curve[name][k] === null ? 0 : Math.abs(curve[name][k] - curve.delta_trait[k])));
      traces.push({
        name: safe(run.name), x: of("x"), y: of("delta_trait"), mode: "lines+markers", cliponaxis: false, line: { color: shade, width: 2, dash: run.dash },
        marker: { size: 7, symbol: run.symbol, color: shade }, error_y: { type: "data", symmetric: false, array: arm("ci_high"), arrayminus: arm("ci_low"), thickness: 1.2, width: 0, color: shade },
        text: at.map((k) => [`<b>${safe(run.name)}: ${safe(curve.checkpoint[k])}</b>`, `delta ${signed(curve.delta_trait[k])} [${signed(curve.ci_low[k])}, ${signed(curve.ci_high[k])}] ${stars(curve.p_adjusted[k])}`,
          curve.status[k].replaceAll("_", " "), `coherence ${shown(curve.baseline_coherence[k])} → ${shown(curve.steered_coherence[k])}`, safe(curve.dose)].join("<br>")),
        hovertemplate: "%{text}<extra></extra>",
      });
      traces.push({ x: curve.x, y: curve.steered_coherence, mode: "lines", line: { color: shade, width: 1.4, dash: run.dash }, yaxis: "y2", connectgaps: true, hoverinfo: "skip" });
    });
    return { traces, layout: layoutOf({
      xaxis: Object.assign(trainingAxis(), { anchor: "y2" }),
      yaxis: Object.assign(lines(), { domain: [0.3, 1], title: { text: "delta", standoff: 2, font: { size: 11 } }, zeroline: true }),
      yaxis2: Object.assign(lines(), { domain: [0, 0.22], range: [0, 105], tickvals: [0, 50, 100], title: { text: "coh.", standoff: 2, font: { size: 11 } }, zeroline: false }),
      annotations: axisMarks(), margin: foot }) };
  }

  function tableOf(question) {
    const number = (value) => (value === null ? "" : value.toFixed(1));
    const rows = question.curves.flatMap((curve, i) => (curve ? curve.x.map((_, k) => [
      data.runs[i].name, curve.checkpoint[k], curve.status[k].replaceAll("_", " "), number(curve.delta_trait[k]), number(curve.ci_low[k]), number(curve.ci_high[k]), curve.p_adjusted[k],
      number(curve.baseline_coherence[k]), number(curve.steered_coherence[k])]) : []));
    return { head: ["run", "checkpoint", "status", "delta", "low", "high", "p adjusted", "coherence, baseline", "steered"], rows };
  }

  function keyOf(i) {
    const run = data.runs[i], NS = "http://www.w3.org/2000/svg", key = element("span", { class: "keyed" });
    const svg = document.createElementNS(NS, "svg"), line = document.createElementNS(NS, "line");
    for (const [name, value] of Object.entries({ width: 34, height: 8, "aria-hidden": "true", class: "dot-line" })) svg.setAttribute(name, value);
    for (const [name, value] of Object.entries({ x1: 0, x2: 34, y1: 4, y2: 4, "stroke-width": 2.5, "stroke-dasharray": DASHES[run.dash] })) line.setAttribute(name, value);
    const paint = () => line.setAttribute("stroke", visible(run.colour));
    paint();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
    svg.append(line);
    key.append(svg, element("span", {}, run.name));
    return key;
  }

  for (const section of document.querySelectorAll("[data-runs]")) {
    for (const question of data.questions.filter((one) => one.target === section.dataset.runs)) {
      const present = question.curves.map((curve, i) => (curve ? i : -1)).filter((i) => i >= 0);
      const told = present.map((i) => `${data.runs[i].name}${question.curves[i].said ? ` ${question.curves[i].said}` : ""}`).join("; ");
      addChart(section, { title: question.label, said: "", describe: `${question.label}: ${told}. Its numbers are in the table that follows.`, make: () => figureOf(question), table: () => tableOf(question) });
      const key = element("div", { class: "key" });
      for (const i of present) key.append(keyOf(i));
      section.lastElementChild.querySelector("figcaption").after(key);
    }
  }
})();
