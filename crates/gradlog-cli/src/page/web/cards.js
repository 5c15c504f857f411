// What stands for an example: its picture, its text, its row, or its id alone.

/** The cards of the training examples or of a probe set. */
class CardSet {
  constructor(part) {
    this.part = part;
    this.places = new Map();
    this.texts = new Map();
    this.images = [];
    if (!part) return;
    const sheets = part.sheets;
    Array.from(decodeArray(part.ids), String).forEach((id, at) => this.places.set(id, at));
    part.texts.ids.forEach((id, at) => this.texts.set(id, part.texts.values[at]));
    this.firsts = [];
    let first = 0;
    for (const sheet of sheets) {
      this.firsts.push(first);
      first += sheet.count;
    }
  }

  /** Whether there is anything but ids. */
  get isEmpty() {
    return this.places.size === 0 && this.texts.size === 0;
  }

  get hasPictures() {
    return this.places.size > 0;
  }

  /** The sheet's picture once it is decoded. */
  image(number) {
    this.images[number] ??= new Promise((resolve) => {
      const image = new Image();
      image.onload = () => resolve(image);
      image.src = `data:image/png;base64,${this.part.sheets[number].png}`;
    });
    return this.images[number];
  }

  /** Where a picture lies: sheet, corner and size. */
  find(id) {
    const at = this.places.get(id);
    if (at === undefined) return null;
    let number = this.firsts.length - 1;
    while (this.firsts[number] > at) number -= 1;
    const sheet = this.part.sheets[number];
    const place = at - this.firsts[number];
    const [width, height] = sheet.sizes ? sheet.sizes[place] : sheet.cell;
    const left = (place % sheet.across) * sheet.cell[0];
    const top = Math.floor(place / sheet.across) * sheet.cell[1];
    return { number, left, top, width, height };
  }
}

function pictureOf(set, id, place, name) {
  const canvas = h("canvas", { class: "picture", role: "img", "aria-label": `picture of ${name}` });
  canvas.width = place.width;
  canvas.height = place.height;
  set.image(place.number).then((image) => {
    const { left, top, width, height } = place;
    canvas.getContext("2d").drawImage(image, left, top, width, height, 0, 0, width, height);
  });
  return canvas;
}

/** The cells of a row under their columns. */
function rowOf(columns, cells, isLarge) {
  const pairs = cells.map((cell, at) => [columns[at] ?? "", cell]).filter(([, cell]) => cell !== "");
  if (isLarge) {
    return h("table", { class: "row-card" }, pairs.map(([column, cell]) =>
      h("tr", null, h("th", { scope: "row" }, column), h("td", null, cell))));
  }
  return h("span", { class: "text-card" }, pairs.map(([, cell]) => cell).join(" · "));
}

/** The card of an example: `of` is `train` or `probe:NAME`, `size` is `small` or `large`. */
async function cardOf(of, id, size) {
  const set = await source.cardSet(of, id);
  const name = of === "train" ? `example ${id}` : `probe ${id}`;
  const place = set.find(id);
  let inside;
  if (place) {
    inside = pictureOf(set, id, place, name);
  } else if (set.texts.has(id)) {
    const text = set.texts.get(id);
    inside = Array.isArray(text) ? rowOf(set.part.columns, text, size === "large") : h("span", { class: "text-card" }, text);
  } else {
    inside = h("span", { class: "id-card", "aria-label": name }, id);
  }
  return h("span", { class: `card ${size}` }, inside);
}

/** The label that the data has for an example, if the run recorded another. */
async function labelInData(of, id) {
  const set = await source.cardSet(of, id);
  return set.part?.labels?.[id] ?? null;
}

/** A button with the card of a training example, which opens it. */
async function exampleButton(id, caption, extra) {
  const card = await cardOf("train", id, "small");
  const about = await source.describe(id);
  const label = `example ${id}${about.label === null ? "" : `, label ${about.label}`}${extra ? `, ${extra}` : ""}`;
  return h("button", { class: "tile", type: "button", "aria-label": label, title: label, onclick: () => openExample(id) },
    card, caption && h("span", { class: "caption" }, caption));
}
