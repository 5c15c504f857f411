// Every score: its histogram, and the examples as a table that can be sorted.

const TABLE_AT_ONCE = 100;

/** A histogram whose bars choose the rows of the table. */
function histogramOf(about, onChoose) {
  const { from, to, logarithmic, counts } = about.histogram;
  const height = 190;
  const most = Math.max(...counts);
  const canvas = h("div", { class: "chart-box" });
  const value = (at) => (logarithmic ? 10 ** at : at);
  drawToWidth(canvas, (width) => {
    const ends = from === to ? [from - 0.5, to + 0.5] : [from, to];
    const { x, y, frame } = axes(width, height, ends, [0, most], { whole: about.score === "forgetting", y: (number) => count(Math.round(number)) });
    const wide = (x(ends[1]) - x(ends[0])) / counts.length;
    const bars = counts.map((number, at) => {
      const [left, right] = [from + (at * (to - from)) / counts.length, from + ((at + 1) * (to - from)) / counts.length];
      const words = `${plural(number, "example")} from ${short(value(left))} to ${short(value(right))}`;
      const top = number === 0 ? y(0) : Math.min(y(number), y(0) - 1);
      return s("rect", { class: "bin", x: x(ends[0]) + at * wide + 0.5, y: top, width: Math.max(1, wide - 1), height: y(0) - top,
        onclick: () => onChoose(value(left), value(right), at === counts.length - 1) }, s("title", null, words));
    });
    const words = `${about.score}: ${counts.reduce((a, b) => a + b, 0)} examples from ${short(value(from))} to ${short(value(to))}, median ${short(about.histogram.median)}`;
    canvas.replaceChildren(s("svg", { width, height, role: "img", "aria-label": words }, frame, bars));
  });
  return h("figure", { class: "chart wide" }, h("figcaption", null, `Examples by ${about.score}${logarithmic ? ", on a scale of powers of ten" : ""}`), canvas);
}

/** The buttons that go through the pages of a table. */
function pager(first, total, go) {
  if (total <= TABLE_AT_ONCE) return "";
  const last = Math.floor((total - 1) / TABLE_AT_ONCE) * TABLE_AT_ONCE;
  const button = (words, name, to) => h("button", { type: "button", "aria-label": name, disabled: to === first, onclick: () => go(to) }, words);
  return h("nav", { class: "tools pager", "aria-label": "pages of the table" },
    button("« first", "first page", 0), button("‹ back", "page before", Math.max(0, first - TABLE_AT_ONCE)),
    h("span", { class: "note" }, `rows ${count(first + 1)} to ${count(Math.min(total, first + TABLE_AT_ONCE))} of ${count(total)}`),
    button("next ›", "next page", Math.min(last, first + TABLE_AT_ONCE)), button("last »", "last page", last));
}

/** With more examples than this, a served table has the chosen score alone: each is a pass over the run. */
const ALL_COLUMNS_MAX = 200000;

