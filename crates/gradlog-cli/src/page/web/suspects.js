// The suspects: a matrix of which label is taken for which, and a list to judge by key.

const ROWS_AT_ONCE = 60;

/** Draws further rows of the list; the list sets it. */
let showMoreSuspects = async () => {};

/** Of labels given and proposed: how many examples. A cell chooses these. */
function confusionMatrix(confused, chosen, onChoose) {
  const labels = [...new Set(confused.flatMap(([given, proposed]) => [given, proposed]))].sort((a, b) => a - b);
  if (labels.length < 2) return null;
  if (labels.length > 26) return confusionList(confused, chosen, onChoose);
  const counts = new Map(confused.map(([given, proposed, number]) => [`${given}>${proposed}`, number]));
  const most = Math.max(...counts.values());
  const isOn = (given, proposed) => chosen.given === given && (proposed === null ? chosen.proposed === null : chosen.proposed === proposed);
  const button = (given, proposed, words, content, style) => h("button", {
    type: "button", title: words, "aria-label": words, "aria-pressed": String(isOn(given, proposed)), "data-cell": `${given}>${proposed}`, style,
    onclick: () => onChoose(given, proposed),
  }, content);
  const cell = (given, proposed) => {
    const number = counts.get(`${given}>${proposed}`) ?? 0;
    if (given === proposed || number === 0) return h("td", { class: given === proposed ? "same" : "none" });
    const words = `${plural(number, "example")} with label ${given}, mostly predicted as ${proposed}`;
    return h("td", null, button(given, proposed, words, number, { "--share": String(Math.round(100 * Math.sqrt(number / most))) }));
  };
  const table = h("table", { class: "confusion", onkeydown: moveInMatrix },
    h("caption", null, "Label given (rows) and mostly predicted (columns), where the two differ; arrow keys go from cell to cell"),
    h("thead", null, h("tr", null, h("td"), labels.map((label) => h("th", { scope: "col" }, button(null, label, `all examples mostly predicted as ${label}`, label))))),
    h("tbody", null, labels.map((given) => h("tr", null,
      h("th", { scope: "row" }, button(given, null, `all examples with label ${given}`, given)), labels.map((proposed) => cell(given, proposed))))));
  oneStop([...table.querySelectorAll("button")], table.querySelector("[aria-pressed=true]"));
  return table;
}

/** Goes by an arrow key to the next cell of the matrix that has a number. */
function moveInMatrix(event) {
  const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
  const from = event.target.closest("td, th");
  if ((down === 0 && right === 0) || !from) return;
  event.preventDefault();
  event.stopPropagation();
  const table = event.currentTarget;
  let [row, column] = [from.parentElement.rowIndex, from.cellIndex];
  let cell;
  do {
    row += down;
    column += right;
    cell = table.rows[row]?.cells[column];
  } while (cell && !cell.querySelector("button"));
  const next = cell?.querySelector("button");
  if (!next) return;
  oneStop([...table.querySelectorAll("button")], next);
  next.focus();
}

/** The same as a list, where there are many labels. */
function confusionList(confused, chosen, onChoose) {
  const order = [...confused].sort((a, b) => b[2] - a[2]).slice(0, 40);
  return h("ul", { class: "confusion-list" }, order.map(([given, proposed, number]) => h("li", null, h("button", {
    type: "button", "aria-pressed": String(chosen.given === given && chosen.proposed === proposed), onclick: () => onChoose(given, proposed),
  }, `${given} → ${proposed}: ${number}`))));
}

/** The reasons that need no number first. */
function plainFirst(reasons) {
  const isPlain = (reason) => /^(another label|never learned)/.test(reason);
  return [...reasons.filter(isPlain), ...reasons.filter((reason) => !isPlain(reason))];
}

