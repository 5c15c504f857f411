// Verdicts: keep, relabel or drop. They stay in this browser, by the id of the run, and leave as a file.

const VERDICTS = ["keep", "relabel", "drop"];

const verdicts = {
  key: "",
  byId: new Map(),
  listeners: new Set(),
  isKept: true,
};

/** Reads the verdicts of earlier visits to this page. */
function loadVerdicts(runIds) {
  verdicts.key = `gradlog-verdicts:${runIds.join("+")}`;
  try {
    const saved = JSON.parse(localStorage.getItem(verdicts.key) || "{}");
    // Other local pages can write to the same store.
    const isLabel = (label) => label === null || Number.isInteger(label);
    for (const [id, row] of Object.entries(saved)) {
      if (/^\d+$/.test(id) && VERDICTS.includes(row.verdict) && isLabel(row.label) && isLabel(row.proposed)) verdicts.byId.set(id, row);
    }
  } catch {
    verdicts.isKept = false;
  }
}

function saveVerdicts() {
  try {
    localStorage.setItem(verdicts.key, JSON.stringify(Object.fromEntries(verdicts.byId)));
  } catch {
    verdicts.isKept = false;
  }
}

/** Judges an example; `null` takes the verdict back. */
function judge(id, verdict, label, proposed) {
  if (verdict === null) {
    verdicts.byId.delete(id);
  } else {
    verdicts.byId.set(id, { verdict, label, proposed: verdict === "relabel" ? proposed : null });
  }
  saveVerdicts();
  const words = verdict === null ? "no verdict" : verdict === "relabel" ? `relabel to ${labelText(proposed)}` : verdict;
  announce(`example ${id}: ${words}`);
  verdicts.listeners.forEach((listener) => listener(id));
}

function verdictOf(id) {
  return verdicts.byId.get(id) ?? null;
}

/** A line of CSV; ids and labels are numbers, so that nothing has to be quoted. */
function verdictsCsv() {
  const lines = ["id,label,proposed,verdict"];
  const known = (label) => (label === null || label === undefined ? "" : label);
  for (const [id, row] of verdicts.byId) lines.push([id, known(row.label), known(row.proposed), row.verdict].join(","));
  return `${lines.join("\n")}\n`;
}

function downloadVerdicts() {
  const address = URL.createObjectURL(new Blob([verdictsCsv()], { type: "text/csv" }));
  const link = h("a", { href: address, download: "verdicts.csv" });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

/** The counts and the download, in the bar of the page. */
function drawVerdictBar() {
  const counts = VERDICTS.map((verdict) => [verdict, [...verdicts.byId.values()].filter((row) => row.verdict === verdict).length]);
  const judged = verdicts.byId.size;
  const words = judged === 0 ? "no verdicts yet"
    : counts.filter(([, number]) => number > 0).map(([verdict, number]) => `${number} ${verdict}`).join(" · ");
  const bar = document.getElementById("verdict-bar");
  bar.replaceChildren(
    h("span", { class: "verdict-count" }, words),
    verdicts.isKept ? "" : h("span", { class: "warn" }, "this browser forgets them when the page closes"),
    h("button", { id: "download", type: "button", disabled: judged === 0, onclick: downloadVerdicts }, "verdicts.csv"),
  );
}

const VERDICT_KEYS = { keep: "k", relabel: "r", drop: "d" };

/** A field for a label that nobody proposes. */
function otherLabel(id, label) {
  const field = h("input", { type: "number", class: "other-label", min: 0, max: 4294967294, step: 1, placeholder: "other label", "aria-label": `another label for example ${id}`,
    onkeydown: (event) => { if (event.key === "Enter") event.target.blur(); },
    onchange: (event) => {
      const wanted = Number(event.target.value);
      if (event.target.value !== "" && event.target.checkValidity() && Number.isInteger(wanted)) judge(id, "relabel", label, wanted);
    } });
  return field;
}

/** Opens an example with its field for another label. */
let asksLabelOf = null;
function askLabel(id) {
  announce(`example ${id} has no proposed label: type one`);
  asksLabelOf = id;
  if (currentExample() === id) focusLabel(id);
  else openExample(id);
}

function focusLabel(id) {
  if (asksLabelOf !== id) return;
  asksLabelOf = null;
  document.querySelector("#example .other-label")?.focus();
}

/** The three buttons of an example. */
function verdictButtons(id, label, proposed) {
  const box = h("span", { class: "verdicts", role: "group", "aria-label": `verdict on example ${id}` });
  const draw = () => {
    const now = verdictOf(id);
    const choices = VERDICTS.filter((verdict) => verdict !== "relabel" || (label !== null && label !== undefined));
    box.replaceChildren(...choices.map((verdict) => {
      const isOn = now?.verdict === verdict;
      const target = isOn && verdict === "relabel" ? now.proposed : proposed ?? null;
      const words = verdict === "relabel" ? `relabel ${target ?? "…"}` : verdict;
      return h("button", {
        type: "button", class: `verdict ${verdict}`, "aria-pressed": String(isOn),
        title: `${words} (key ${VERDICT_KEYS[verdict]})`, tabindex: -1,
        onclick: (event) => {
          event.stopPropagation();
          if (verdict === "relabel" && target === null) askLabel(id);
          else judge(id, isOn ? null : verdict, label, proposed);
        },
      }, words);
    }));
  };
  draw();
  const listener = (changed) => {
    if (!box.isConnected && box.dataset.shown) verdicts.listeners.delete(listener);
    else if (changed === id) draw();
  };
  verdicts.listeners.add(listener);
  requestAnimationFrame(() => { if (box.isConnected) box.dataset.shown = "1"; });
  return box;
}
