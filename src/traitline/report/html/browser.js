"use strict";
/* Browses the responses: filters, search, order, pages, and a link to each state. Every text of a model is set as text, never as HTML. */
(async function () {
  const root = document.getElementById("browser");
  const { data, element } = traitline;
  const found = root.querySelector(".found");
  const said = (text) => { found.textContent = text; };
  if (!traitlineResponses.able) return said("This browser cannot unpack the responses (it has no DecompressionStream); one from 2023 or later can. The charts and tables do not need it.");
  await new Promise((go) => (window.requestIdleCallback ? requestIdleCallback(go, { timeout: 500 }) : setTimeout(go, 50)));
  const holder = document.getElementById("packed");
  let loaded;
  try {
    loaded = await traitlineResponses.unpacked(holder.textContent);
  } catch (error) {
    return said(`The responses in this page are damaged (${error.message}); write the report again.`);
  }
  holder.remove();
  const { header, columns, texts, find } = loaded;
  const { reasons, names } = header, total = columns.other.length;
  const [REFUSAL, CUT] = [1, 2], INCOHERENT = 5000;

  // ---- what can be asked for

  const labels = new Map(data.strategies.map((s) => [s.name, s.label]));
  const inOrder = { trait: data.traits, strategy: data.strategies.map((s) => s.name), vector: data.axis.checkpoints, target: data.axis.checkpoints };
  const FILTERS = { kind: "evaluation", trait: "trait", strategy: "strategy", vector: "vector's checkpoint", target: "steered network", condition: "condition", dose: "dose" };
  const at = (column, side) => (side < 0 ? -1 : columns[column][side]);
  const flagged = (bit) => (i) => Boolean((columns.side_flags[columns.other[i]] | (columns.baseline[i] < 0 ? 0 : columns.side_flags[columns.baseline[i]])) & bit);
  const incoherent = (value) => value >= 0 && value < INCOHERENT;
  const ONLY = {
    missing: ["a missing score", (i) => columns.side_trait[columns.other[i]] < 0 || (columns.baseline[i] >= 0 && at("side_trait", columns.baseline[i]) < 0)],
    refusal: ["a refusal", flagged(REFUSAL)],
    incoherent: ["coherence under 50", (i) => incoherent(columns.side_coherence[columns.other[i]]) || incoherent(at("side_coherence", columns.baseline[i]))],
    cut: ["an answer cut at the limit", flagged(CUT)],
    unpaired: ["no baseline", (i) => columns.baseline[i] < 0],
  };
  const score = (i) => columns.side_trait[columns.other[i]];
  const delta = (i) => (score(i) < 0 || at("side_trait", columns.baseline[i]) < 0 ? null : score(i) - at("side_trait", columns.baseline[i]));
  const missing = (value) => (value < 0 ? null : value);
  const SORTS = {
    score: ["trait score, highest first", (i) => missing(score(i)), -1], "score-up": ["trait score, lowest first", (i) => missing(score(i)), 1],
    delta: ["steered minus baseline, highest first", delta, -1], "delta-up": ["steered minus baseline, lowest first", delta, 1],
    coherence: ["coherence, lowest first", (i) => missing(columns.side_coherence[columns.other[i]]), 1],
  };
  const FALLBACK = { only: "", q: "", sort: "", page: "1", per: "10" };
  for (const key of Object.keys(FILTERS)) FALLBACK[key] = "";
  if (names.condition.includes("steered")) FALLBACK.condition = "steered";
  if (names.vector.includes(data.axis.checkpoints.at(-1))) FALLBACK.vector = data.axis.checkpoints.at(-1);
  const state = { ...FALLBACK };

  // ---- the link

  const PLACE = "#responses?";
  function readLink() {
    Object.assign(state, FALLBACK);
    if (!location.hash.startsWith(PLACE)) return false;
    for (const [key, value] of new URLSearchParams(location.hash.slice(PLACE.length))) if (Object.hasOwn(FALLBACK, key)) state[key] = value;
    for (const key of Object.keys(FILTERS)) if (state[key] && !names[key].includes(state[key])) state[key] = "";
    if (!Object.hasOwn(ONLY, state.only)) state.only = "";
    if (!Object.hasOwn(SORTS, state.sort)) state.sort = "";
    if (!["10", "25", "50"].includes(state.per)) state.per = FALLBACK.per;
    return true;
  }
  let linking;
  function writeLink() {
    clearTimeout(linking);
    linking = setTimeout(() => {
      const asked = new URLSearchParams(Object.entries(state).filter(([key, value]) => value !== FALLBACK[key])).toString();
      try { history.replaceState(null, "", asked ? PLACE + asked : "#responses"); } catch { /* some browsers refuse it for local files */ }
    }, 250);
  }

  // ---- controls

  const form = element("form", { class: "controls", role: "search", "aria-label": "Filter the responses" });
  const inputs = {};
  function selection(key, label, options) {
    const wrapped = element("label", {}, label), select = element("select", { name: key });
    for (const [value, text] of options) select.append(element("option", { value }, text));
    select.addEventListener("change", () => { state[key] = select.value; state.page = "1"; update(); });
    inputs[key] = select;
    wrapped.append(select);
    form.append(wrapped);
    return select;
  }
  for (const [key, label] of Object.entries(FILTERS)) {
    if (names[key].length < 2) continue;
    const order = inOrder[key] || [], place = (name) => (order.includes(name) ? order.indexOf(name) : order.length);
    const sorted = names[key].toSorted((a, b) => place(a) - place(b) || (a < b ? -1 : 1));
    selection(key, label, [["", "all"], ...sorted.map((name) => [name, name])]);
  }
  selection("only", "only pairs with", [["", "anything"], ...Object.entries(ONLY).map(([value, [text]]) => [value, text])]);
  selection("sort", "order", [["", "as generated"], ...Object.entries(SORTS).map(([value, [text]]) => [value, text])]);
  selection("per", "pairs on a page", [["10", "10"], ["25", "25"], ["50", "50"]]);
  const search = element("label", { class: "search" }, "words in question or answer");
  inputs.q = element("input", { type: "search", name: "q", placeholder: 'all of them; "in quotes" as a phrase', autocomplete: "off", spellcheck: "false" });
  let typing;
  inputs.q.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => { state.q = inputs.q.value; state.page = "1"; update(); }, 120); });
  search.append(inputs.q);
  const reset = element("button", { type: "reset" }, "Reset");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => { event.preventDefault(); Object.assign(state, FALLBACK); update(); });
  form.append(search, reset);
  const list = element("div", { class: "pairs", role: "feed", "aria-label": "Pairs of responses" });
  const turn = element("nav", { class: "controls", "aria-label": "Pages of responses" });
  const where = element("span", { class: "where" });
  const turners = { First: () => 1, Previous: () => Number(state.page) - 1, Next: () => Number(state.page) + 1, Last: () => pages() };
  for (const [name, page] of Object.entries(turners)) {
    const button = element("button", { type: "button" }, name);
    button.addEventListener("click", () => { state.page = String(page()); show(); root.scrollIntoView({ behavior: "instant" }); });
    turners[name] = button;
    turn.append(button);
    if (name === "Previous") turn.append(where);
  }
  found.before(form);
  found.after(list, turn);

  // ---- filtering

  let kept = new Uint32Array(0);
  const pages = () => Math.max(1, Math.ceil(kept.length / Number(state.per)));
  const terms = () => [...state.q.toLowerCase().matchAll(/"([^"]+)"?|[^\s"]+/g)].map((match) => match[1] || match[0]);

  function update() {
    const active = Object.keys(FILTERS).map((key) => ({ key, column: columns[key], code: state[key] === "" ? -1 : names[key].indexOf(state[key]), counts: new Uint32Array(names[key].length) }));
    const hits = terms().map(find), only = state.only ? ONLY[state.only][1] : null;
    const { question, baseline, other, side_text: textOf } = columns;
    const fits = new Uint32Array(total);
    let n = 0;
    for (let i = 0; i < total; i += 1) {
      // A pair that fails one filter alone still counts in that filter's own choices.
      let failed = 0, failing = null;
      for (const one of active) if (one.code >= 0 && one.column[i] !== one.code) { failed += 1; failing = one; if (failed > 1) break; }
      if (failed > 1 || (only && !only(i))) continue;
      if (hits.length && !hits.every((hit) => hit[question[i]] || hit[textOf[other[i]]] || (baseline[i] >= 0 && hit[textOf[baseline[i]]]))) continue;
      if (failing) { failing.counts[failing.column[i]] += 1; continue; }
      for (const one of active) one.counts[one.column[i]] += 1;
      fits[n] = i;
      n += 1;
    }
    kept = ordered(fits.slice(0, n));
    for (const one of active) for (const option of inputs[one.key] ? [...inputs[one.key].options].slice(1) : [])
      option.textContent = `${named(one.key, option.value)} (${one.counts[names[one.key].indexOf(option.value)].toLocaleString("en")})`;
    for (const [key, input] of Object.entries(inputs)) if (input !== document.activeElement || key !== "q") input.value = state[key];
    show();
  }

  function ordered(rows) {
    if (!state.sort) return rows;
    const [, keyOf, sign] = SORTS[state.sort], keys = new Float64Array(total);
    for (const i of rows) { const key = keyOf(i); keys[i] = key === null ? Infinity : sign * key; } // what is missing comes last
    return rows.sort((a, b) => (keys[a] === keys[b] ? a - b : keys[a] - keys[b]));
  }

  const named = (key, name) => (key === "strategy" && labels.get(name)) || name || "none";

  // ---- showing

  function show() {
    const per = Number(state.per), page = Math.min(Math.max(1, Math.floor(Number(state.page)) || 1), pages());
    state.page = String(page);
    const first = (page - 1) * per, part = [...kept.subarray(first, first + per)], words = terms();
    said(kept.length ? `Showing ${first + 1} to ${first + part.length} of ${kept.length.toLocaleString("en")} pairs that fit, of ${total.toLocaleString("en")}.` : `No pair of ${total.toLocaleString("en")} fits these filters.`);
    list.replaceChildren(...part.map((i, place) => pair(i, first + place, words, place === 0)));
    where.textContent = `page ${page.toLocaleString("en")} of ${pages().toLocaleString("en")}`;
    turners.First.disabled = turners.Previous.disabled = page === 1;
    turners.Next.disabled = turners.Last.disabled = page === pages();
    writeLink();
  }

  // Writes a text with the words that were searched for marked, as text alone.
  function marked(tag, attributes, text, words) {
    const made = element(tag, { dir: "auto", ...attributes }), low = text.toLowerCase();
    let at = 0;
    while (words.length && low.length === text.length) {
      let next = -1, length = 0;
      for (const word of words) { const place = low.indexOf(word, at); if (place >= 0 && (next < 0 || place < next)) { next = place; length = word.length; } }
      if (next < 0) break;
      made.append(text.slice(at, next), element("mark", {}, text.slice(next, next + length)));
      at = next + length;
    }
    made.append(text.slice(at));
    return made;
  }

  const whole = (value) => (value < 0 ? "missing" : String(Math.round(value / 100)));

  function side(title, number, words) {
    const box = element("div", { class: "side" });
    box.append(element("h4", {}, title));
    if (number < 0) { box.append(element("p", { class: "small" }, "The run has no baseline response of this question and sample.")); return box; }
    const trait = columns.side_trait[number], coherence = columns.side_coherence[number], reason = reasons[columns.side_reason[number]], flags = columns.side_flags[number];
    const scores = element("p", { class: "scores" });
    scores.append(meter("trait", trait), meter("coherence", coherence));
    for (const [on, text] of [[reason, `no score: ${reason}`], [flags & REFUSAL, "refusal"], [flags & CUT, "cut at the length limit"]]) if (on) scores.append(element("span", { class: "tag" }, text));
    const text = texts[columns.side_text[number]];
    box.append(text ? marked("p", { class: "words" }, text, words) : element("p", { class: "small" }, "(empty)"), scores);
    return box;
  }

  function meter(name, value) {
    const box = element("span", { class: "meter" }), bar = element("span", { class: "bar", "aria-hidden": "true" }), fill = element("span");
    fill.style.width = `${Math.max(0, value / 100)}%`;
    bar.append(fill);
    box.append(`${name} ${whole(value)} `, bar);
    return box;
  }

  function pair(i, place, words, open) {
    const is = (key) => names[key][columns[key][i]];
    const box = element("article", { class: "pair", tabindex: open ? "0" : "-1", "aria-posinset": place + 1, "aria-setsize": kept.length, "aria-labelledby": `pair-${place}` });
    const change = delta(i), told = [is("trait"), named("strategy", is("strategy")), `vector of ${is("vector") || "no checkpoint"}`];
    if (is("target") !== is("vector")) told.push(`on ${is("target")}`);
    const line = element("p", { class: "small" }, told.join(" · "));
    if (change !== null) line.append(" · ", element("b", {}, `trait ${change > 0 ? "+" : change < 0 ? "−" : "±"}${Math.round(Math.abs(change) / 100)}`));
    const both = element("div", { class: "sides" });
    both.append(side("baseline", columns.baseline[i], words), side([is("condition"), is("dose")].filter(Boolean).join(", "), columns.other[i], words));
    box.append(marked("h3", { id: `pair-${place}` }, texts[columns.question[i]], words), line, both);
    return box;
  }

  // Arrows walk through the pairs, and on to the next page at an end.
  list.addEventListener("keydown", (event) => {
    const pairs = [...list.children], now = pairs.indexOf(event.target);
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 1, PageUp: -1 }[event.key];
    if (now < 0 || event.ctrlKey || event.altKey || event.metaKey || !(step || event.key === "Home" || event.key === "End")) return;
    event.preventDefault();
    let next = step ? now + step : event.key === "Home" ? 0 : pairs.length - 1;
    if (next < 0 || next >= pairs.length) {
      const page = Number(state.page) + step;
      if (page < 1 || page > pages()) return;
      state.page = String(page);
      show();
      next = step > 0 ? 0 : list.children.length - 1;
    }
    [...list.children].forEach((one, i) => one.setAttribute("tabindex", i === next ? "0" : "-1"));
    list.children[next].focus();
  });

  const linked = readLink();
  update();
  addEventListener("hashchange", () => { if (readLink()) { update(); root.scrollIntoView({ behavior: "instant" }); } });
  root.dataset.ready = "yes";
  if (linked) root.scrollIntoView({ behavior: "instant" });
})();
