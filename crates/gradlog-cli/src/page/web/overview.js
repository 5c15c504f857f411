// The first view: what was recorded, where to begin, the curves, and what each answer rests on.

/** A question with pictures that leads to the view which answers it. */
async function questionCard(question, words, view, ids, of) {
  const some = ids.slice(0, 8);
  const [cards, sets] = await Promise.all([Promise.all(some.map((id) => cardOf(of, id, "small"))), Promise.all(some.map((id) => source.cardSet(of, id)))]);
  return h("a", { class: "question", href: viewAddress(view) }, h("h3", null, question), h("p", null, words),
    sets.some((set) => set.hasPictures) && h("div", { class: "strip", "aria-hidden": "true" }, cards));
}

async function suspectsCard() {
  const suspects = await source.suspects();
  if (!suspects.rows?.length) return null;
  const hasLabels = suspects.rows.some((row) => row.label !== null);
  const other = suspects.confused.reduce((sum, [, , number]) => sum + number, 0);
  const words = other > 0 ? `${plural(other, "example")} were mostly predicted as another label.` : `${plural(suspects.examples, "example")}, ranked by how much speaks against them.`;
  return questionCard(hasLabels ? "Which labels are probably wrong?" : "Which targets are probably wrong?", words, "suspects", suspects.rows.map((row) => row.id), "train");
}

async function probesCard() {
  const set = (await source.probeSets()).find((one) => !one.missing);
  if (!set) return null;
  const ids = Array.from(decodeArray(set.ids), String);
  const wrong = await wrongProbes(set.set, ids);
  const words = wrong.length > 0 ? `${plural(wrong.length, "probe")} of “${set.set}” got a wrong answer.` : `${plural(ids.length, "probe")} of “${set.set}”.`;
  return questionCard("What taught the model an answer?", words, "probes", wrong.length ? wrong : ids, `probe:${set.set}`);
}

async function forgettingCard() {
  const { scores } = await source.scores();
  if (!scores?.some(({ score }) => score === "forgetting")) return null;
  const asked = { score: "forgetting", columns: [], sort: "forgetting", down: true, range: [1, 1e300, false], text: "", label: null, first: 0, count: 8 };
  const found = await source.rows(asked).catch((error) => (error.status === 422 ? null : Promise.reject(error)));
  return found && questionCard("What was learned and forgotten?", `${plural(found.total, "example")} were forgotten at least once.`,
    "scores?score=forgetting&from=1", found.rows.map(({ id }) => id), "train");
}

async function groupsCard() {
  const groups = await source.groups();
  return groups.clusters?.length ? questionCard("Which kinds of example are there?", `${plural(groups.clusters.length, "cluster")} by the direction of gradients.`,
    "groups", groups.clusters.map((one) => one.nearest[0]), "train") : null;
}

/** The line under the title. */
function headLine(run) {
  const epochs = run.epochs ? run.epochs[1] - run.epochs[0] + 1 : 0;
  return `${plural(run.visits, "visit")} of ${plural(run.examples, "example")}, ${plural(epochs, "epoch")}, ${plural(run.steps, "step")}`;
}

/** What a reader must know before any number: damage, gaps, what is not covered. */
function alarms(run) {
  const words = [];
  if (run.damage) words.push(`The run is damaged: all is of what came before. ${run.damage}`);
  else if (!run.finished && !(source.isServed && source.state.recording)) words.push("The run is not finished: its recorder was killed, or still writes.");
  if (run.dropped > 0) words.push(`${plural(run.dropped, "visit")} were dropped while recording, the first at step ${run.first_gap}.`);
  if (run.not_finite > 0) words.push(`${plural(run.not_finite, "visit")} have a NaN or an infinity and are left out.`);
  if (run.coverage === null) words.push("The model was not declared, so the share of it that is recorded is not known.");
  else if (run.coverage < 1) words.push(`Recorded are ${percent(Math.min(run.coverage, 0.999))} of the model's parameters.`);
  return words;
}

/** The facts of one run as pairs, in as many columns as there is room for. */
function factsList(run) {
  const pairs = [...run.facts, ...run.notes.map(([name, what]) => [`note: ${name}`, what])];
  return h("dl", { class: "facts-list" }, pairs.map(([name, what]) => h("div", null, h("dt", null, name), h("dd", null, what))));
}

/** The facts of several runs side by side. */
function factsTable(runs) {
  const names = [...new Set(runs.flatMap((run) => run.facts.map(([name]) => name)).filter(Boolean))];
  const value = (run, name) => run.facts.filter(([known]) => known === name).map(([, what]) => what).join("; ") || "–";
  const notes = [...new Set(runs.flatMap((run) => run.notes.map(([name]) => name)))];
  const note = (run, name) => run.notes.filter(([known]) => known === name).map(([, what]) => what).join("; ") || "–";
  return h("div", { class: "scroll" }, h("table", { class: "facts-table" },
    h("thead", null, h("tr", null, h("td"), runs.map((run, at) => h("th", { scope: "col", class: `run run-${at % 6}` }, run.name)))),
    h("tbody", null,
      names.map((name) => h("tr", null, h("th", { scope: "row" }, name), runs.map((run) => h("td", null, value(run, name))))),
      notes.map((name) => h("tr", null, h("th", { scope: "row" }, `note: ${name}`), runs.map((run) => h("td", null, note(run, name))))))));
}

