// One training example: what it is, how it went, why it is suspected, what is like it.

/** When it was learned and forgotten, in words. */
function storyOf(visits, noun = "visit") {
  const when = (visit) => (visits[0].epoch === visits[visits.length - 1].epoch ? `step ${visit.step}` : `epoch ${visit.epoch}`);
  const known = visits.filter((visit) => visit.correct !== null);
  const shares = visits.filter((visit) => visit.share !== null).map((visit) => visit.share);
  if (known.length === 0 && shares.length > 0) {
    return [`Each ${noun} has several predictions. Of the first ${percent(shares[0])} were right, of the last ${percent(shares[shares.length - 1])}.`];
  }
  if (known.length === 0) return ["No right or wrong was recorded: there are no classes."];
  const isRight = (visit) => visit.correct >= 0.5;
  const events = [isRight(known[0]) && `right from the first ${noun}, in ${when(known[0])}`];
  for (let at = 1; at < known.length; at += 1) {
    if (isRight(known[at]) && !isRight(known[at - 1])) {
      events.push(`${known.slice(0, at).some(isRight) ? "learned again" : "learned"} in ${when(known[at])}`);
    } else if (!isRight(known[at]) && isRight(known[at - 1])) {
      events.push(`forgotten in ${when(known[at])}`);
    }
  }
  const told = events.filter(Boolean);
  if (told.length === 0) return [`Never right: wrong at all ${plural(known.length, noun)}.`];
  const shown = told.length > 9 ? [...told.slice(0, 8), `and ${told.length - 8} more changes`] : told;
  const words = shown.join(", ");
  return [`${words[0].toUpperCase()}${words.slice(1)}.`];
}

function visitTable(visits) {
  const row = (visit) => h("tr", { class: rightness(visit) },
    h("td", null, visit.epoch), h("td", null, visit.step), h("td", null, short(visit.loss)), h("td", null, short(visit.margin)),
    h("td", null, short(visit.confidence)), h("td", null, labelText(visit.prediction)));
  const names = ["epoch", "step", "loss", "margin", "p(label)", "says"];
  return h("details", { class: "visits" }, h("summary", null, `All ${plural(visits.length, "visit")} in numbers`),
    h("div", { class: "scroll" }, h("table", { class: "numbers" },
      h("thead", null, h("tr", null, names.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", null, visits.slice(0, 500).map(row)))));
}

/** The reasons, and how far each signal finds it suspicious. */
function reasonsOf(about, signals, examples) {
  const suspect = about.suspect;
  const bars = signals.map((signal, at) => {
    const rank = suspect.ranks[at];
    if (rank === null) return null;
    const words = `${signal}: more suspicious than ${percent(rank)} of the examples`;
    return h("div", { class: "rank", title: words }, h("span", { class: "rank-name" }, signal),
      h("span", { class: "rank-bar", role: "img", "aria-label": words }, h("span", { style: { width: `${100 * rank}%` } })),
      h("span", { class: "rank-value" }, percent(rank)));
  });
  return h("section", null,
    h("h3", null, about.label === null ? "Why it is suspected" : "Why its label is suspected"),
    h("p", { class: "note" }, `Place ${count(suspect.rank)} of ${count(examples)} by suspicion.`),
    h("ul", { class: "reasons" }, plainFirst(suspect.reasons).map((reason) => h("li", null, reason))),
    h("p", { class: "note" }, "Share of the examples that each score finds less suspicious. Of forgetting, equal counts go by mean loss:"),
    h("div", { class: "ranks" }, bars));
}

async function neighborsOf(id) {
  const neighbors = await source.neighbors(id);
  if (!neighbors || neighbors.length === 0) return null;
  const tiles = await Promise.all(neighbors.map(async ([other, cosine]) => {
    const { label } = await source.describe(other);
    return exampleButton(other, label === null ? cosine.toFixed(2) : `${label} · ${cosine.toFixed(2)}`, `cosine ${cosine.toFixed(2)}`);
  }));
  return h("section", null, h("h3", null, "Gradients that point the same way"),
    h("p", { class: "note" }, "Under each: its label, if it has one, and the cosine."), h("div", { class: "tiles" }, tiles));
}

/** Why an example is suspected, or that it is not. */
async function suspicionOf(id) {
  const suspects = await source.suspects();
  if (!suspects.rows) return null;
  const at = suspects.rows.findIndex((row) => row.id === id);
  if (at < 0) return h("p", { class: "note" }, `Not among the first ${count(suspects.rows.length)} suspects.`);
  const row = suspects.rows[at];
  return reasonsOf({ label: row.label, suspect: { ...row, rank: at + 1 } }, suspects.signals, suspects.examples);
}

/** Draws the example into the column beside the view. */
async function drawExample(id) {
  const aside = document.getElementById("example");
  const [about, visits, card, inData, head] = await Promise.all([
    source.describe(id), source.history(id), cardOf("train", id, "large"), labelInData("train", id), source.head(),
  ]);
  const more = [later(suspicionOf(id), "Looking for reasons …"), later(neighborsOf(id), "Looking for its neighbors …")];
  if (!source.isServed) await Promise.all(more.map((one) => one.isThere));
  if (currentExample() !== id) return;
  const proposed = about.proposed;
  const isThere = visits !== null || about.label !== null || about.prediction !== null || about.suspect !== null;
  aside.replaceChildren(
    h("div", { class: "example-head" }, h("h2", null, `Example ${id}`),
      h("button", { type: "button", class: "close", "aria-label": "close the example (Esc)", onclick: closeExample }, "×")),
    h("div", { class: "example-top" }, card,
      h("dl", { class: "facts" },
        about.label !== null && [h("dt", null, "label"), h("dd", null, h("b", { class: "chip" }, about.label))],
        about.label !== null && [h("dt", null, "proposed"), h("dd", null, proposed === null ? "–" : h("b", { class: "chip other" }, proposed))],
        inData !== null && [h("dt", null, "data says"), h("dd", null, h("b", { class: "chip data" }, inData))])),
    isThere ? h("div", { class: "judge" }, verdictButtons(id, about.label, proposed), about.label !== null && otherLabel(id, about.label)) : "",
    visits ? h("section", null, h("h3", null, "How it went"),
      h("p", { class: "story" }, storyOf(visits)),
      visits.some((visit) => Number.isFinite(visit.margin)) && visitChart(visits, "margin", "Margin of its label, by step"),
      visitChart(visits, "loss", "Loss, by step"), visitTable(visits),
      head.runs.length > 1 && h("p", { class: "note" }, "The visits are those of the first run."))
      : missing(source.isServed ? "The run has no visit of it." : "Its visits are not in this page. `gradlog example` shows them."),
    ...more,
  );
  showExample(aside);
  focusLabel(id);
}

function showExample(aside) {
  aside.hidden = false;
  aside.scrollTop = 0;
  document.body.classList.add("with-example");
}

/** Says in the column why an example is not shown. */
function refuseExample(id, why) {
  const aside = document.getElementById("example");
  aside.replaceChildren(h("div", { class: "example-head" }, h("h2", null, `Example ${id}`),
    h("button", { type: "button", class: "close", "aria-label": "close the example (Esc)", onclick: closeExample }, "×")), missing(why));
  showExample(aside);
}

function hideExample() {
  const aside = document.getElementById("example");
  aside.hidden = true;
  aside.replaceChildren();
  document.body.classList.remove("with-example");
}
