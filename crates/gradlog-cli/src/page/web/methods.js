// How influence is measured: the options of `gradlog influence` that a server takes.

/** The options of a question, by their names in an address. */
const OPTIONS = ["method", "damping", "normalize", "curvature", "by-layer", "checkpoints", "optimizer", "epochs", "layers"];

/** The options that the page's address holds. */
function questionIn(parameters) {
  return source.isServed ? Object.fromEntries(OPTIONS.filter((name) => parameters.has(name)).map((name) => [name, parameters.get(name)])) : {};
}

/** Keeps the options in the page's address. */
function keepQuestion(asked) {
  if (!source.isServed) return;
  setParameters(Object.fromEntries(OPTIONS.map((name) => [name, asked[name] ?? null])));
}

/** Which options a method has a use for. */
const USES = {
  damping: ["if", "ekfac", "datainf", "trak"],
  normalize: ["tracin", "if", "ekfac"],
  curvature: ["if", "ekfac", "adjoint"],
  "by-layer": ["if", "datainf", "trak", "adjoint"],
  optimizer: ["tracin"],
  layers: ["tracin"],
};

/** A word as a shell takes it. */
function quoted(word) {
  return /^[\w.,:=/-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** The command that gives the same numbers. */
async function sameCommand(set, id, asked) {
  const head = await source.head();
  const options = OPTIONS.filter((name) => asked[name] !== undefined)
    .map((name) => (asked[name] === "1" && ["by-layer", "checkpoints"].includes(name) ? `--${name}` : `--${name}=${quoted(asked[name])}`));
  return ["gradlog influence", quoted(head.runs[0].path), `--probe=${quoted(set)}`, `--id=${id}`, ...options].join(" ");
}

/** A form for another method, other epochs, other settings. */
async function methodForm(set, id, asked, change) {
  const { methods, normalizations } = await source.scores();
  const method = asked.method ?? "tracin";
  const isUsed = (name) => !(name in USES) || USES[name].includes(method);
  const put = (name, value) => change({ [name]: value === "" ? undefined : value });
  const select = (name, words, choices, none) => isUsed(name) && h("label", null, words, h("select", { "data-option": name, onchange: (event) => put(name, event.target.value === none ? "" : event.target.value) },
    choices.map((one) => h("option", { value: one.name, title: one.about, selected: (asked[name] ?? none) === one.name }, one.name))));
  const text = (name, words, example) => isUsed(name) && h("label", null, words, h("input", { type: "search", size: 9, "data-option": name, placeholder: example, value: asked[name] ?? "",
    onchange: (event) => put(name, event.target.value.trim()) }));
  const check = (name, words) => isUsed(name) && h("label", null, h("input", { type: "checkbox", "data-option": name, checked: asked[name] !== undefined, onchange: (event) => put(name, event.target.checked ? "1" : "") }), words);
  const chooseMethod = h("select", { "data-option": "method", "aria-label": "method", onchange: (event) => {
    const next = event.target.value;
    // An option that the next method has no use for would be refused.
    const unused = Object.keys(USES).filter((name) => !USES[name].includes(next)).map((name) => [name, undefined]);
    change({ ...Object.fromEntries(unused), method: next === "tracin" ? undefined : next, split: "none" });
  } }, methods.map((one) => h("option", { value: one.name, selected: one.name === method }, one.name)));
  const about = methods.find((one) => one.name === method)?.about;
  const isOther = OPTIONS.some((name) => asked[name] !== undefined && name !== "method");
  return h("details", { class: "method", open: isOther || method !== "tracin" },
    h("summary", null, `Measured by ${method}`),
    h("div", { class: "tools" }, h("label", null, "method ", chooseMethod),
      text("damping", "damping ", "0.1"), select("normalize", "divided by ", normalizations, "none"), text("curvature", "curvature of ", "visits"),
      select("optimizer", "steps as ", [{ name: "recorded" }, { name: "sgd" }], "recorded"),
      text("epochs", "epochs ", "2..5"), text("layers", "layers ", "all"),
      check("by-layer", " layer by layer"), check("checkpoints", " at checkpoints")),
    about && h("p", { class: "note" }, sentence(about)),
    h("p", { class: "note" }, "The same in a terminal: ", h("code", null, await sameCommand(set, id, asked))));
}
