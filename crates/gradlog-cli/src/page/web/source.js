// The one interface between the panels and the data.
//
// Panels call these functions and await the answers. Here the answers come from JSON in the page; a server can give
// the same answers by other means, and no panel has to change.

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

  return {
    head: async () => part("head"),
    curves: async () => part("curves"),
    suspects: async () => part("suspects"),
    map: async () => part("map"),
    groups: async () => part("groups"),
    scores: async () => part("scores"),
    /** All probe sets, with what is known of their influence. */
    probeSets: async () => part("probes").sets || [],
    /** The visits of a training example, or null if the page does not hold them. */
    history: async (id) => histories()?.visits(id) ?? null,
    /** The ids of the training examples whose visits are there. */
    historyIds: async () => histories()?.ids ?? [],
    /** The records of a probe. */
    probeHistory: async (set, id) => once(`table:${set}`, () => new HistoryTable(setPart(set).history)).visits(id),
    /** The examples whose gradients point the same way: pairs of id and cosine. */
    neighbors: async (id) => part("groups").neighbors?.[id] ?? null,
    /** The pictures, texts or rows of the training examples (`train`) or of a probe set (`probe:NAME`). */
    cards: async (of) => part("cards")[of] ?? null,
  };
}
