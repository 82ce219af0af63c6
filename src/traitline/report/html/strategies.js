"use strict";
/* Draws what each strategy's vectors do on each strategy's questions, a matrix per trait and network. */
(function () {
  const { data, safe, shown, signed, element, choice, addChart, settle, empty, matrixFigure } = traitline;
  const MARKS = { no_vector: "×" };
  const words = (state) => state.replaceAll("_", " ");
  const whole = (value) => (Math.round(value) === 0 ? "0" : (value > 0 ? "+" : "−") + Math.abs(value).toFixed(0));
  const cells = (one) => one.delta.flatMap((row, i) => row.map((delta, j) => ({ delta, steerable: one.steerable[i][j], state: one.states[i][j] })));
  const each = (one, make) => one.delta.map((row, i) => row.map((delta, j) => make(delta, i, j)));

  function figureOf(one, limit) {
    const written = each(one, (delta, i, j) => (delta === null ? MARKS[one.states[i][j]] || "–" : whole(delta) + (one.steerable[i][j] ? "*" : "")));
    const hover = each(one, (delta, i, j) => [
      `<b>${safe(one.vectors[i])}</b> vector, <b>${safe(one.questions[j])}</b> questions`,
      delta === null ? words(one.states[i][j]) : `delta ${signed(delta)} [${signed(one.low[i][j])}, ${signed(one.high[i][j])}]${one.steerable[i][j] ? "; steerable" : ""}`,
    ].join("<br>"));
    return matrixFigure({ matrix: one.delta, across: one.questions, down: one.vectors, limit, written, hover, acrossIs: "questions of", downIs: "vectors of", apart: one.common });
  }

  function tableOf(one) {
    const text = each(one, (delta, i, j) => (delta === null ? words(one.states[i][j])
      : `${signed(delta)} [${signed(one.low[i][j])}, ${signed(one.high[i][j])}]${one.steerable[i][j] ? " *" : ""}`));
    return { head: ["vectors of", ...one.questions], rows: text.map((row, i) => [one.vectors[i], ...row]) };
  }

  // Which cells have no number, and why, with the mark that stands in them.
  function leftOut(one) {
    const counts = new Map();
    for (const cell of cells(one)) if (cell.delta === null) counts.set(cell.state, (counts.get(cell.state) || 0) + 1);
    return [...counts].map(([state, count]) => `${MARKS[state] || "–"} ${words(state)}: ${count}`).join(", ");
  }

  function summary(one) {
    const all = cells(one), known = all.filter((cell) => cell.delta !== null), deltas = known.map((cell) => cell.delta);
    const span = known.length ? `delta from ${signed(Math.min(...deltas))} to ${signed(Math.max(...deltas))}, ${known.filter((c) => c.steerable).length} of ${all.length} steerable` : "nothing evaluated";
    return [span, leftOut(one)].filter(Boolean).join("; ");
  }

  for (const section of document.querySelectorAll("[data-strategies]")) {
    const all = data.matrices;
    if (!all.length) continue;
    const limit = Math.max(1, ...all.flatMap(cells).map((cell) => Math.abs(cell.delta ?? 0)));
    const targets = [...new Set(all.map((one) => one.target))], doses = [...new Set(all.map((one) => one.dose))];
    let target = targets[0], dose = doses[0];
    const render = () => {
      empty(section);
      for (const trait of data.traits) {
        const here = all.filter((one) => one.trait === trait && one.target === target);
        const one = here.find((found) => found.dose === dose) || here[0];
        if (!one) continue;
        addChart(section, {
          title: trait, said: `at ${one.target}, ${one.dose}`, note: leftOut(one), low: one.vectors.length < 5, make: () => figureOf(one, limit), table: () => tableOf(one), trait,
          describe: `${trait} at ${one.target}, ${one.dose}; vectors down, questions across: ${summary(one)}. Its numbers are in the table that follows.` });
      }
      settle(section);
    };
    const controls = element("div", { class: "controls" });
    if (targets.length > 1) controls.append(choice("steered network", targets.map((name) => [name, name]), (value) => { target = value; render(); }));
    if (doses.length > 1) controls.append(choice("dose", doses.map((name) => [name, name]), (value) => { dose = value; render(); }));
    if (controls.childElementCount) section.append(controls);
    render();
  }
})();
