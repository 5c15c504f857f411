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

/** The rows in order; NaN last. */
function sortRows(rows, column, down) {
  const sign = down ? -1 : 1;
  return rows.sort((a, b) => {
    const [first, second] = [column[a], column[b]];
    if (Number.isNaN(first) || Number.isNaN(second)) return Number(Number.isNaN(first)) - Number(Number.isNaN(second));
    if (first === second) return a - b;
    return first < second ? -sign : sign;
  });
}

async function drawScores(main, parameters) {
  const part = await source.scores();
  if (!part.scores?.length) {
    main.replaceChildren(panel("Scores", null, missing(part.missing ?? part.missing_scores[0]?.why ?? "no score")));
    return;
  }
  const columns = Object.fromEntries(part.scores.map(({ score }) => [score, decodeArray(part.columns[score])]));
  const ids = Array.from(decodeArray(part.ids), String);
  const [labels, predictions] = [decodeArray(part.label), decodeArray(part.prediction)];
  columns.label = labels;
  columns.prediction = predictions;
  columns.example = Float64Array.from(ids, Number);
  const asked = part.scores.find(({ score }) => score === parameters.get("score"));
  const state = { score: (asked ?? part.scores.find(({ score }) => score === "grand") ?? part.scores[0]).score, range: null, text: "", shown: TABLE_AT_ONCE };
  const about = () => part.scores.find(({ score }) => score === state.score);
  state.sort = state.score;
  if (parameters.has("from")) state.range = [Number(parameters.get("from")), Infinity, false];
  state.down = !about().lowest_first;
  const chart = h("div");
  const table = h("div", { class: "scroll" });
  const status = h("p", { class: "note", "aria-live": "polite" });

  const drawTable = async () => {
    let rows = [...ids.keys()];
    if (state.range) {
      const [low, high, isLast] = state.range;
      rows = rows.filter((at) => columns[state.score][at] >= low && (isLast ? columns[state.score][at] <= high * (1 + 1e-6) + 1e-12 : columns[state.score][at] < high));
    }
    if (state.text !== "") rows = rows.filter((at) => ids[at].includes(state.text) || `label ${labelText(labelAt(labels, at))}` === state.text);
    sortRows(rows, columns[state.sort], state.down);
    // The chosen score first, so that a narrow screen shows it.
    const shown = [state.score, ...part.scores.map(({ score }) => score).filter((score) => score !== state.score)];
    const names = ["example", "label", "prediction", ...shown];
    const head = names.map((name) => h("th", { scope: "col", "aria-sort": state.sort === name ? (state.down ? "descending" : "ascending") : "none" },
      h("button", { type: "button", class: "sort", onclick: () => { Object.assign(state, { down: state.sort === name ? !state.down : true, sort: name }); drawTable(); } },
        name, state.sort === name ? (state.down ? " ↓" : " ↑") : "")));
    const body = await Promise.all(rows.slice(0, state.shown).map(async (at) => {
      const isWrong = labels[at] !== predictions[at];
      return h("tr", { tabindex: 0, "data-id": ids[at], "aria-label": `example ${ids[at]}, ${state.score} ${short(columns[state.score][at])}`, onclick: () => openExample(ids[at]) },
        h("td", { class: "with-card" }, await cardOf("train", ids[at], "tiny"), h("span", { class: "id" }, `#${ids[at]}`)),
        h("td", null, labelText(labelAt(labels, at))), h("td", { class: isWrong ? "wrong" : "" }, labelText(labelAt(predictions, at))),
        shown.map((score) => h("td", null, short(columns[score][at]))));
    }));
    const cut = part.shown < part.examples ? ` The table has ${count(part.shown)} of ${count(part.examples)} examples: those that other panels name.` : "";
    status.replaceChildren(`${plural(rows.length, "row")}${state.range ? `, ${state.score} from ${short(state.range[0])} to ${short(state.range[1])} ` : ". "}`,
      state.range ? h("button", { type: "button", class: "plain", onclick: () => { state.range = null; drawTable(); } }, "all") : "", cut);
    table.replaceChildren(h("table", { class: "numbers score-table" }, h("thead", null, h("tr", null, head)), h("tbody", null, body)),
      rows.length > state.shown ? h("button", { type: "button", class: "more", onclick: () => { state.shown += TABLE_AT_ONCE; drawTable(); } }, `show more (${count(rows.length - state.shown)})`) : "");
  };
  const drawChart = () => {
    const one = about();
    chart.replaceChildren(h("p", { class: "lead" }, `${one.about[0].toUpperCase()}${one.about.slice(1)}.`),
      one.histogram ? histogramOf(one, (...range) => { state.range = range; drawTable(); }) : missing("no example has a finite number"),
      one.infinite > 0 ? h("p", { class: "note" }, `${plural(one.infinite, "example")} with an infinite score (never learned) are not in the histogram.`) : "",
      basisLine(one.basis) ?? "");
  };
  const choose = h("select", { "aria-label": "score", onchange: (event) => {
    Object.assign(state, { score: event.target.value, sort: event.target.value, range: null });
    state.down = !about().lowest_first;
    setParameter("from", null);
    setParameter("score", state.score);
    drawChart();
    drawTable();
  } }, part.scores.map(({ score }) => h("option", { value: score, selected: score === state.score }, score === "grand" ? "grand (norm of the gradient)" : score)));
  const filter = h("input", { id: "filter", type: "search", placeholder: "id, or label 4", "aria-label": "filter by id or label (key /)",
    oninput: (event) => { state.text = event.target.value.trim(); drawTable(); } });
  main.replaceChildren(h("section", { class: "panel" }, h("h2", null, "Scores of all examples"), h("div", { class: "tools" }, choose, filter), chart, status, table,
    part.missing_scores.map(({ score, why }) => h("p", { class: "note" }, `Without ${score}: ${why}`))));
  drawChart();
  await drawTable();
}
