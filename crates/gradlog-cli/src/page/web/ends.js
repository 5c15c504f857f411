// The lists of a probe: who helped, who hurt, who is near; with error bars, by epoch and by layer.

/** The lists of one probe, from the arrays that a page holds. */
function embeddedEnds(part, id) {
  const influence = part.influence;
  if (influence.missing) return { missing: influence.missing };
  influence.decoded ??= {
    places: new Map(Array.from(decodeArray(part.ids), (known, at) => [String(known), at])),
    start: decodeArray(influence.start), example: decodeArray(influence.example),
    score: decodeArray(influence.score), error: decodeArray(influence.error),
    splits: { epoch: decodeSplit(influence.by_epoch), layer: decodeSplit(influence.by_layer) },
  };
  const { places, start, example, score, error, splits } = influence.decoded;
  const at = places.get(id);
  const canSplit = at < influence.detailed;
  const list = (number) => {
    const rows = [];
    for (let row = start[number]; row < start[number + 1]; row += 1) {
      const parts = (split) => (canSplit ? Array.from(split.scores.subarray(row * split.parts.length, (row + 1) * split.parts.length)) : null);
      rows.push({ id: String(example[row]), score: score[row], error: error[row], epoch: parts(splits.epoch), layer: parts(splits.layer) });
    }
    return rows;
  };
  return {
    variant: influence.variant, basis: influence.basis, words: [], helped: list(2 * at), hurt: list(2 * at + 1),
    parts: { epoch: splits.epoch.parts, layer: splits.layer.parts }, canSplit,
    nearest: Promise.resolve(nearestOf(influence, at) ?? { missing: influence.nearest.missing ?? `The page has neighbors of the first ${influence.detailed} probes.` }),
  };
}

function decodeSplit(split) {
  return { parts: split.parts, scores: decodeArray(split.scores) };
}

/** The nearest examples of one probe, or null. */
function nearestOf(influence, at) {
  const nearest = influence.nearest;
  if (nearest.missing) return null;
  nearest.decoded ??= { start: decodeArray(nearest.start), example: decodeArray(nearest.example), distance: decodeArray(nearest.distance) };
  const { start, example, distance } = nearest.decoded;
  if (at >= start.length - 1) return null;
  const rows = [];
  for (let row = start[at]; row < start[at + 1]; row += 1) rows.push({ id: String(example[row]), distance: distance[row] });
  return { layer: nearest.layer, rows };
}

/** A score as a bar with its error on both sides. */
function scoreBar(row, most) {
  const [width, height, middle] = [110, 16, 8];
  const length = (value) => (Math.abs(value) / most) * (width - 6);
  const end = length(row.score);
  const error = Number.isFinite(row.error) ? row.error : 0;
  const [from, to] = [Math.max(0, Math.abs(row.score) - error), Math.min(most, Math.abs(row.score) + error)].map(length);
  const hasError = Number.isFinite(row.error);
  const words = `score ${short(row.score)}${hasError ? `, plus or minus ${short(row.error)} (one standard deviation of the sketch)` : ""}`;
  return s("svg", { class: `score-bar ${row.score > 0 ? "helped" : "hurt"}`, width, height, role: "img", "aria-label": words },
    s("title", null, words), s("rect", { x: 0, y: 4, width: Math.max(1, end), height: 8 }),
    hasError && s("path", { class: "whisker", d: `M${from} ${middle}H${to}M${from} 5V11M${to} 5V11` }));
}

/** The parts of a score as small bars up and down. */
function partBars(parts, names, what) {
  const [wide, height] = [Math.max(5, Math.min(14, Math.floor(110 / parts.length))), 26];
  const most = Math.max(...parts.map(Math.abs)) || 1;
  const words = parts.map((value, at) => `${what} ${names[at]}: ${short(value)}`).join(", ");
  return s("svg", { class: "parts", width: wide * parts.length, height, role: "img", "aria-label": words }, s("title", null, words),
    s("line", { class: "zero", x1: 0, x2: wide * parts.length, y1: height / 2, y2: height / 2 }),
    parts.map((value, at) => {
      const tall = (Math.abs(value) / most) * (height / 2 - 1);
      return s("rect", { class: value > 0 ? "helped" : "hurt", x: at * wide + 1, y: value > 0 ? height / 2 - tall : height / 2, width: wide - 2, height: Math.max(0.5, tall) });
    }));
}

/** A row: picture, label, score, and a word if its own label is suspected. */
async function endRow(row, most, split, names, probeLabel) {
  const [card, about] = await Promise.all([cardOf("train", row.id, "small"), source.describe(row.id)]);
  const words = `example ${row.id}, label ${labelText(about.label)}`;
  // Whether its label is suspected may take longer to know.
  const suspected = h("span", { class: "suspected" });
  source.suspectOf(row.id).then((suspect) => {
    if ((suspect?.proposed ?? null) === null) return;
    const { proposed } = suspect;
    suspected.append(h("span", { class: "chip other", title: `its label is suspected: the model mostly predicted ${proposed}` }, `mostly predicted ${proposed}`));
  }, () => {});
  const parts = split !== "none" && row[split] ? partBars(row[split], names[split], split) : null;
  return h("button", { type: "button", class: "end", "aria-label": `${words}${row.score === undefined ? "" : `, score ${short(row.score)}`}`, onclick: () => openExample(row.id) },
    card,
    h("span", { class: "end-text" },
      h("span", { class: "end-head" }, about.label !== null && h("span", { class: `chip${about.label === probeLabel ? " same" : ""}` }, about.label),
        suspected,
        h("span", { class: "id" }, `#${row.id}`)),
      h("span", { class: "end-score" },
        parts ?? (row.score === undefined ? null : scoreBar(row, most)),
        h("span", { class: "score" }, row.score === undefined ? `distance ${short(row.distance)}` : `${row.score > 0 ? "+" : ""}${short(row.score)}`,
          Number.isFinite(row.error) && h("span", { class: "error" }, ` ±${short(row.error)}`)))));
}

/** Rows as one stop of the Tab key. */
function endRows(rows) {
  oneStop(rows);
  return h("div", { class: "end-rows" }, rows);
}

/** The three lists of a probe. */
async function endLists(ends, split, probe) {
  const { helped, hurt, parts } = ends;
  const most = Math.max(...[...helped, ...hurt].map((row) => Math.abs(row.score) + (Number.isFinite(row.error) ? row.error : 0)), 1e-30);
  const draw = (rows) => Promise.all(rows.map((row) => endRow(row, most, split, parts, probe.label)));
  const [helpedRows, hurtRows] = await Promise.all([draw(helped), draw(hurt)]);
  const column = (title, words, rows) => h("section", { class: "ends" }, h("h3", null, title), h("p", { class: "note" }, words),
    rows.length ? endRows(rows) : missing("none"));
  const nearest = later(ends.nearest.then(async (near) => (near.missing ? h("section", { class: "ends" }, h("h3", null, "Nearest"), missing(near.missing))
    : column("Nearest", `What looks alike to the model, by the input of ${near.layer}.`, await draw(near.rows)))), "Looking for the nearest …");
  if (!source.isServed) await nearest.isThere;
  const answer = probe.label === null ? "its loss" : `the loss on label ${probe.label}`;
  const wrong = probe.correct !== null && probe.correct < 0.5 && probe.prediction !== null;
  return h("div", { class: "end-columns" },
    column("Helped", `Proponents: their steps lowered ${answer}.`, helpedRows),
    column(wrong ? "Hurt: they led away from the right answer" : "Hurt", `Opponents: their steps raised ${answer}.`, hurtRows),
    nearest);
}
