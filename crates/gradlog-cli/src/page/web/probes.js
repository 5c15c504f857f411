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

/** What is shown of one probe. */
async function drawProbe(target, set, part, ids, id, split, onSplit) {
  const visits = await source.probeHistory(set, id);
  const last = visits[visits.length - 1];
  const at = ids.indexOf(id);
  const card = await cardOf(`probe:${set}`, id, "large");
  const isWrong = rightness(last) === "wrong";
  const says = last.prediction === null ? `Its loss is ${short(last.loss)}.` : isWrong
    ? `Its label is ${last.label}. The model says ${last.prediction}: wrong.`
    : `Its label is ${labelText(last.label)}, and the model says so.`;
  const influence = part.influence;
  const lists = influence.missing ? missing(influence.missing) : await endLists(influence, at, split, last);
  const isDetailed = !influence.missing && at < influence.detailed;
  const choices = [["none", "whole scores"], ["epoch", "by epoch"], ["layer", "by layer"]];
  const names = influence.missing ? null : endsOf(influence, at).parts[split];
  const inData = await labelInData(`probe:${set}`, id);
  target.replaceChildren(
    h("div", { class: "probe-head" }, card,
      h("div", { class: "probe-about" },
        h("h3", null, `Probe ${id} of “${set}”`),
        h("p", { class: isWrong ? "answer wrong" : "answer" }, says),
        inData !== null && h("p", { class: "note" }, `The data gives it the label ${inData}.`),
        h("p", { class: "story" }, storyOf(visits, "record"))),
      visitChart(visits, "loss", "Its loss each time it was recorded, by step")),
    isDetailed && h("div", { class: "tools" }, h("span", null, "Show scores "), choices.map(([value, words]) => h("button", {
      type: "button", "aria-pressed": String(split === value), onclick: () => onSplit(value) }, words)),
      names && h("span", { class: "note" }, `from left: ${names.join(", ")}`)),
    lists,
    basisLine(influence.missing ? null : `${influence.variant}; ${influence.basis}; ± is one standard deviation of what sketches may have done to a score.`));
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
  const state = { wrongOnly: wrong > 0, label: null, text: "", split: "none", chosen: parameters.get("probe"), shown: WALL_AT_ONCE };
  const wall = h("div", { class: "tiles wall", role: "group", "aria-label": "probes" });
  const detail = h("div", { class: "probe-detail" });
  const status = h("p", { class: "note", "aria-live": "polite" });

  const matching = () => records.filter((record) => (!state.wrongOnly || rightness(record) === "wrong")
    && (state.label === null || record.label === state.label) && (state.text === "" || record.id.includes(state.text)));
  const drawDetail = () => {
    if (state.chosen === null || !ids.includes(state.chosen)) detail.replaceChildren(missing("Choose a probe."));
    else return drawProbe(detail, part.set, part, ids, state.chosen, state.split, (split) => { state.split = split; drawDetail(); });
    return null;
  };
  const choose = (id) => {
    state.chosen = id;
    setParameter("probe", id);
    for (const tile of wall.querySelectorAll(".tile")) tile.setAttribute("aria-pressed", String(tile.dataset.id === id));
    drawDetail();
  };
  const drawWall = async () => {
    const found = matching();
    status.textContent = `${plural(found.length, "probe")}${state.wrongOnly ? " with a wrong answer" : ""}, the highest loss first. The set has ${count(part.probes)}${part.shown < part.probes ? `, of which this page holds ${count(part.shown)}` : ""}.`;
    const tiles = await Promise.all(found.slice(0, state.shown).map((record) => probeTile(part.set, record, record.id === state.chosen, choose)));
    const more = found.length > state.shown && h("button", { type: "button", class: "more", onclick: () => { state.shown += WALL_AT_ONCE; drawWall(); } }, `show more (${found.length - state.shown})`);
    wall.replaceChildren(...tiles, ...(more ? [more] : []));
  };
  const change = (changes) => { Object.assign(state, changes); drawWall(); };

  const tools = h("div", { class: "tools" }, chooseSet,
    wrong > 0 && h("label", null, h("input", { type: "checkbox", checked: state.wrongOnly, onchange: (event) => change({ wrongOnly: event.target.checked }) }), ` wrong answers only (${wrong})`),
    labels.length > 1 && h("select", { "aria-label": "label", onchange: (event) => change({ label: event.target.value === "" ? null : Number(event.target.value) }) },
      h("option", { value: "" }, "all labels"), labels.map((label) => h("option", { value: label }, `label ${label}`))),
    h("input", { id: "filter", type: "search", placeholder: "id", size: 8, "aria-label": "filter by id (key /)", oninput: (event) => change({ text: event.target.value }) }));
  main.replaceChildren(h("section", { class: "panel" }, h("h2", null, "What taught the model an answer?"),
    h("p", { class: "lead" }, "A probe is an example that one asks about, such as a test example. A positive score helped: steps on that training example lowered the loss of the probe."),
    h("div", { class: "probe-columns" }, h("div", { class: "probe-wall" }, tools, status, wall), detail)));
  const first = matching()[0] ?? records[0];
  state.chosen ??= first?.id ?? null;
  await drawWall();
  await drawDetail();
}
