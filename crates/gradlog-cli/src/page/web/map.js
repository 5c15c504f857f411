// The data map: confidence by variability, colored by correctness. A rectangle chooses examples.

const LISTED = 120;

/** The numbers of the map, decoded once. */
function decodeMap(part) {
  part.decoded ??= {
    ids: decodeArray(part.ids), y: decodeArray(part.confidence), x: decodeArray(part.variability),
    correctness: decodeArray(part.correctness), region: decodeArray(part.region), label: decodeArray(part.label),
  };
  return part.decoded;
}

/** Colors of points by correctness, from the style sheet. */
function mapColors() {
  const style = getComputedStyle(document.documentElement);
  const name = (at) => style.getPropertyValue(`--map-${at}`).trim();
  return [0, 1, 2, 3, 4].map(name);
}

const EDGE = { left: 44, right: 12, top: 10, bottom: 34 };

/** A view of the map: numbers to pixels. */
function mapPlace(width, height, part) {
  const x = (variability) => EDGE.left + (variability / part.variability_max) * (width - EDGE.left - EDGE.right);
  const y = (confidence) => height - EDGE.bottom - confidence * (height - EDGE.top - EDGE.bottom);
  return { x, y };
}

function drawPoints(canvas, width, height, part, only) {
  const scale = window.devicePixelRatio || 1;
  canvas.width = width * scale;
  canvas.height = height * scale;
  canvas.style.height = `${height}px`;
  const { ids, x, y, correctness, label } = decodeMap(part);
  const place = mapPlace(width, height, part);
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  const style = getComputedStyle(document.documentElement);
  context.strokeStyle = style.getPropertyValue("--line");
  context.fillStyle = style.getPropertyValue("--muted");
  context.font = "11px system-ui, sans-serif";
  for (const at of [0, 0.25, 0.5, 0.75, 1]) {
    context.beginPath();
    context.moveTo(EDGE.left, place.y(at));
    context.lineTo(width - EDGE.right, place.y(at));
    context.stroke();
    context.textAlign = "right";
    context.fillText(String(at), EDGE.left - 6, place.y(at) + 4);
    context.textAlign = "center";
    context.fillText(String(at / 2), place.x(at / 2), height - 20);
  }
  context.fillText("variability of p(label) over the visits", (width + EDGE.left) / 2, height - 5);
  context.save();
  context.translate(11, height / 2);
  context.rotate(-Math.PI / 2);
  context.fillText("confidence: mean p(label)", 0, 0);
  context.restore();
  const colors = mapColors();
  const size = ids.length > 50000 ? 1.5 : ids.length > 10000 ? 2 : ids.length > 1000 ? 3 : 5;
  context.globalAlpha = ids.length > 10000 ? 0.5 : 0.75;
  for (let tone = colors.length - 1; tone >= 0; tone -= 1) {
    context.fillStyle = colors[tone];
    for (let at = 0; at < ids.length; at += 1) {
      const own = correctness[at] === 255 ? 2 : Math.min(4, Math.floor(correctness[at] / 20.1));
      if (own !== tone || (only !== null && label[at] !== only)) continue;
      context.fillRect(place.x((x[at] / 65534) * part.variability_max) - size / 2, place.y(y[at] / 65534) - size / 2, size, size);
    }
  }
  context.globalAlpha = 1;
  context.fillStyle = style.getPropertyValue("--ink");
  context.font = "600 12.5px system-ui, sans-serif";
  context.strokeStyle = style.getPropertyValue("--panel");
  context.lineWidth = 4;
  const name = (words, across, up, align) => {
    context.textAlign = align;
    context.strokeText(words, place.x(across), place.y(up));
    context.fillText(words, place.x(across), place.y(up));
  };
  name("easy to learn", 0.02, 0.94, "left");
  name("hard to learn", 0.02, 0.03, "left");
  name("ambiguous", 0.49, 0.52, "right");
}

/** The points inside a rectangle of the map, the lowest confidence first, as the map holds them. */
function pointsInside(part, box, only) {
  const { ids, x, y, label } = decodeMap(part);
  const [left, right] = [box.left, box.right].map((at) => (at / part.variability_max) * 65534);
  const [low, high] = [box.low, box.high].map((at) => at * 65534);
  const found = [];
  for (let at = 0; at < ids.length; at += 1) {
    if (x[at] >= left && x[at] <= right && y[at] >= low && y[at] <= high && (only === null || label[at] === only)) found.push(at);
  }
  return found;
}

async function listPoints(target, part, found, words) {
  const { ids, label } = decodeMap(part);
  const tiles = await Promise.all(found.slice(0, LISTED).map((at) => exampleButton(String(ids[at]), labelText(labelAt(label, at)))));
  const counts = new Map();
  for (const at of found) counts.set(labelAt(label, at), (counts.get(labelAt(label, at)) ?? 0) + 1);
  const byLabel = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 12);
  target.replaceChildren(
    h("p", { class: "note" }, `${plural(found.length, part.thinned ? "drawn point" : "example")} ${words}, the lowest confidence first${found.length > LISTED ? `; ${LISTED} are shown` : ""}.`),
    byLabel.length > 1 && h("p", { class: "by-label" }, byLabel.map(([name, number]) => h("span", null, h("b", { class: "chip" }, labelText(name)), ` ${count(number)}`))),
    h("div", { class: "tiles" }, tiles));
}

