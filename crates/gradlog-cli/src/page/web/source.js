// The one interface between the panels and the data.
//
// Panels call these functions and await the answers. Here the answers come from JSON in the page. `served.js` gets the
// same from a server, and no panel can tell.

const KINDS = {
  u8: Uint8Array, u16: Uint16Array, u32: Uint32Array, u64: BigUint64Array, f32: Float32Array,
};

/** Numbers from base64, as the page holds them. */
function decodeArray(packed) {
  const text = atob(packed.bytes);
  const raw = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at += 1) raw[at] = text.charCodeAt(at);
  return new KINDS[packed.kind](raw.buffer);
}

/** Whether a number stands for no label. */
function isNoLabel(array, at) {
  return array[at] === 2 ** (8 * array.BYTES_PER_ELEMENT) - 1;
}

/** The label at a place of an array, or null. */
function labelAt(array, at) {
  return isNoLabel(array, at) ? null : array[at];
}

/** The curves of several examples, laid out one after another. */
class HistoryTable {
  constructor(part) {
    this.columns = {};
    for (const name of ["step", "epoch", "loss", "margin", "confidence", "correct", "prediction", "label"]) {
      this.columns[name] = decodeArray(part[name]);
    }
    // A share of right predictions that is neither 0 nor 1 tells that a visit has several.
    this.hasShares = this.columns.correct.some((share) => share !== 0 && share !== 100 && share !== 255);
    this.start = decodeArray(part.start);
    this.places = new Map();
    this.ids = Array.from(decodeArray(part.ids), String);
    this.ids.forEach((id, at) => this.places.set(id, at));
  }

  /** The visits of one example, or null. */
  visits(id) {
    const at = this.places.get(id);
    if (at === undefined) return null;
    const { step, epoch, loss, margin, confidence, correct, prediction, label } = this.columns;
    const visits = [];
    for (let row = this.start[at]; row < this.start[at + 1]; row += 1) {
      const share = correct[row] === 255 ? null : correct[row] / 100;
      visits.push({
        step: Number(step[row]),
        epoch: epoch[row],
        loss: loss[row],
        margin: margin[row],
        confidence: confidence[row],
        correct: this.hasShares ? null : share,
        share,
        prediction: labelAt(prediction, row),
        label: labelAt(label, row),
      });
    }
    return visits;
  }
}

/** The rows of a table in order: what has no number comes last, ties go by place. */
function sortRows(rows, column, down) {
  const sign = down ? -1 : 1;
  return rows.sort((a, b) => {
    const [first, second] = [column[a], column[b]];
    if (Number.isNaN(first) || Number.isNaN(second)) return Number(Number.isNaN(first)) - Number(Number.isNaN(second)) || a - b;
    if (first === second) return a - b;
    return first < second ? -sign : sign;
  });
}

/** The table of scores that a page holds. */
class ScoreTable {
  constructor(part) {
    this.names = part.scores.map(({ score }) => score);
    this.ids = Array.from(decodeArray(part.ids), String);
    this.labels = decodeArray(part.label);
    this.predictions = decodeArray(part.prediction);
    const known = (array) => Float64Array.from(array, (_, at) => labelAt(array, at) ?? NaN);
    this.columns = { example: Float64Array.from(this.ids, Number), label: known(this.labels), prediction: known(this.predictions) };
    for (const name of this.names) this.columns[name] = decodeArray(part.columns[name]);
  }

  /** See `rows` of a source. */
  page({ score, columns, sort, down, range, text, label, first, count: wanted }) {
    const own = this.columns[score];
    let rows = [...this.ids.keys()];
    if (range) {
      const [low, high, isLast] = range;
      rows = rows.filter((at) => own[at] >= low && (high === Infinity || (isLast ? own[at] <= high * (1 + 1e-6) + 1e-12 : own[at] < high)));
    }
    if (label !== null) rows = rows.filter((at) => labelAt(this.labels, at) === label);
    if (text !== "") rows = rows.filter((at) => this.ids[at].includes(text));
    sortRows(rows, this.columns[sort], down);
    const shown = rows.slice(first, first + wanted).map((at) => ({
      id: this.ids[at], label: labelAt(this.labels, at), prediction: labelAt(this.predictions, at),
      values: Object.fromEntries([score, ...columns].map((name) => [name, this.columns[name][at]])),
    }));
    return { examples: this.ids.length, total: rows.length, rows: shown };
  }
}

