"use strict";
/* Browses the sampled responses. Every text of a model is set with textContent, never as HTML. */
(function () {
  const root = document.getElementById("browser");
  if (!root) return;
  const { questions, sides, pairs } = traitlineData.responses;
  const labels = new Map(traitlineData.strategies.map((s) => [s.name, s.label]));
  const [KIND, TRAIT, STRATEGY, VECTOR, TARGET, CONDITION, LAYER, COEF, QUESTION, BASELINE, OTHER] = Array(11).keys();
  const PAGE = 10;
  const wanted = { kind: "", trait: "", strategy: "", vector: "", target: "", condition: "", coef: "", words: "" };
  const columns = { kind: KIND, trait: TRAIT, strategy: STRATEGY, vector: VECTOR, target: TARGET, condition: CONDITION, coef: COEF };
  let page = 0;

  function element(tag, name = "", text = "") {
    const made = document.createElement(tag);
    if (name) made.className = name;
    made.textContent = text;
    return made;
  }

  function filter(label, key, order, start) {
    const values = [...new Set(pairs.map((pair) => pair[columns[key]]))];
    values.sort((a, b) => (order ? order.indexOf(a) - order.indexOf(b) : a < b ? -1 : 1));
    if (values.length < 2) return;
    const wrapped = element("label", "", label);
    const select = document.createElement("select");
    for (const value of ["", ...values]) {
      const option = element("option", "", value === "" ? "all" : labels.get(value) || String(value));
      option.value = String(value);
      select.append(option);
    }
    if (values.includes(start)) { select.value = start; wanted[key] = start; }
    select.addEventListener("change", () => { wanted[key] = select.value; page = 0; render(); });
    wrapped.append(select);
    controls.append(wrapped);
  }

  const controls = element("div", "controls");
  const found = element("p", "small");
  found.setAttribute("aria-live", "polite");
  const list = element("div");
  const turn = element("div", "controls");
  filter("evaluation", "kind");
  filter("trait", "trait", traitlineData.traits);
  filter("strategy", "strategy", traitlineData.strategies.map((s) => s.name));
  filter("vector's checkpoint", "vector", traitlineData.axis.checkpoints, traitlineData.axis.checkpoints.at(-1));
  filter("steered network", "target");
  filter("condition", "condition", null, "steered");
  filter("coefficient", "coef");
  const search = element("label", "", "words in question or response");
  const input = document.createElement("input");
  input.type = "search";
  input.addEventListener("input", () => { wanted.words = input.value.toLowerCase(); page = 0; render(); });
  search.append(input);
  controls.append(search);
  const back = element("button", "", "Previous"), next = element("button", "", "Next");
  back.type = next.type = "button";
  back.addEventListener("click", () => { page -= 1; render(); found.scrollIntoView(); });
  next.addEventListener("click", () => { page += 1; render(); found.scrollIntoView(); });
  turn.append(back, next);
  root.append(controls, found, list, turn);

  function matches(pair) {
    for (const [key, column] of Object.entries(columns)) {
      if (wanted[key] !== "" && String(pair[column]) !== wanted[key]) return false;
    }
    if (!wanted.words) return true;
    return [questions[pair[QUESTION]], sides[pair[BASELINE]][0], sides[pair[OTHER]][0]].some((text) => text.toLowerCase().includes(wanted.words));
  }

  function score(value) {
    return value === null ? "missing" : String(Math.round(value));
  }

  function side(title, [text, trait, coherence, finish, refusal, reason]) {
    const box = element("div", "side");
    const scores = [`trait ${score(trait)}${reason ? ` (${reason})` : ""}`, `coherence ${score(coherence)}`];
    if (finish === "length") scores.push("cut at the length limit");
    if (refusal) scores.push("refusal");
    const words = element("p", "", text || "(empty)");
    words.dir = "auto";
    box.append(element("h4", "", title), words, element("p", "scores", scores.join(" · ")));
    return box;
  }

  function shown(pair) {
    const box = element("article", "pair");
    const where = [pair[TRAIT], labels.get(pair[STRATEGY]) || pair[STRATEGY], `vector of ${pair[VECTOR]}`];
    if (pair[TARGET] !== pair[VECTOR]) where.push(`on ${pair[TARGET]}`);
    const dose = `${pair[CONDITION]}, layer ${pair[LAYER]}, coefficient ${pair[COEF]}`;
    const both = element("div", "sides");
    both.append(side("baseline", sides[pair[BASELINE]]), side(dose, sides[pair[OTHER]]));
    box.append(element("h3", "", questions[pair[QUESTION]]), element("p", "small", where.join(" · ")), both);
    return box;
  }

  function render() {
    const rows = pairs.filter(matches);
    const last = Math.max(0, Math.ceil(rows.length / PAGE) - 1);
    page = Math.min(Math.max(page, 0), last);
    const part = rows.slice(page * PAGE, (page + 1) * PAGE);
    found.textContent = rows.length ? `${page * PAGE + 1} to ${page * PAGE + part.length} of ${rows.length} pairs` : "No pair fits these filters.";
    list.replaceChildren(...part.map(shown));
    back.disabled = page === 0;
    next.disabled = page === last;
  }
  render();
})();
