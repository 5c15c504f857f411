// Probes: a wall of them, and for one what taught the model its answer.

/** The last record of each probe of a set. */
async function lastRecords(set, ids) {
  return Promise.all(ids.map(async (id) => {
    const visits = await source.probeHistory(set, id);
    return { id, visits, ...visits[visits.length - 1] };
  }));
}

/** The ids of the probes whose last answer was wrong. */
async function wrongProbes(set, ids) {
  const records = await lastRecords(set, ids);
  return records.filter((record) => record.correct !== null && record.correct < 0.5).map((record) => record.id);
}

const WALL_AT_ONCE = 120;

async function probeTile(set, record, isChosen, onChoose) {
  const card = await cardOf(`probe:${set}`, record.id, "small");
  const isWrong = rightness(record) === "wrong";
  const answer = record.label === null ? short(record.loss) : isWrong && record.prediction !== null ? `${record.label} → ${record.prediction}` : labelText(record.label);
  const words = `probe ${record.id}, label ${labelText(record.label)}, predicted ${labelText(record.prediction)}, loss ${short(record.loss)}`;
  return h("button", { type: "button", class: `tile probe ${rightness(record)}`, "aria-label": words, title: words, "aria-pressed": String(isChosen), "data-id": record.id, onclick: () => onChoose(record.id) },
    card, h("span", { class: "caption" }, answer));
}

/** What is shown of one probe. `asked` says how influence is measured, and by what scores are split. */
async function drawProbe(target, set, id, asked, change, signal) {
  const visits = await source.probeHistory(set, id);
  if (!visits || visits.length === 0) {
    target.replaceChildren(missing(`The set “${set}” has no probe ${id}.`));
    return;
  }
  const last = visits[visits.length - 1];
  const [card, inData] = await Promise.all([cardOf(`probe:${set}`, id, "large"), labelInData(`probe:${set}`, id)]);
  const isWrong = rightness(last) === "wrong";
  const says = last.prediction === null ? `Its loss is ${short(last.loss)}.` : isWrong
    ? `Its label is ${last.label}. The model says ${last.prediction}: wrong.`
    : `Its label is ${labelText(last.label)}, and the model says so.`;
  const answer = later(source.ends(set, id, asked, signal).then((ends) => endsPanel(ends, asked, last, change)), "The server is asking the run …");
  if (!source.isServed) await answer.isThere;
  target.replaceChildren(
    h("div", { class: "probe-head" }, card,
      h("div", { class: "probe-about" },
        h("h3", null, `Probe ${id} of “${set}”`),
        h("p", { class: isWrong ? "answer wrong" : "answer" }, says),
        inData !== null && h("p", { class: "note" }, `The data gives it the label ${inData}.`),
        h("p", { class: "story" }, storyOf(visits, "record"))),
      visitChart(visits, "loss", "Its loss each time it was recorded, by step")),
    source.isServed ? await methodForm(set, id, asked, change) : "",
    answer);
  await answer.isThere;
}

/** The lists of a probe with what they rest on, and the choice of what scores are split by. */
async function endsPanel(ends, asked, last, change) {
  if (ends.missing) return missing(ends.missing);
  const choices = [["none", "whole scores"], ["epoch", "by epoch"], ["layer", "by layer"]];
  const names = ends.parts[asked.split];
  // The first line says what the basis says, too.
  const words = ends.words.slice(1);
  const error = ends.canSplit ? "; ± is one standard deviation of what sketches may have done to a score." : ".";
  return [
    ends.canSplit && h("div", { class: "tools" }, h("span", null, "Show scores "), choices.map(([value, text]) => h("button", {
      type: "button", "aria-pressed": String(asked.split === value), onclick: () => change({ split: value }) }, text)),
      names?.length > 0 && h("span", { class: "note" }, `from left: ${names.join(", ")}`)),
    words.map((line) => h("p", { class: line.startsWith("warning") ? "alarm" : "note" }, sentence(line.replace(/^(warning|note): /, "")))),
    await endLists(ends, asked.split, last),
    basisLine(`${ends.variant}; ${ends.basis}${error}`),
  ].flat();
}

