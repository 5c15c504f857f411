// The keyboard: everything that the mouse can do.

const KEY_WORDS = [
  ["↑ ↓", "move"], ["Enter", "open"], ["k", "keep"], ["r", "relabel"], ["d", "drop"], ["u", "take back"], ["/", "filter"], ["1–6", "views"], ["Esc", "close"],
];

function drawKeys() {
  document.getElementById("keys").replaceChildren(...KEY_WORDS.map(([key, words]) => h("span", null, h("kbd", null, key), ` ${words}`)));
}

/** The elements that arrows go through: rows of the list, tiles, rows of the table. */
function stops() {
  const main = document.getElementById("main");
  const lists = [".suspect", ".score-table tbody tr", ".wall .tile", ".end", ".tile"];
  const found = lists.map((list) => [...main.querySelectorAll(list)]).filter((all) => all.length > 0);
  const here = found.find((all) => all.includes(document.activeElement));
  if (!here) return found.find((all) => !all.some((one) => one.closest(".questions"))) ?? [];
  // Proponents, opponents and neighbors are lists of their own.
  return here.filter((one) => !one.matches(".end") || one.parentElement === document.activeElement.parentElement);
}

/** The place that the arrows are at: the focused element, or the one of the open example. */
function placeAmong(all) {
  const focused = all.indexOf(document.activeElement);
  if (focused >= 0) return focused;
  const open = currentExample();
  return all.findIndex((one) => open !== null && one.dataset.id === open);
}

function focusStop(all, at) {
  const next = all[at];
  if (!next) return;
  if (next.matches(".suspect, .wall .tile, .end")) oneStop(all, next);
  next.focus();
  next.scrollIntoView({ block: "nearest" });
  // Beside a wide list the example follows the arrows.
  if (next.dataset.id && currentExample() !== null && next.matches(".suspect, tr")) followExample(next.dataset.id);
}

/** The example that a verdict is about: the focused row, or the open example. */
function judgedExample() {
  const row = document.activeElement?.closest?.("[data-id]");
  if (row && !row.matches(".probe")) return row.dataset.id;
  return currentExample();
}

async function judgeByKey(verdict) {
  const id = judgedExample();
  if (id === null || id === undefined) return;
  if (id === currentExample() && !document.querySelector("#example .verdicts")) {
    announce(`the run has no example ${id}`);
    return;
  }
  const about = await source.describe(id);
  if (verdict === "relabel" && about.proposed === null) {
    if (about.label === null) announce(`example ${id} has no label`);
    else askLabel(id);
    return;
  }
  judge(id, verdict, about.label, about.proposed);
}

const JUDGED_BY = { k: "keep", r: "relabel", d: "drop", u: null };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const inField = event.target.matches?.("input:not([type=checkbox]), select, textarea");
  if (event.key === "Escape") {
    if (inField) event.target.blur();
    else closeExample();
    return;
  }
  if (inField) return;
  if (event.key in JUDGED_BY) {
    event.preventDefault();
    judgeByKey(JUDGED_BY[event.key]);
  } else if (event.key === "/") {
    event.preventDefault();
    document.getElementById("filter")?.focus();
  } else if (event.key >= "1" && event.key <= String(VIEWS.length)) {
    go(VIEWS[Number(event.key) - 1].name, {});
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    const all = stops();
    if (all.length === 0) return;
    event.preventDefault();
    const at = placeAmong(all);
    // Behind the last row that is drawn there may be more.
    const more = event.key === "ArrowDown" && at === all.length - 1 && document.querySelector("#main .suspects .more");
    if (more) showMoreSuspects().then(() => focusStop(stops(), at + 1));
    else focusStop(all, event.key === "ArrowDown" ? Math.min(at + 1, all.length - 1) : Math.max(at - 1, 0));
  } else if ((event.key === "ArrowRight" || event.key === "ArrowLeft") && event.target.matches?.(".tile")) {
    const tiles = [...event.target.parentElement.querySelectorAll(".tile")];
    event.preventDefault();
    focusStop(tiles, tiles.indexOf(event.target) + (event.key === "ArrowRight" ? 1 : -1));
  } else if (event.key === "Enter" && event.target.matches?.(".suspect, tr")) {
    openExample(event.target.dataset.id);
  }
});