/** A row of the list. */
async function suspectRow(row, at) {
  const [card, visits] = await Promise.all([cardOf("train", row.id, "small"), source.history(row.id)]);
  const words = row.label === null ? `example ${row.id}, ${row.reasons.join("; ")}` : `example ${row.id}, label ${labelText(row.label)}, proposed ${labelText(row.proposed)}, ${row.reasons.join("; ")}`;
  const box = h("div", { class: "suspect", role: "listitem", tabindex: at === 0 ? 0 : -1, "data-id": row.id, "aria-label": words, onclick: () => openExample(row.id) },
    card,
    h("div", { class: "suspect-text" },
      h("p", { class: "suspect-head" },
        row.label !== null && h("span", { class: "chip" }, row.label),
        row.proposed !== null && ["→", h("span", { class: "chip other" }, row.proposed)],
        h("span", { class: "id" }, `#${row.id}`)),
      h("p", { class: "why" }, plainFirst(row.reasons).join(" · "))),
    visits ? sparkline(visits, 116, 40) : h("span"),
    verdictButtons(row.id, row.label, row.proposed));
  return box;
}

/** Which rows the filters leave. */
function filterSuspects(rows, chosen) {
  return rows.filter((row) => (chosen.given === null || row.label === chosen.given)
    && (chosen.proposed === null || row.proposed === chosen.proposed)
    && (chosen.verdict === "all" || (verdictOf(row.id)?.verdict ?? "none") === chosen.verdict)
    && (chosen.text === "" || row.id.includes(chosen.text) || row.reasons.join(" ").toLowerCase().includes(chosen.text.toLowerCase())));
}

const ORDERS = {
  suspicion: ["most suspicious first", (a, b) => b.suspicion - a.suspicion],
  label: ["by label", (a, b) => (a.label ?? -1) - (b.label ?? -1) || b.suspicion - a.suspicion],
  proposed: ["by proposed label", (a, b) => (a.proposed ?? Infinity) - (b.proposed ?? Infinity) || b.suspicion - a.suspicion],
  id: ["by id", (a, b) => (BigInt(a.id) < BigInt(b.id) ? -1 : 1)],
};

