"use strict";
/* Draws directions and what is beside them: trajectories, matrices, traits against each other, facets, maps of the vectors. */
(function () {
  const { data, axis, safe, shown, signed, css, visible, strategy, element, choice, keyed, addChart, addHeading, settle, empty, layoutOf, lines, trainingAxis, axisMarks, stageBands, foot, matrixFigure } = traitline;
  const place = new Map(axis.checkpoints.map((name, i) => [name, axis.places[i]]));
  const MOST_NUMBERED = 6; // checkpoints whose matrix has its numbers in it
  const worded = (value, digits) => (value === null ? "" : value.toFixed(digits).replace("-", "−"));
  const rounded = (value, digits = 3) => (value === null || value === undefined ? "" : value.toFixed(digits));

  // ---- geometry

  // The highest cosine to the last vector that the reliability of both vectors permits.
  const ceilingOf = (row) => row.cosine_to_final.map((v, i) => (v === null || !row.corrected_to_final[i] ? null : v / row.corrected_to_final[i]));

  function trajectoryTable(rows, norms) {
    const head = ["strategy", "checkpoint", ...(norms ? [norms.replaceAll("_", " ")] : ["to the last", "corrected", "ceiling", "to the previous", "corrected"]), "reliability"];
    const found = rows.flatMap((row) => row.checkpoint.map((name, i) => [
      strategy(row.strategy).label, name,
      ...(norms ? [rounded(row[norms][i], 4)] : [row.cosine_to_final[i], row.corrected_to_final[i], ceilingOf(row)[i], row.cosine_to_previous[i], row.corrected_to_previous[i]].map((v) => rounded(v))),
      rounded(row.reliability[i]),
    ]));
    return { head, rows: found };
  }

  const matrixTable = (matrix, across, down, digits) => ({ head: ["", ...across], rows: matrix.map((row, i) => [down[i], ...row.map((v) => rounded(v, digits))]) });

  // Ticks of a log axis: 1, 2, 5, or finer where fewer than three of these fall between the numbers.
  function logTicks(values) {
    const known = values.filter((v) => v > 0), low = Math.min(...known) / 1.1, high = Math.max(...known) * 1.1;
    const powers = [];
    for (let k = Math.floor(Math.log10(low)); k <= Math.log10(high); k += 1) powers.push(k);
    const ticks = (digits) => powers.flatMap((k) => digits.map((d) => Number((d * 10 ** k).toPrecision(3)))).filter((v) => v >= low && v <= high);
    const found = [[1, 2, 5], [1, 1.5, 2, 3, 4, 5, 7], [1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8, 9]].map(ticks).find((one) => one.length >= 3);
    return found ? { tickvals: found, ticktext: found.map(String) } : {};
  }

  function trajectoryFigure(rows, norms) {
    const line = (row, name, dash, mode) => ({
      x: row.checkpoint.map((c) => place.get(c)), y: row[name], mode, line: { color: strategy(row.strategy).colour, width: 1.8, dash }, marker: { size: 5 },
      text: row.checkpoint.map((c, i) => `<b>${safe(c)}</b><br>${name.replaceAll("_", " ")} ${shown(row[name][i], 3)}<br>reliability ${shown(row.reliability[i], 2)}`),
      hovertemplate: "%{text}<extra></extra>", connectgaps: true,
    });
    const ceiling = (row) => Object.assign(line(row, "cosine_to_final", "solid", "lines"), {
      y: ceilingOf(row), line: { color: css("--soft"), width: 1, shape: "linear" }, hoverinfo: "skip", text: undefined, hovertemplate: undefined });
    const traces = rows.flatMap((row) => norms ? [line(row, norms, "solid", "lines+markers")] : [
      ceiling(row), line(row, "cosine_to_final", "solid", "lines+markers"), line(row, "corrected_to_final", "dash", "lines"), line(row, "cosine_to_previous", "dot", "lines"),
    ]);
    const yaxis = Object.assign(lines(), norms ? (norms === "l2_norm" ? { type: "log", ...logTicks(rows.flatMap((row) => row.l2_norm)) } : { rangemode: "tozero" }) : { range: [Math.min(-0.35, ...rows.flatMap((r) => [...r.cosine_to_final, ...r.corrected_to_final, ...r.cosine_to_previous]).map((v) => (v === null ? 0 : v - 0.05))), 1.15] });
    const ceilings = norms ? [] : data.geometry.ceilings.filter((one) => rows.some((row) => row.trait === one.trait && row.strategy === one.strategy && row.layer === one.layer));
    const bands = ceilings.map((one) => ({
      type: "rect", x0: axis.limits[0], x1: axis.limits[1], y0: Math.min(1, one.cosine), y1: 1, fillcolor: strategy(one.strategy).colour, opacity: 0.25, line: { width: 0 }, layer: "below" }));
    return { traces, layout: layoutOf({ xaxis: trainingAxis(), yaxis, annotations: axisMarks(), shapes: [...stageBands(), ...bands], margin: foot }) };
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
          const norms = { norms: "norm_over_activation_norm", lengths: "l2_norm" }[kind], what = norms ? norms.replaceAll("_", " ") : "cosines along training";
          addChart(section, { title: trait, describe: `${trait}, layer ${layer}, ${what}: ${key}. Its numbers are in the table that follows.`,
            make: () => trajectoryFigure(rows, norms), table: () => trajectoryTable(rows, norms), low: true, trait });
          continue;
        }
        if (!alone) addHeading(section, trait);
        for (const row of rows) {
          const label = strategy(row.strategy).label;
          const names = data.geometry.matrix_checkpoints;
          addChart(section, { title: alone ? `${trait}, ${label}` : label, describe: `${trait}, ${label}, layer ${layer}: cosine between checkpoints. Its numbers are in the table that follows.`,
            make: () => matrixFigure({ matrix: row.cosines, across: names, down: names, limit: 1, written: names.length > MOST_NUMBERED ? null : row.cosines.map((line) => line.map((v) => worded(v, 2))) }), table: () => matrixTable(row.cosines, names, names, 2), trait });
        }
      }
      settle(section);
    };
    const controls = element("div", { class: "controls" });
    if (layers.length > 1) controls.append(choice("layer", layers.map((l) => [l, `layer ${l}`]), (value) => render(Number(value))));
    if (kind !== "matrices") for (const s of data.strategies.filter((s) => all.some((row) => row.strategy === s.name))) {
      controls.append(keyed(s.label, () => strategy(s.name).colour));
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
        addChart(section, { title: label, said: what, describe: `${label} at ${checkpoint}: ${what}. Its numbers are in the table that follows.`, low: true,
          make: () => matrixFigure({ matrix: one[kind], across: data.traits, down: data.traits, limit, written: one[kind].map((row) => row.map((v) => (v === null ? "" : kind === "effects" ? signed(v) : worded(v, 2)))) }), table: () => matrixTable(one[kind], data.traits, data.traits, 2) });
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
      name: safe(one.facet), x: one.x, y: one.share, mode: "lines+markers", line: { color: visible(one.colour), width: 1.8 }, marker: { size: 5 },
      error_y: { type: "data", symmetric: false, thickness: 1, width: 0, color: visible(one.colour),
        array: one.high.map((v, i) => (v === null ? 0 : Math.max(0, v - one.share[i]))), arrayminus: one.low.map((v, i) => (v === null ? 0 : Math.max(0, one.share[i] - v))) },
      text: one.checkpoint.map((c, i) => `<b>${safe(c)}</b><br>${safe(one.facet)}: ${shown(one.count[i])} of ${shown(one.total[i])}<br>${shown(one.share[i], 2)} [${shown(one.low[i], 2)}, ${shown(one.high[i], 2)}]`),
      hovertemplate: "%{text}<extra></extra>",
    }));
    return { traces, layout: layoutOf({
      xaxis: trainingAxis(), yaxis: Object.assign(lines(), { range: [-0.02, 1.02] }), annotations: axisMarks(), shapes: stageBands(), margin: foot }) };
  }

  function mapFigure(map) {
    const last = map.checkpoint.length - 1;
    const trace = {
      x: map.x, y: map.y, mode: "lines+markers+text", line: { color: css("--soft"), width: 1 }, cliponaxis: false,
      marker: { size: 9, color: map.checkpoint.map((c) => place.get(c)), colorscale: "Viridis", line: { color: css("--paper"), width: 1 } },
      text: map.checkpoint.map((c, i) => (i === 0 || i === last ? safe(axis.short[c] || c) : "")), textposition: map.x.map((x) => (x > 0 ? "middle right" : "top left")), textfont: { size: 10 },
      customdata: map.checkpoint.map(safe), hovertemplate: "%{customdata}<extra></extra>",
    };
    const bare = () => Object.assign(lines(), { showticklabels: false, showgrid: false, zeroline: false, mirror: true, showline: true });
    const low = Math.min(...map.x), high = Math.max(...map.x), pad = 0.35 * (high - low);
    return { traces: [trace], layout: layoutOf({ xaxis: Object.assign(bare(), { range: [low - pad, high + pad] }), yaxis: Object.assign(bare(), { scaleanchor: "x" }), margin: { l: 8, r: 8, t: 8, b: 8 } }) };
  }

  function facetTable(panel) {
    const rows = panel.lines.flatMap((one) => one.checkpoint.map((name, i) => [one.facet, name, one.count[i], one.total[i], rounded(one.share[i]), rounded(one.low[i]), rounded(one.high[i])]));
    return { head: ["facet", "checkpoint", "answers", "of", "share", "low", "high"], rows };
  }

  // Many panels are shown one set of answers at a time; each title has its heading, where several have it.
  const MOST_FACETS = 12;
  for (const section of document.querySelectorAll("[data-facets]")) {
    const sets = [...new Set(data.facets.map((panel) => panel.answers))], titles = [...new Set(data.facets.map((panel) => panel.title))];
    const render = (chosen) => {
      empty(section);
      for (const title of titles) {
        const own = data.facets.filter((panel) => panel.title === title && (chosen === null || panel.answers === chosen));
        const headed = own.length > 1 && titles.length > 1;
        if (headed) addHeading(section, title);
        for (const panel of own) {
          const parts = [headed ? "" : title, panel.strategy, chosen === null ? panel.answers : ""].filter(Boolean), told = [title, panel.strategy, panel.answers].filter(Boolean).join(", ");
          addChart(section, { title: parts[0] || title, said: parts.slice(1).join(", "), describe: `${told}: shares along training. Its numbers are in the table that follows.`,
            make: () => facetFigure(panel), table: () => facetTable(panel), low: true, trait: title });
          const key = element("div", { class: "key" });
          for (const one of panel.lines) key.append(keyed(one.facet, () => visible(one.colour)));
          section.lastElementChild.querySelector(".chart").after(key);
        }
      }
      settle(section, "facets of");
    };
    const many = data.facets.length > MOST_FACETS && sets.length > 1;
    if (many) {
      const controls = element("div", { class: "controls" });
      controls.append(choice("answers", [...sets.map((name, i) => [i, name || "unnamed"]), [-1, "all"]], (value) => render(value === "-1" ? null : sets[value])));
      section.append(controls);
    }
    render(many ? sets[0] : null);
  }
  for (const section of document.querySelectorAll("[data-maps]")) {
    for (const map of data.maps) {
      const said = `${strategy(map.strategy).label}, stress ${shown(map.stress, 2)}`;
      addChart(section, { title: map.trait, said, describe: `${map.trait}, ${said}: checkpoints on a plane. Its numbers are in the table that follows.`, low: true, make: () => mapFigure(map),
        table: () => ({ head: ["checkpoint", "x", "y"], rows: map.checkpoint.map((name, i) => [name, map.x[i], map.y[i]]) }), trait: map.trait });
    }
    settle(section);
  }
})();