async function drawScores(main, parameters) {
  const part = await source.scores();
  if (!part.scores?.length) {
    main.replaceChildren(panel("Scores", null, missing(part.missing ?? part.missing_scores[0]?.why ?? "no score")));
    return;
  }
  const known = (name) => part.scores.find(({ score }) => score === name);
  const own = ["example", "label", "prediction"];
  const state = { score: (known(parameters.get("score")) ?? known("grand") ?? part.scores[0]).score, range: null, text: parameters.get("text") ?? "", first: 0 };
  state.sort = own.includes(parameters.get("sort")) || known(parameters.get("sort")) ? parameters.get("sort") : state.score;
  state.down = parameters.has("sort") ? parameters.has("down") : !known(state.score).lowest_first;
  if (parameters.has("from")) state.range = [Number(parameters.get("from")), Infinity, false];
  const first = Number(parameters.get("first"));
  if (Number.isSafeInteger(first) && first > 0) state.first = first;
  const others = source.isServed && part.examples > ALL_COLUMNS_MAX ? [] : part.scores.map(({ score }) => score);
  const gone = new Set();
  const chart = h("div", { class: "score-chart" });
  const table = h("div", { class: "scroll" });
  const pages = h("div");
  const status = h("p", { class: "note", "aria-live": "polite" });
  const notes = h("div");
  let turn = 0;

  const question = () => {
    const label = /^label (\d+)$/.exec(state.text);
    return {
      score: state.score, columns: others.filter((name) => name !== state.score && !gone.has(name)), sort: state.sort, down: state.down, range: state.range,
      text: label ? "" : state.text, label: label ? Number(label[1]) : null, first: state.first, count: TABLE_AT_ONCE,
    };
  };
  const drawTable = async () => {
    turn += 1;
    const mine = turn;
    table.setAttribute("aria-busy", "true");
    const asked = question();
    let found;
    try {
      found = await source.rows(asked);
    } catch (error) {
      if (mine === turn) table.replaceChildren(missing(error.message));
      return;
    } finally {
      if (mine === turn) table.removeAttribute("aria-busy");
    }
    // The chosen score first, so that a narrow screen shows it.
    const shown = [asked.score, ...asked.columns];
    const head = [...own, ...shown].map((name) => h("th", { scope: "col", "aria-sort": asked.sort === name ? (asked.down ? "descending" : "ascending") : "none" },
      h("button", { type: "button", class: "sort", onclick: () => change({ down: state.sort === name ? !state.down : true, sort: name, first: 0 }) },
        name, asked.sort === name ? (asked.down ? " ↓" : " ↑") : "")));
    const body = await Promise.all(found.rows.map(async ({ id, label, prediction, values }) =>
      h("tr", { tabindex: 0, "data-id": id, "aria-label": `example ${id}, ${asked.score} ${short(values[asked.score])}`, onclick: () => openExample(id) },
        h("td", { class: "with-card" }, await cardOf("train", id, "tiny"), h("span", { class: "id" }, `#${id}`)),
        h("td", null, labelText(label)), h("td", { class: label !== prediction ? "wrong" : "" }, labelText(prediction)),
        shown.map((score) => h("td", null, short(values[score]))))));
    if (mine !== turn) return;
    const cut = part.shown < part.examples ? ` The table has ${count(part.shown)} of ${count(part.examples)} examples: those that other panels name.` : "";
    status.replaceChildren(`${plural(found.total, "row")}${asked.range ? `, ${asked.score} from ${short(asked.range[0])} to ${short(asked.range[1])} ` : ". "}`,
      asked.range ? h("button", { type: "button", class: "plain", onclick: () => change({ range: null, first: 0 }) }, "all") : "", cut);
    table.replaceChildren(h("table", { class: "numbers score-table" }, h("thead", null, h("tr", null, head)), h("tbody", null, body)));
    pages.replaceChildren(pager(asked.first, found.total, (to) => change({ first: to })));
  };
  /** Changes what is shown; the address keeps it, so that going back comes to the same page. */
  const change = (changes) => {
    Object.assign(state, changes);
    const { score, sort, down, first: from, range, text } = state;
    setParameters({ score, sort, text: text || null, down: down ? "1" : null, first: from > 0 ? String(from) : null, from: range && !Number.isFinite(range[1]) ? String(range[0]) : null });
    return drawTable();
  };
  const drawChart = async () => {
    const mine = state.score;
    const { about } = known(mine);
    chart.replaceChildren(h("p", { class: "lead" }, sentence(about)));
    const one = await source.score(mine).catch((error) => ({ refused: error.message }));
    if (mine !== state.score) return;
    chart.append(...(one.refused ? [missing(one.refused)] : [
      one.histogram ? histogramOf(one, (...range) => change({ range, first: 0 })) : missing("no example has a finite number"),
      one.infinite > 0 ? h("p", { class: "note" }, `${plural(one.infinite, "example")} with an infinite score (never learned) are not in the histogram.`) : "",
      basisLine(one.basis) ?? ""]));
  };
  const choose = h("select", { "aria-label": "score", onchange: (event) => {
    const score = event.target.value;
    change({ score, sort: score, range: null, down: !known(score).lowest_first, first: 0 });
    drawChart();
  } }, part.scores.map(({ score }) => h("option", { value: score, selected: score === state.score }, score === "grand" ? "grand (norm of the gradient)" : score)));
  const filter = h("input", { id: "filter", type: "search", placeholder: "id, or label 4", "aria-label": "filter by id or label (key /)",
    value: state.text || null, oninput: (event) => change({ text: event.target.value.trim(), first: 0 }) });
  main.replaceChildren(h("section", { class: "panel" }, h("h2", null, "Scores of all examples"), h("div", { class: "tools" }, choose, filter), chart, status, table, pages, notes, wordList(part.scores.map(({ score }) => score)),
    part.missing_scores.map(({ score, why }) => h("p", { class: "note" }, `Without ${score}: ${why}`))));
  if (source.isServed) {
    // A score that the run cannot give is a column less, and a sentence.
    await Promise.all(others.map((name) => source.score(name).catch((error) => {
      gone.add(name);
      notes.append(h("p", { class: "note" }, `Without ${name}: ${error.message}`));
    })));
  }
  await Promise.all([drawChart(), drawTable()]);
}
