// Elements. Everything from a run becomes text by `textContent`, never HTML.

const SVG = "http://www.w3.org/2000/svg";

/** Text with its control characters made visible. */
function tame(text) {
  return String(text).replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, (c) => {
    const code = c.charCodeAt(0);
    return code < 0x20 ? String.fromCharCode(0x2400 + code) : "\ufffd";
  });
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, part] of Object.entries(value)) element.style.setProperty(key, part);
    else element.setAttribute(name, value === true ? "" : tame(value));
  }
  for (const child of children.flat(3)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(tame(child)));
  }
  return element;
}

/** An HTML element. */
function h(tag, properties, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** An SVG element. */
function s(tag, properties, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

/** Says something to a screen reader. */
function announce(words) {
  document.getElementById("live").textContent = tame(words);
}

/** A number in few digits. */
function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e5 || size < 1e-3 ? value.toExponential(1)
    : size >= 100 ? value.toFixed(0) : value.toPrecision(3);
  return text.replace("-", "−");
}

/** Words as a sentence: with a capital letter and a full stop. */
function sentence(words) {
  return `${words.charAt(0).toUpperCase()}${words.slice(1)}${/[.?!]$/.test(words) ? "" : "."}`;
}

/** A count with thin spaces between thousands. */
function count(value) {
  return String(value).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

/** A count and its noun. */
function plural(number, one, many) {
  return `${count(number)} ${number === 1 ? one : many || `${one}s`}`;
}

/** A share. What is not all is not rounded to all. */
function percent(share) {
  if (share === null || share === undefined) return "–";
  const text = (100 * share).toFixed(1);
  return share < 1 && text === "100.0" ? "99.9 %" : `${text} %`;
}

/** A label, or a dash. */
function labelText(label) {
  return label === null || label === undefined ? "–" : String(label);
}

/** A panel with a heading, a line that says what it shows, and its content. */
function panel(title, lead, ...children) {
  return h("section", { class: "panel" }, h("h2", null, title), lead && h("p", { class: "lead" }, lead), children);
}

/** What stands where the run cannot answer. */
function missing(words) {
  return h("p", { class: "missing" }, words);
}

/** A place that is filled when an answer comes; `isThere` says when. */
function later(answer, words) {
  const place = h("div", { class: "later", "aria-busy": "true" }, source.isServed && h("p", { class: "missing" }, words));
  place.isThere = answer.then((found) => place.replaceChildren(...[found].flat().filter(Boolean)),
    (error) => place.replaceChildren(missing(error.message))).then(() => place.removeAttribute("aria-busy"));
  return place;
}

/** What an answer rests on, small, below it. */
function basisLine(words) {
  return words ? h("p", { class: "basis" }, h("b", null, "Rests on "), words) : null;
}

/** Makes one stop of the Tab key out of many elements. The arrow keys go on from there. */
function oneStop(elements, chosen) {
  for (const one of elements) one.tabIndex = -1;
  const stop = chosen ?? elements[0];
  if (stop) stop.tabIndex = 0;
}

/** What words of the field mean, in a sentence. Names of scores are those of the command. */
const WORDS = {
  aum: "AUM, area under the margin: the mean margin of an example over its visits. Low where the model keeps saying another label.",
  margin: "The logit of the label minus the largest other logit. Below 0 the model says another label.",
  forgetting: "How often an example was predicted right at one visit and wrong at the next. Never learned: it was never predicted right.",
  el2n: "The length of the error vector, probabilities minus the label, as a mean over visits. Large where the model is far off.",
  grand: "The norm of the example's own gradient, as a mean over visits. Large where a step on it moves the model much.",
  "self-influence": "How much the steps on an example lowered its own loss. Large where the model learns it by itself, as outliers and wrong labels.",
  loss: "The mean loss over the visits of an example.",
  confidence: "The mean probability of the label over the visits of an example.",
  variability: "How much that probability varies from visit to visit, as a standard deviation.",
  cohesion: "The mean cosine between the gradients of a cluster and its center: 1 if all point the same way, 0 if they have nothing in common.",
  cosine: "1 for gradients that point the same way, so that a step on one does what a step on the other does; 0 for unrelated ones.",
  folded: "How the gradient of a layer is kept: added up into a short vector of random signs, which all such layers share.",
  factored: "How the gradient of a layer is kept: as its two factors, the input and the gradient of the output.",
};

/** What some words mean, behind a line that opens. */
function wordList(names) {
  const known = [...new Set(names)].filter((name) => Object.hasOwn(WORDS, name));
  if (known.length === 0) return null;
  return h("details", { class: "words-used" }, h("summary", null, "What these words mean"),
    h("dl", null, known.map((name) => [h("dt", null, name === "aum" ? "AUM" : name), h("dd", null, WORDS[name])])));
}

/** Draws again whenever the element gets another width. */
function drawToWidth(element, draw) {
  let last = 0;
  const look = () => {
    const width = Math.floor(element.clientWidth);
    if (width > 0 && width !== last) {
      last = width;
      draw(width);
    }
  };
  new ResizeObserver(look).observe(element);
  return element;
}
