// The curves: loss, accuracy, learned and forgotten, of each run and each probe set.

/** The training and the probe sets of a run as series; `pick` takes the number out of a point. */
function seriesOf(found, names, pick) {
  const several = found.runs.length > 1;
  return found.runs.flatMap((run, at) => {
    const prefix = several ? `${names[at]}: ` : "";
    const x = (point) => (run.by_epoch ? point.epoch + 0.5 : point.steps[1]);
    const kind = (place) => (several ? `run-${at % 6}${place ? " dashed" : ""}` : `line-${Math.min(place, 5)}`);
    const own = { name: `${prefix}training`, kind: kind(0), points: run.points.map((point) => [x(point), pick(point)]) };
    const sets = run.probes.map((set, place) => ({
      name: `${prefix}probes “${set.set}”`, kind: kind(place + 1),
      points: set.points.map((point) => [run.by_epoch ? epochOf(run, point) : point.step, pick(point)]),
    }));
    return [own, ...sets];
  });
}

/** Where between epochs a probe time lies: probes are taken before a step. */
function epochOf(run, point) {
  const inside = run.points.find((one) => point.step <= one.steps[1]);
  if (!inside) return run.points[run.points.length - 1].epoch + 1;
  const [first, last] = inside.steps;
  return inside.epoch + Math.max(0, (point.step - first) / (last - first + 1));
}

/** The examples that were learned or forgotten at a point, from the visits that the page holds. */
async function changedAt(point, kind) {
  const ids = await source.historyIds();
  const [first, last] = point.steps;
  const found = [];
  for (const id of ids) {
    const visits = await source.history(id);
    for (let at = 1; at < visits.length; at += 1) {
      const [before, now] = [visits[at - 1].correct, visits[at].correct];
      if (before === null || now === null || visits[at].step < first || visits[at].step > last) continue;
      const changed = kind === "learned" ? before < 0.5 && now >= 0.5 : before >= 0.5 && now < 0.5;
      if (changed) {
        found.push({ id, margin: visits[at].margin });
        break;
      }
    }
  }
  return found.sort((a, b) => a.margin - b.margin);
}

const CHANGED_SHOWN = 60;

async function curvesPanel() {
  const [found, head] = await Promise.all([source.curves(), source.head()]);
  if (found.missing) return panel("Curves", null, missing(found.missing));
  const names = head.runs.map((run) => run.name);
  const byEpoch = found.runs.every((run) => run.by_epoch);
  const axis = byEpoch ? "epoch" : "step";
  const list = h("div", { class: "changed", "aria-live": "polite" });
  const choose = async (point, kind) => {
    const changed = await changedAt(point, kind);
    const tiles = await Promise.all(changed.slice(0, CHANGED_SHOWN).map(({ id }) => exampleButton(id)));
    const more = changed.length > CHANGED_SHOWN ? `, of which ${CHANGED_SHOWN} are shown` : "";
    list.replaceChildren(h("p", { class: "note" }, `${plural(changed.length, "example")} ${kind} ${point.name}, the lowest margin first${more}.`),
      h("div", { class: "tiles" }, tiles));
  };
  const points = found.runs[0].points.map((point) => ({
    ...point, at: byEpoch ? point.epoch : point.steps[1], name: byEpoch ? `in epoch ${point.epoch}` : `in steps ${point.steps.join(" to ")}`,
  }));
  const charts = h("div", { class: "charts" },
    lineChart(`Loss, by ${axis}`, seriesOf(found, names, (point) => point.loss), { x: axis }),
    lineChart(`Accuracy, by ${axis}`, seriesOf(found, names, (point) => point.correct ?? NaN), { x: axis, y: (value) => `${Math.round(1000 * value) / 10} %`, to: 1 }),
    changeBars(`Examples learned and forgotten, by ${axis}${names.length > 1 ? ` (${names[0]})` : ""}`, points, choose));
  return panel("How the training went",
    "Training points are means over the visits of an epoch, in training mode. Choose a bar to see which examples changed.", charts, list);
}