async function drawSuspects(main, parameters) {
  const found = await source.suspects();
  if (found.missing) {
    main.replaceChildren(panel("Suspects", null, missing(found.missing)));
    return;
  }
  const number = (name) => (parameters.has(name) ? Number(parameters.get(name)) : null);
  const verdictWords = [["all", "all verdicts"], ["none", "not judged"], ...VERDICTS.map((word) => [word, word])];
  const verdictNow = verdictWords.some(([value]) => value === parameters.get("verdict")) ? parameters.get("verdict") : "all";
  const orderNow = Object.hasOwn(ORDERS, parameters.get("order") ?? "") ? parameters.get("order") : "suspicion";
  const chosen = { given: number("given"), proposed: number("proposed"), verdict: verdictNow, text: parameters.get("text") ?? "", order: orderNow };
  const hasLabels = found.rows.some((row) => row.label !== null);
  const list = h("div", { class: "suspects", role: "list", "aria-label": "suspects" });
  const status = h("p", { class: "note", "aria-live": "polite" });
  const matrix = h("div", { class: "scroll" });
  const clear = h("button", { type: "button", class: "plain", onclick: () => choose(null, null) }, "all labels");

  let shown = 0;
  let rows = [];
  let isDrawn = false;
  const showMore = async () => {
    const next = rows.slice(shown, shown + ROWS_AT_ONCE);
    const drawn = await Promise.all(next.map((row, at) => suspectRow(row, shown + at)));
    shown += next.length;
    list.querySelector(".more")?.remove();
    list.append(...drawn);
    if (shown < rows.length) list.append(h("button", { type: "button", class: "more", onclick: showMore }, `show more (${rows.length - shown})`));
  };
  showMoreSuspects = showMore;
  const draw = async () => {
    rows = filterSuspects(found.rows, chosen).sort(ORDERS[chosen.order][1]);
    const focused = matrix.contains(document.activeElement) ? document.activeElement.dataset.cell : null;
    matrix.replaceChildren(confusionMatrix(found.confused, chosen, choose) ?? "");
    const again = focused && matrix.querySelector(`[data-cell="${CSS.escape(focused)}"]`);
    if (again) {
      oneStop([...matrix.querySelectorAll("button")], again);
      again.focus();
    }
    clear.hidden = chosen.given === null && chosen.proposed === null;
    const hint = rows.length === 0 && chosen.text !== "" ? " The filter takes a part of an id or of a reason; the matrix chooses labels." : "";
    const cut = found.rows.length < found.examples ? `, of which this page holds the first ${count(found.rows.length)}` : "";
    const parts = [chosen.given !== null && `with label ${chosen.given}`, chosen.proposed !== null && `mostly predicted as ${chosen.proposed}`].filter(Boolean);
    const filter = parts.length === 0 ? "" : ` ${parts.join(", ")}`;
    const inMatrix = found.confused.reduce((sum, [given, proposed, some]) => sum + ((chosen.given ?? given) === given && (chosen.proposed ?? proposed) === proposed ? some : 0), 0);
    const isWhole = chosen.text === "" && chosen.verdict === "all" && chosen.proposed !== null;
    const all = isWhole && inMatrix > rows.length ? ` The matrix counts ${count(inMatrix)}, those further down the ranking too.` : "";
    status.textContent = `${plural(rows.length, "example")}${filter}, out of ${count(found.examples)} that are ranked${cut}.${all}${hint}`;
    list.replaceChildren();
    shown = 0;
    await showMore();
    if (isDrawn) keepFilters();
    // The example beside the list, which keys judge, is one of the list.
    const open = currentExample();
    if (isDrawn && open !== null && rows.length > 0 && !rows.some((row) => row.id === open)) followExample(rows[0].id);
    isDrawn = true;
  };
  const keepFilters = () => setParameters({
    given: chosen.given, proposed: chosen.proposed, text: chosen.text || null,
    verdict: chosen.verdict === "all" ? null : chosen.verdict, order: chosen.order === "suspicion" ? null : chosen.order,
  });
  const choose = (given, proposed) => {
    const again = chosen.given === given && chosen.proposed === proposed;
    Object.assign(chosen, again ? { given: null, proposed: null } : { given, proposed });
    draw();
  };

  const filter = h("input", { id: "filter", type: "search", placeholder: "id or reason", value: chosen.text || null, "aria-label": "filter by id or reason (key /)",
    oninput: (event) => { chosen.text = event.target.value; draw(); } });
  const order = h("select", { "aria-label": "order", onchange: (event) => { chosen.order = event.target.value; draw(); } },
    Object.entries(ORDERS).map(([name, [words]]) => h("option", { value: name, selected: name === chosen.order }, words)));
  const verdict = h("select", { "aria-label": "verdicts", onchange: (event) => { chosen.verdict = event.target.value; draw(); } },
    verdictWords.map(([value, words]) => h("option", { value, selected: value === chosen.verdict }, words)));

  main.replaceChildren(
    h("section", { class: "panel suspects-panel" },
      h("h2", null, hasLabels ? "Which labels are probably wrong?" : "Which targets are probably wrong?"),
      h("p", { class: "lead" }, `A ranking by ${found.signals.join(", ")}, not a verdict. `, hasLabels
        ? "The line shows the margin of the label at each visit. Below the dashed line, the model said something else."
        : "The line shows the margin at each visit, or the loss where there is none."),
      found.labels_differ > 0 && h("p", { class: "alarm" }, `The runs recorded different labels for ${plural(found.labels_differ, "example")}.`),
      h("div", { class: found.confused.length > 0 ? "suspects-columns" : "" },
        found.confused.length > 0 && h("div", { class: "suspects-filter" }, matrix, clear),
        h("div", { class: "suspects-list" }, h("div", { class: "tools" }, filter, order, verdict), status, list)),
      found.missing_signals.map(({ score, why }) => h("p", { class: "note" }, `Without ${score}: ${why}`)),
      wordList([...found.signals, "margin"]),
      basisLine(found.basis)));
  await draw();
  // On a wide screen the first one is open from the start, until somebody closes it.
  if (rows.length > 0 && currentExample() === null && !closedByHand && matchMedia("(min-width: 1300px)").matches) {
    setParameter("example", rows[0].id);
  }
}