async function drawProbes(main, parameters) {
  const sets = await source.probeSets();
  if (sets.length === 0) {
    main.replaceChildren(panel("Probes", null, missing("This run has no probes: record them with `recorder.probe(\"test\", &ids)`.")));
    return;
  }
  const part = sets.find((set) => set.set === parameters.get("set")) ?? sets.find((set) => !set.missing) ?? sets[0];
  const chooseSet = sets.length > 1 && h("select", { "aria-label": "probe set", onchange: (event) => go("probes", { set: event.target.value }) },
    sets.map((set) => h("option", { value: set.set, selected: set === part }, set.set)));
  if (part.missing) {
    main.replaceChildren(panel("Probes", null, chooseSet, missing(part.missing)));
    return;
  }
  const ids = Array.from(decodeArray(part.ids), String);
  const records = await lastRecords(part.set, ids);
  const wrong = records.filter((record) => rightness(record) === "wrong").length;
  const labels = [...new Set(records.map((record) => record.label))].filter((label) => label !== null).sort((a, b) => a - b);
  const labelNow = parameters.has("label") && labels.includes(Number(parameters.get("label"))) ? Number(parameters.get("label")) : null;
  const state = { wrongOnly: wrong > 0 && parameters.get("answers") !== "all", label: labelNow, text: parameters.get("text") ?? "", split: "none", chosen: parameters.get("probe"), shown: WALL_AT_ONCE };
  const asked = { split: "none", ...questionIn(parameters) };
  let doing = new AbortController();
  const wall = h("div", { class: "tiles wall", role: "group", "aria-label": "probes" });
  const detail = h("div", { class: "probe-detail" });
  const status = h("p", { class: "note", "aria-live": "polite" });

  const matching = () => records.filter((record) => (!state.wrongOnly || rightness(record) === "wrong")
    && (state.label === null || record.label === state.label) && (state.text === "" || record.id.includes(state.text)));
  const drawDetail = async () => {
    // What was asked about another probe is not waited for any more.
    doing.abort();
    doing = new AbortController();
    if (state.chosen === null || (!source.isServed && !ids.includes(state.chosen))) {
      detail.replaceChildren(missing("Choose a probe."));
      return;
    }
    const { signal } = doing;
    const ask = (changes) => {
      Object.assign(asked, changes);
      keepQuestion(asked);
      return drawDetail();
    };
    try {
      await drawProbe(detail, part.set, state.chosen, asked, ask, signal);
    } catch (error) {
      if (!signal.aborted) detail.replaceChildren(missing(error.message));
    }
  };
  // The wall is one stop of the Tab key, at the probe that is shown.
  const stopAtChosen = () => oneStop([...wall.querySelectorAll(".tile")], wall.querySelector(".tile[aria-pressed=true]"));
  const choose = (id) => {
    state.chosen = id;
    setParameter("probe", id);
    for (const tile of wall.querySelectorAll(".tile")) tile.setAttribute("aria-pressed", String(tile.dataset.id === id));
    stopAtChosen();
    drawDetail();
  };
  const drawWall = async () => {
    const found = matching();
    status.textContent = `${plural(found.length, "probe")}${state.wrongOnly ? " with a wrong answer" : ""}, the highest loss first. The set has ${count(part.probes)}${part.shown < part.probes ? `, of which this page holds ${count(part.shown)}` : ""}.`;
    const tiles = await Promise.all(found.slice(0, state.shown).map((record) => probeTile(part.set, record, record.id === state.chosen, choose)));
    const more = found.length > state.shown && h("button", { type: "button", class: "more", onclick: () => { state.shown += WALL_AT_ONCE; drawWall(); } }, `show more (${found.length - state.shown})`);
    const known = new Set(ids);
    const other = source.isServed && /^\d+$/.test(state.text) && !known.has(state.text)
      && h("button", { type: "button", class: "more", id: "other-probe", onclick: () => choose(state.text) }, `ask about probe ${state.text}`);
    wall.replaceChildren(...tiles, ...[more, other].filter(Boolean));
    stopAtChosen();
  };
  const change = (changes) => {
    Object.assign(state, changes);
    setParameters({ answers: wrong > 0 && !state.wrongOnly ? "all" : null, label: state.label, text: state.text || null });
    drawWall();
  };

  const tools = h("div", { class: "tools" }, chooseSet,
    wrong > 0 && h("label", null, h("input", { type: "checkbox", checked: state.wrongOnly, onchange: (event) => change({ wrongOnly: event.target.checked }) }), ` wrong answers only (${wrong})`),
    labels.length > 1 && h("select", { "aria-label": "label", onchange: (event) => change({ label: event.target.value === "" ? null : Number(event.target.value) }) },
      h("option", { value: "" }, "all labels"), labels.map((label) => h("option", { value: label, selected: label === state.label }, `label ${label}`))),
    h("input", { id: "filter", type: "search", placeholder: "id", size: 8, value: state.text || null, "aria-label": "filter by id (key /)", oninput: (event) => change({ text: event.target.value }) }));
  main.replaceChildren(h("section", { class: "panel" }, h("h2", null, "What taught the model an answer?"),
    h("p", { class: "lead" }, "A probe is an example that one asks about, such as a test example. A positive score helped: steps on that training example lowered the loss of the probe."),
    h("div", { class: "probe-columns" }, h("div", { class: "probe-wall" }, tools, status, wall), detail)));
  const first = matching()[0] ?? records[0];
  state.chosen ??= first?.id ?? null;
  await drawWall();
  const drawing = drawDetail();
  if (!source.isServed) await drawing;
}