/** What is known of every example that a page holds: label, proposed label, suspicion. */
function knownExamples(suspects, scores) {
  const known = new Map();
  if (scores.ids) {
    const [labels, predictions] = [decodeArray(scores.label), decodeArray(scores.prediction)];
    Array.from(decodeArray(scores.ids), String).forEach((id, at) => {
      known.set(id, withSuspect({ label: labelAt(labels, at), prediction: labelAt(predictions, at) }, null));
    });
  }
  (suspects.rows ?? []).forEach((row, at) => {
    const before = known.get(row.id);
    known.set(row.id, withSuspect({ label: row.label, prediction: before?.prediction ?? null }, { ...row, rank: at + 1 }));
  });
  return known;
}

/** An example with its proposed label: that of the suspects, else the last prediction where it differs. */
function withSuspect({ label, prediction }, suspect) {
  const last = prediction === label ? null : prediction;
  return { label, prediction, suspect, proposed: suspect?.proposed ?? last };
}

/** Answers from the JSON inside the page. */
function embeddedSource() {
  const read = new Map();
  const part = (name) => {
    if (!read.has(name)) {
      const block = document.getElementById(`part-${name}`);
      read.set(name, block ? JSON.parse(block.textContent) : { missing: "this page does not hold it" });
    }
    return read.get(name);
  };
  const once = (name, make) => {
    if (!read.has(name)) read.set(name, make());
    return read.get(name);
  };
  const histories = () => once("table:histories", () => {
    const found = part("histories");
    return found.missing ? null : new HistoryTable(found);
  });
  const setPart = (set) => (part("probes").sets || []).find((one) => one.set === set);
  const unknown = { label: null, proposed: null, prediction: null, suspect: null };

  return {
    isServed: false,
    head: async () => part("head"),
    curves: async () => part("curves"),
    suspects: async () => part("suspects"),
    map: async () => part("map"),
    groups: async () => part("groups"),
    /** The scores that there are, without their numbers. */
    scores: async () => part("scores"),
    /** One score: what it is, what it rests on, its histogram. */
    score: async (name) => part("scores").scores.find(({ score }) => score === name),
    /**
     * A page of the table of examples: `score` is what a range is of, `columns` are other scores, `sort` names a column.
     * Returns how many rows there are in all, and the rows with their values by score.
     */
    rows: async (question) => once("table:scores", () => new ScoreTable(part("scores"))).page(question),
    /** What is known of an example: label, last prediction, proposed label, and its row among the suspects. */
    describe: async (id) => once("examples", () => knownExamples(part("suspects"), part("scores"))).get(id) ?? unknown,
    /** The row of an example among the suspects, or null. */
    suspectOf: async (id) => once("examples", () => knownExamples(part("suspects"), part("scores"))).get(id)?.suspect ?? null,
    /** All probe sets, with their probes. */
    probeSets: async () => part("probes").sets || [],
    /** The strongest examples of a probe, and the nearest. `question` is for a server. */
    ends: async (set, id) => embeddedEnds(setPart(set), id),
    /** The visits of a training example, or null if the page does not hold them. */
    history: async (id) => histories()?.visits(id) ?? null,
    /** The ids of the training examples whose visits are there. */
    historyIds: async () => histories()?.ids ?? [],
    /** The records of a probe. */
    probeHistory: async (set, id) => once(`table:${set}`, () => new HistoryTable(setPart(set).history)).visits(id),
    /** The examples whose gradients point the same way: pairs of id and cosine. */
    neighbors: async (id) => part("groups").neighbors?.[id] ?? null,
    /** The set of cards that holds the picture, text or row of an example: `of` is `train` or `probe:NAME`. */
    cardSet: async (of) => once(`cards:${of}`, () => new CardSet(part("cards")[of] ?? null)),
  };
}
