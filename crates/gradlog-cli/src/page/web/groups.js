// Examples whose gradients point the same way: clusters and near-duplicates, as rows of pictures.

/** Of a cluster that is no more of one label than this, the other labels are no exceptions. */
const PURE = 0.5;

async function tilesOf(ids) {
  return Promise.all(ids.map(async (id) => exampleButton(id, labelText((await source.describe(id)).label))));
}

async function clusterRow(cluster, number) {
  const share = cluster.of_label === null || cluster.label === null ? null : cluster.of_label / cluster.size;
  const [nearest, odd] = await Promise.all([tilesOf(cluster.nearest), tilesOf(cluster.odd)]);
  return h("article", { class: "cluster" },
    h("div", { class: "cluster-head" },
      h("h3", null, `Cluster ${number + 1}`),
      h("p", { class: "note" }, `${plural(cluster.size, "example")}, cohesion ${cluster.cohesion.toFixed(2)}`),
      share !== null && h("p", { class: "note" }, h("b", { class: "chip" }, cluster.label), ` ${percent(share)}`)),
    h("div", null,
      h("div", { class: "tiles" }, nearest),
      cluster.odd.length > 0 && share >= PURE && h("div", { class: "odd" },
        h("p", { class: "note" }, `${plural(cluster.odd_count, "example")} of another label${cluster.odd_count > cluster.odd.length ? `, the ${cluster.odd.length} nearest to the center:` : ":"}`),
        h("div", { class: "tiles" }, odd))));
}

async function duplicatesPanel(part) {
  const found = part.duplicates;
  if (found.missing) return panel("Near-duplicates", null, missing(found.missing));
  const pairs = await Promise.all(found.pairs.map(async ([first, second, cosine]) => {
    const [a, b] = await Promise.all([source.describe(first), source.describe(second)]);
    return { first, second, cosine, differ: a.label !== b.label, tiles: await tilesOf([first, second]) };
  }));
  pairs.sort((a, b) => Number(b.differ) - Number(a.differ) || b.cosine - a.cosine);
  const most = found.pairs.length >= found.most ? ` These are the ${found.most} most alike.` : "";
  return panel("Near-duplicates", `Pairs whose gradients have a cosine of at least ${found.cosine.toFixed(2)}, those with different labels first.${most}`,
    pairs.length === 0 ? missing("none") : h("div", { class: "pairs" }, pairs.map((pair) =>
      h("div", { class: `pair${pair.differ ? " differ" : ""}` }, h("div", { class: "tiles" }, pair.tiles),
        h("p", { class: "note" }, `cosine ${pair.cosine.toFixed(3)}${pair.differ ? ", labels differ" : ""}`)))));
}

async function drawGroups(main) {
  const part = await source.groups();
  if (part.missing) {
    main.replaceChildren(panel("Groups", null, missing(part.missing)));
    return;
  }
  const head = await source.head();
  const rows = await Promise.all(part.clusters.map(clusterRow));
  const left = part.without_direction > 0 ? ` ${plural(part.without_direction, "example")} without a gradient are left out.` : "";
  main.replaceChildren(
    panel("Which kinds of example are there?",
      `Clusters of examples by the direction of their mean gradients: ${part.variant}. A cluster of mixed labels may hold wrong ones.${left}${head.runs.length > 1 ? ` Of ${head.runs[0].name}.` : ""}`,
      h("div", { class: "clusters" }, rows), wordList(["cohesion", "cosine"]), basisLine(part.basis)),
    await duplicatesPanel(part));
}
