// Small charts, drawn as SVG: lines, bars, histograms, and the strip of an example's visits.

/** Round numbers between two ends, about as many as asked for. */
function ticks(from, to, about) {
  if (!(to > from)) return [from];
  const raw = (to - from) / about;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((times) => times * power).find((size) => size >= raw * 0.999);
  const found = [];
  for (let at = Math.ceil(from / step - 1e-9); at * step <= to + step * 1e-9; at += 1) found.push(at * step);
  return found;
}

function tickText(value) {
  return (Math.abs(value) < 1e-12 ? 0 : Number(value.toPrecision(6))).toString().replace("-", "−");
}

/** The smallest and the largest finite number. */
function extent(values) {
  const finite = values.filter(Number.isFinite);
  return finite.length === 0 ? [0, 1] : [finite.reduce((a, b) => Math.min(a, b)), finite.reduce((a, b) => Math.max(a, b))];
}

/** Axes of a chart: a frame with ticks, and functions from numbers to pixels. */
function axes(width, height, xs, ys, options) {
  const [x0, x1] = xs;
  const [y0, y1] = ys[0] === ys[1] ? [ys[0] - 0.5, ys[1] + 0.5] : ys;
  const up = ticks(y0, y1, 4).map((at) => [at, options.y ? options.y(at) : tickText(at)]);
  // Seven pixels are enough for a digit.
  const margin = { left: Math.max(40, 10 + 7 * Math.max(...up.map(([, text]) => text.length))), right: 10, top: 8, bottom: 24 };
  const x = (value) => margin.left + ((value - x0) / (x1 - x0 || 1)) * (width - margin.left - margin.right);
  const y = (value) => height - margin.bottom - ((value - y0) / (y1 - y0)) * (height - margin.top - margin.bottom);
  const across = ticks(x0, x1, Math.max(2, Math.floor(width / 80))).filter((at) => !options.whole || Number.isInteger(at));
  const frame = s("g", { class: "axes" },
    up.map(([at, text]) => [
      s("line", { x1: margin.left, x2: width - margin.right, y1: y(at), y2: y(at), class: "grid" }),
      s("text", { x: margin.left - 6, y: y(at) + 3.5, "text-anchor": "end" }, text),
    ]),
    across.map((at) => {
      const text = tickText(at);
      // At the right end half of a long number would be cut off.
      const isCut = x(at) + 3.5 * text.length > width;
      return s("text", { x: isCut ? width : x(at), y: height - 8, "text-anchor": isCut ? "end" : "middle" }, text);
    }));
  return { x, y, frame, margin };
}