async function drawMap(main) {
  const part = await source.map();
  if (part.missing) {
    main.replaceChildren(panel("Data map", null, missing(part.missing)));
    return;
  }
  const { region, label } = decodeMap(part);
  const labels = [...new Set(label)].filter((one) => one !== 2 ** (8 * label.BYTES_PER_ELEMENT) - 1).sort((a, b) => a - b);
  const state = { only: null, box: { left: 0, right: 0.15, low: 0, high: 0.3 } };
  const canvas = h("canvas", { class: "map-canvas" });
  const brush = h("div", { class: "brush", tabindex: 0, role: "group", "aria-label": "chosen rectangle: arrow keys move it, shift and arrow keys change its size" });
  const stage = h("div", { class: "map-stage" }, canvas, brush);
  const list = h("div", { class: "map-list", "aria-live": "polite" });
  let size = [0, 0];

  const showBrush = () => {
    const place = mapPlace(...size, part);
    const { left, right, low, high } = state.box;
    Object.assign(brush.style, {
      left: `${place.x(left)}px`, top: `${place.y(high)}px`,
      width: `${place.x(right) - place.x(left)}px`, height: `${place.y(low) - place.y(high)}px`,
    });
  };
  const choose = () => {
    showBrush();
    const { left, right, low, high } = state.box;
    const words = `in the rectangle, with confidence ${low.toFixed(2)} to ${high.toFixed(2)} and variability ${left.toFixed(2)} to ${right.toFixed(2)}`;
    listPoints(list, part, pointsInside(part, state.box, state.only), words);
  };
  const redraw = () => drawPoints(canvas, ...size, part, state.only);

  const clamp = (value, most) => Math.max(0, Math.min(most, value));
  const at = (event) => {
    const frame = canvas.getBoundingClientRect();
    const across = (event.clientX - frame.left - EDGE.left) / (frame.width - EDGE.left - EDGE.right);
    const up = (size[1] - EDGE.bottom - (event.clientY - frame.top)) / (size[1] - EDGE.top - EDGE.bottom);
    return [clamp(across, 1) * part.variability_max, clamp(up, 1)];
  };
  stage.addEventListener("pointerdown", (event) => {
    const [fromX, fromY] = at(event);
    stage.setPointerCapture(event.pointerId);
    const move = (moved) => {
      const [toX, toY] = at(moved);
      state.box = { left: Math.min(fromX, toX), right: Math.max(fromX, toX), low: Math.min(fromY, toY), high: Math.max(fromY, toY) };
      showBrush();
    };
    stage.addEventListener("pointermove", move);
    const end = () => {
      stage.removeEventListener("pointermove", move);
      choose();
    };
    stage.addEventListener("pointerup", end, { once: true });
    stage.addEventListener("pointercancel", end, { once: true });
    event.preventDefault();
    brush.focus();
  });
  brush.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!steps) return;
    event.preventDefault();
    event.stopPropagation();
    const [across, up] = [steps[0] * part.variability_max * 0.02, steps[1] * 0.02];
    const box = state.box;
    if (event.shiftKey) {
      box.right = Math.max(box.left + 0.01, clamp(box.right + across, part.variability_max));
      box.high = Math.max(box.low + 0.01, clamp(box.high + up, 1));
    } else {
      const [wide, tall] = [box.right - box.left, box.high - box.low];
      box.left = clamp(box.left + across, part.variability_max - wide);
      box.low = clamp(box.low + up, 1 - tall);
      [box.right, box.high] = [box.left + wide, box.low + tall];
    }
    choose();
  });

  const regions = [["easy to learn", 1], ["ambiguous", 2], ["hard to learn", 4]].map(([name, bit], place) => h("button", {
    type: "button",
    onclick: () => {
      brush.style.width = "0";
      listPoints(list, part, [...region.keys()].filter((one) => region[one] & bit && (state.only === null || label[one] === state.only)), name);
    },
    title: `the ${percent(part.share)} with ${["the highest confidence", "the highest variability", "the lowest confidence"][place]}, wherever they lie`,
  }, `${name}: ${percent(part.share)} (${count(part.regions[place])})`));
  const only = h("select", { "aria-label": "label", onchange: (event) => {
    state.only = event.target.value === "" ? null : Number(event.target.value);
    redraw();
    choose();
  } }, h("option", { value: "" }, "all labels"), labels.slice(0, 1000).map((one) => h("option", { value: one }, `label ${one}`)));
  const thinned = part.thinned ? `Of ${count(part.examples)} examples ${count(part.shown)} points are drawn: ${part.thinned}.` : null;

  main.replaceChildren(h("section", { class: "panel" }, h("h2", null, "Which are easy, ambiguous, hard to learn?"),
    h("p", { class: "lead" }, "Each point is an example. Drag a rectangle to list its examples, or move it by the arrow keys (with shift: its size)."),
    thinned && h("p", { class: "alarm" }, thinned),
    h("div", { class: "tools" }, only, regions),
    h("div", { class: "map-columns" },
      h("div", null, stage, h("div", { class: "legend" }, "share of right predictions: ",
        ["0–20 %", "20–40", "40–60", "60–80", "80–100 %"].map((words, tone) => h("span", { class: `key map-${tone}` }, words)))),
      list),
    wordList(["confidence", "variability"]),
    basisLine(part.basis)));
  drawToWidth(stage, (width) => {
    size = [width, Math.max(280, Math.min(560, Math.round(width * 0.75)))];
    redraw();
    showBrush();
  });
  matchMedia("(prefers-color-scheme: dark)").onchange = redraw;
  choose();
}
