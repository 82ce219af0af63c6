"use strict";
/* One matrix as a heatmap with its numbers. Knows colours on both sides of nothing, and ink that can be read on each of them;
   leaves what is in a matrix to the scripts after it. */
(function () {
  const { safe, css, contrast, channels, hexOf, layoutOf, axis } = traitline;
  const ENDS = ["#2166ac", "#b2182b"];
  const MOST_ACROSS = 12, MOST_DOWN = 20, MOST_WRITTEN = 10; // names beside a matrix; columns whose numbers have room

  // What the drawing library paints for a value from -1 to 1: between the panel and one of the ends.
  function cellColour(share) {
    const from = channels(css("--panel")), to = channels(ENDS[share < 0 ? 0 : 1]);
    return hexOf(from.map((c, i) => c + Math.min(1, Math.abs(share)) * (to[i] - c)));
  }
  const inkOn = (colour) => (contrast("#000000", colour) > contrast("#ffffff", colour) ? "#000000" : "#ffffff");

  function names(all, most) {
    const every = Math.ceil(all.length / most);
    const kept = all.map((_, i) => i).filter((i) => (all.length - 1 - i) % every === 0);
    return { tickvals: kept, ticktext: kept.map((i) => safe(axis.short[all[i]] || all[i])), automargin: true, showgrid: false, zeroline: false, tickfont: { size: 10 } };
  }
  // Names above or below the columns stand aslant, ending at their column, where they have no room.
  const slant = (all) => (Math.max(...all.map((name) => (axis.short[name] || name).length)) * 6 * all.length > 220 ? { tickangle: -40 } : { tickangle: 0 });

  /* `written` are the texts of the cells, or nothing for a bar of colours instead; `hover` what is told of each. */
  traitline.matrixFigure = function ({ matrix, across, down, limit, written = null, hover = null, acrossIs = "", downIs = "", apart = false }) {
    const told = hover || matrix.map((row, i) => row.map((v, j) => `${safe(down[i])} × ${safe(across[j])}<br>${v === null ? "nothing measured" : v.toFixed(2)}`));
    const traces = [{
      type: "heatmap", z: matrix, x: across.map((_, i) => i), y: down.map((_, i) => i), zmin: -limit, zmax: limit,
      colorscale: [[0, ENDS[0]], [0.5, css("--panel")], [1, ENDS[1]]], customdata: told, hovertemplate: "%{customdata}<extra></extra>", hoverongaps: Boolean(hover),
      showscale: !written, xgap: 1, ygap: 1, colorbar: { thickness: 8, len: 0.9, outlinewidth: 0 },
    }];
    if (written && across.length <= MOST_WRITTEN) {
      const cells = matrix.flatMap((row, i) => row.map((v, j) => ({ i, j, text: written[i][j], ink: v === null ? css("--soft") : inkOn(cellColour(v / limit)) }))).filter((c) => c.text);
      traces.push({
        type: "scatter", mode: "text", x: cells.map((c) => c.j), y: cells.map((c) => c.i), text: cells.map((c) => safe(c.text)), hoverinfo: "skip", cliponaxis: false,
        textfont: { size: across.length > 7 ? 9 : across.length > 5 ? 11 : 12, color: cells.map((c) => c.ink) },
      });
    }
    const title = (text) => (text ? { title: { text, font: { size: 11 }, standoff: 6 } } : {});
    const edge = (x0, y0, x1, y1) => ({ type: "line", x0, y0, x1, y1, line: { color: css("--paper"), width: 5 } });
    const frame = { type: "rect", x0: -0.5, x1: across.length - 0.5, y0: -0.5, y1: down.length - 0.5, line: { color: css("--line"), width: 1 } };
    const layout = layoutOf({
      xaxis: { ...names(across, MOST_ACROSS), ...(written ? slant(across) : {}), ...title(acrossIs), range: [-0.5, across.length - 0.5] },
      yaxis: { ...names(down, MOST_DOWN), ...title(downIs), range: [down.length - 0.5, -0.5] },
      shapes: [frame, ...(apart ? [edge(across.length - 1.5, -0.5, across.length - 1.5, down.length - 0.5)] : [])],
      margin: { l: 20, r: 8, t: 8, b: 20 },
    });
    return { traces, layout };
  };
})();