/** Lines over a common axis. `series` are { name, points: [[x, y]], kind }. */
function lineChart(title, series, options) {
  const height = options.height || 170;
  const box = h("figure", { class: "chart" }, h("figcaption", null, title));
  const canvas = h("div", { class: "chart-box" });
  box.append(canvas);
  const points = series.flatMap((one) => one.points).filter(([, value]) => Number.isFinite(value));
  if (points.length === 0) {
    canvas.append(missing("not recorded"));
    return box;
  }
  const xs = extent(points.map(([at]) => at));
  const found = extent(points.map(([, value]) => value));
  const ys = [options.from ?? Math.min(found[0], 0), options.to ?? found[1]];
  drawToWidth(canvas, (width) => {
    const { x, y, frame } = axes(width, height, xs, ys, { whole: options.whole, y: options.y });
    const lines = series.map((one) => {
      const known = one.points.filter(([, value]) => Number.isFinite(value));
      const path = known.map(([at, value], n) => `${n ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("");
      const dots = known.map(([at, value]) => s("circle", { cx: x(at), cy: y(value), r: known.length > 30 ? 1.5 : 2.5 },
        s("title", null, `${one.name}, ${options.x || "at"} ${tickText(at)}: ${options.y ? options.y(value) : short(value)}`)));
      return s("g", { class: `series ${one.kind}` }, s("path", { d: path }), dots);
    });
    canvas.replaceChildren(s("svg", { width, height, role: "img", "aria-label": `${title}: ${describeSeries(series, options)}` }, frame, lines));
  });
  if (series.length > 1) {
    box.append(h("div", { class: "legend" }, series.map((one) => h("span", { class: `key ${one.kind}` }, one.name))));
  }
  return box;
}

function describeSeries(series, options) {
  return series.map((one) => {
    const known = one.points.filter(([, value]) => Number.isFinite(value));
    const text = (value) => (options.y ? options.y(value) : short(value));
    return known.length ? `${one.name} from ${text(known[0][1])} to ${text(known[known.length - 1][1])}` : `${one.name} not recorded`;
  }).join("; ");
}

/** Bars upward and downward by epoch: learned above, forgotten below. Each bar is a button. */
function changeBars(title, points, onChoose) {
  const height = 170;
  const box = h("figure", { class: "chart" }, h("figcaption", null, title));
  const canvas = h("div", { class: "chart-box" });
  box.append(canvas);
  const known = points.filter((point) => point.learned !== null);
  if (known.length === 0) {
    canvas.append(missing("not recorded, or several predictions a visit"));
    return box;
  }
  const up = Math.max(1, ...known.map((point) => point.learned));
  const down = Math.max(1, ...known.map((point) => point.forgotten));
  drawToWidth(canvas, (width) => {
    const at = (number) => points[number].at;
    const step = points.length > 1 ? at(1) - at(0) : 1;
    const range = [at(0) - step / 2, at(points.length - 1) + step / 2];
    const { x, y, frame } = axes(width, height, range, [-down, up], { whole: true, y: (value) => count(Math.abs(value)) });
    const wide = Math.max(2, Math.min(36, 0.7 * (x(range[0] + step) - x(range[0]))));
    const bar = (point, kind, value, top, bottom) => {
      const words = `${plural(value, "example")} ${kind} ${point.name}`;
      const choose = () => onChoose(point, kind);
      return s("g", {
        class: `bar ${kind}`, role: "button", tabindex: 0, "aria-label": `${words}: show them`, onclick: choose,
        onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(); } },
      }, s("rect", { x: x(point.at) - wide / 2, y: top, width: wide, height: Math.max(1, bottom - top) }), s("title", null, words));
    };
    const bars = known.map((point) => [
      bar(point, "learned", point.learned, y(point.learned), y(0)),
      bar(point, "forgotten", point.forgotten, y(0), y(-point.forgotten)),
    ]);
    canvas.replaceChildren(s("svg", { width, height, role: "group", "aria-label": title }, frame, bars));
  });
  box.append(h("div", { class: "legend" }, h("span", { class: "key learned" }, "learned"), h("span", { class: "key forgotten" }, "forgotten")));
  return box;
}

/** Whether a visit was right, as the name of a class. */
function rightness(visit) {
  return visit.correct === null ? "unknown" : visit.correct >= 0.5 ? "right" : "wrong";
}

/** The margin at each visit, small, with a line at zero and a dot for each visit: filled if it was wrong. */
function sparkline(visits, width, height) {
  const hasMargins = visits.some((visit) => Number.isFinite(visit.margin));
  const value = (visit) => (hasMargins ? visit.margin : visit.loss);
  const known = visits.filter((visit) => Number.isFinite(value(visit)));
  const what = hasMargins ? "margin" : "loss";
  if (known.length === 0) return h("span", { class: "spark-none" }, "");
  const found = extent(known.map(value));
  const [low, high] = [Math.min(found[0], 0), Math.max(found[1], 0)];
  const x = (at) => 4 + (at / Math.max(1, known.length - 1)) * (width - 8);
  const y = (number) => height - 4 - ((number - low) / (high - low || 1)) * (height - 8);
  const words = `${what} at ${plural(known.length, "visit")}: ${known.slice(0, 12).map((visit) => short(value(visit))).join(", ")}`;
  const path = known.map((visit, at) => `${at ? "L" : "M"}${x(at).toFixed(1)} ${y(value(visit)).toFixed(1)}`).join("");
  return s("svg", { class: "spark", width, height, role: "img", "aria-label": words },
    s("line", { x1: 0, x2: width, y1: y(0), y2: y(0), class: "zero" }),
    s("path", { d: path }),
    known.length <= 40 && known.map((visit, at) => s("circle", { cx: x(at), cy: y(value(visit)), r: 2.6, class: rightness(visit) })),
    s("title", null, words));
}

/** All visits of an example: margin or loss over steps, dots by rightness, the prediction beside a wrong one. */
function visitChart(visits, what, title) {
  const height = 150;
  const box = h("figure", { class: "chart" }, h("figcaption", null, title));
  const canvas = h("div", { class: "chart-box" });
  box.append(canvas);
  const known = visits.filter((visit) => Number.isFinite(visit[what]));
  if (known.length === 0) {
    canvas.append(missing("not recorded"));
    return box;
  }
  const found = extent(known.map((visit) => visit[what]));
  const ys = [Math.min(found[0], 0), Math.max(found[1], 0)];
  const room = 0.12 * (ys[1] - ys[0] || 1);
  drawToWidth(canvas, (width) => {
    const xs = extent(known.map((visit) => visit.step));
    const { x, y, frame } = axes(width, height, xs, [ys[0] - (ys[0] < 0 ? room : 0), ys[1] + room], { whole: true });
    const path = known.map((visit, at) => `${at ? "L" : "M"}${x(visit.step).toFixed(1)} ${y(visit[what]).toFixed(1)}`).join("");
    const dots = known.map((visit) => {
      const says = visit.prediction === null ? "" : `, predicted ${visit.prediction}`;
      const words = `epoch ${visit.epoch}, step ${visit.step}: ${what} ${short(visit[what])}${says}, ${rightness(visit)}`;
      const isWrong = rightness(visit) === "wrong" && visit.prediction !== null && known.length <= 40;
      return s("g", { class: `dot ${rightness(visit)}` },
        s("circle", { cx: x(visit.step), cy: y(visit[what]), r: known.length > 60 ? 2 : 4 }, s("title", null, words)),
        isWrong && s("text", { x: x(visit.step), y: y(visit[what]) - 8, "text-anchor": "middle" }, visit.prediction));
    });
    canvas.replaceChildren(s("svg", { width, height, role: "img", "aria-label": `${title}, ${plural(known.length, "visit")}` }, frame,
      s("line", { class: "zero", x1: x(xs[0]), x2: x(xs[1]), y1: y(0), y2: y(0) }), s("path", { class: "visit-line", d: path }), dots));
  });
  return box;
}