function layersTable(run) {
  const names = ["layer", "kind", "parameters", "form"];
  if (run.layers.length === 0) return null;
  return h("div", { class: "scroll" }, h("table", { class: "numbers" },
    h("thead", null, h("tr", null, names.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", null, run.layers.map(([name, kind, parameters, form]) =>
      h("tr", null, h("td", null, name), h("td", null, kind), h("td", null, count(parameters)), h("td", null, form))))));
}

const EVENT_NAMES = {
  "non-finite-loss": "losses that are NaN or infinite", "non-finite-gradient": "gradients that are NaN or infinite",
  "large-gradient": "large gradients", divergence: "divergences of the loss",
};

/** What the guard noticed in a run: how much of each kind, and a table whose examples open. */
function eventsOf(run, name) {
  const { counts, rows, first, left_out: leftOut } = run.events;
  const words = counts.map(([kind, number]) => `${EVENT_NAMES[kind] ?? kind}: ${count(number)}`).join(" · ");
  const line = ([step, epoch, , example, layer, sentence]) => h("tr", null,
    h("td", null, count(step)), h("td", null, count(epoch)),
    h("td", null, example === null ? "–" : h("button", { class: "plain", type: "button", "aria-label": `open example ${example}`, onclick: () => openExample(example) }, example)),
    h("td", null, layer ?? "–"), h("td", { class: "words" }, sentence.replace(/^step \d+: /, "")));
  const gap = leftOut > 0 && h("tr", null, h("td", { colspan: 5, class: "note" }, `${plural(leftOut, "row")} between are left out here. The log has them all.`));
  return [name && h("h3", null, name), h("p", { class: "note event-counts" }, words),
    h("div", { class: "scroll" }, h("table", { class: "numbers events" },
      h("thead", null, h("tr", null, ["step", "epoch", "example", "layer", "what was noticed"].map((title) => h("th", { scope: "col" }, title)))),
      h("tbody", null, rows.slice(0, first).map(line), gap, rows.slice(first).map(line))))];
}

/** The panel of the guard, where it noticed anything. */
function eventsPanel(runs) {
  const noticed = runs.filter((run) => run.events);
  if (noticed.length === 0) return null;
  return panel("What the guard noticed", "A large gradient is compared with recent ones, a diverging loss with its least so far. A row names one example.",
    noticed.map((run) => eventsOf(run, runs.length > 1 && run.name)));
}

/** Of each view, what it rests on. A served page names what was asked for. */
async function bases() {
  const [suspects, map, groups, curves, sets] = await Promise.all([
    source.suspects(), source.map(), source.groups(), source.curves(), source.probeSets()]);
  const { scores } = await source.scores();
  const lines = [["curves", curves.runs?.[0].basis], ["suspects", suspects.basis], ["map", map.basis], ["groups", groups.basis]];
  for (const set of sets) lines.push([`probes of ${set.set}`, set.influence?.variant && `${set.influence.variant}; ${set.influence.basis}`]);
  for (const one of scores ?? []) lines.push([one.score, one.basis]);
  const known = lines.filter(([, words]) => words);
  return h("table", { class: "facts-table" }, h("tbody", null, known.map(([name, words]) =>
    h("tr", null, h("th", { scope: "row" }, name), h("td", null, words)))));
}

async function drawOverview(main) {
  const head = await source.head();
  const several = head.runs.length > 1;
  const warnings = head.runs.flatMap((run) => alarms(run).map((words) => (several ? `${run.name}: ${words}` : words)));
  const notes = [...head.notes, head.workers].filter(Boolean);
  const cards = [suspectsCard(), probesCard(), forgettingCard(), groupsCard()].map((card) => later(card, "Looking …"));
  const curves = later(curvesPanel(), "Drawing the curves …");
  // The server computes what a view shows when it is asked for; what every view rests on would be all of it.
  const rests = source.isServed ? null : await bases();
  if (!source.isServed) await Promise.all([...cards, curves].map((one) => one.isThere));
  main.replaceChildren(
    h("section", { class: "intro" },
      head.runs.map((run, at) => h("p", { class: "head-line" }, several && h("b", { class: `run run-${at % 6}` }, run.name), several && " ", headLine(run))),
      several && h("p", { class: "note" }, "Suspects, map and scores are means over these runs. Probes, groups and the visits of single examples are of the first."),
      warnings.map((words) => h("p", { class: "alarm" }, words)),
      notes.map((words) => h("p", { class: "note" }, words))),
    h("div", { class: "questions" }, cards),
    curves,
    eventsPanel(head.runs) ?? "",
    panel("What was recorded", null, several ? factsTable(head.runs) : factsList(head.runs[0]), head.runs.map((run) => [several && h("h3", null, run.name), layersTable(run)]),
      wordList([...new Set(head.runs.flatMap((run) => run.layers.map(([, , , form]) => form.split(" ")[0])))])),
    rests ? panel("What each answer rests on", "Every number comes from the log alone, by the questions that the command asks.", h("div", { class: "scroll" }, rests)) : "",
  );
}
