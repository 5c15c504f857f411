// The page: which view is shown, by the part of the address behind `#`. So the browser's back button works.

const source = document.getElementById("part-served") ? servedSource() : embeddedSource();

const VIEWS = [
  { name: "overview", title: "Overview", draw: drawOverview },
  { name: "suspects", title: "Suspects", draw: drawSuspects },
  { name: "probes", title: "Probes", draw: drawProbes },
  { name: "map", title: "Map", draw: drawMap },
  { name: "groups", title: "Groups", draw: drawGroups },
  { name: "scores", title: "Scores", draw: drawScores },
];

/** The address behind `#`: `/view?name=value`. */
function readAddress() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  return { view: VIEWS.find((view) => view.name === path) ?? VIEWS[0], parameters: new URLSearchParams(query ?? "") };
}

function viewAddress(view) {
  return `#/${view}`;
}

function address(view, parameters) {
  const query = parameters.toString();
  return `#/${view}${query ? `?${query}` : ""}`;
}

/** Goes to a view. */
function go(view, parameters) {
  location.hash = address(view, new URLSearchParams(parameters));
}

/** What is drawn now: the address without the example. */
let drawn = null;

/** The address of a view without the example beside it. */
function viewKey(view, parameters) {
  const rest = new URLSearchParams(parameters);
  rest.delete("example");
  return address(view.name, rest);
}

/** Changes parameters without a new place to go back to. The view has drawn the change itself. */
function setParameters(changes) {
  const { view, parameters } = readAddress();
  for (const [name, value] of Object.entries(changes)) {
    if (value === null) parameters.delete(name);
    else parameters.set(name, value);
  }
  history.replaceState(null, "", address(view.name, parameters));
  drawn = viewKey(view, parameters);
}

function setParameter(name, value) {
  setParameters({ [name]: value });
}

function currentExample() {
  return readAddress().parameters.get("example");
}

/** Opens an example beside the view; back closes it. */
function openExample(id) {
  if (currentExample() === id) return;
  const { view, parameters } = readAddress();
  parameters.set("example", id);
  location.hash = address(view.name, parameters);
}

/** Shows another example in the column that is open. */
function followExample(id) {
  setParameter("example", id);
  tryExample(id);
}

/** Draws an example, or says why that cannot be. */
async function tryExample(id) {
  try {
    await drawExample(id);
  } catch (error) {
    if (currentExample() === id) refuseExample(id, error.message);
  }
}

let closedByHand = false;

function closeExample() {
  const id = currentExample();
  if (id === null) return;
  closedByHand = true;
  setParameter("example", null);
  hideExample();
  document.querySelector(`#main [data-id="${CSS.escape(id)}"]`)?.focus();
}

/** Draws what the address says; the view only if it is another. */
async function route() {
  const { view, parameters } = readAddress();
  const main = document.getElementById("main");
  const key = viewKey(view, parameters);
  for (const link of document.querySelectorAll("#views a")) {
    if (link.dataset.view === view.name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (drawn !== key) {
    drawn = key;
    window.scrollTo(0, 0);
    if (source.isServed) main.replaceChildren(panel(view.title, null, missing("The server is computing this …")));
    try {
      await view.draw(main, parameters);
    } catch (error) {
      if (drawn === key) main.replaceChildren(panel(view.title, null, missing(error.message),
        h("button", { type: "button", onclick: () => { drawn = null; route(); } }, "ask again")));
    }
    // Meanwhile another view may have been asked for.
    if (drawn !== key) return;
    main.dataset.view = view.name;
  }
  const example = currentExample();
  if (example === null) hideExample();
  else await tryExample(example);
  document.body.dataset.ready = key;
}

async function begin() {
  if (source.isServed) await source.look();
  const head = await source.head();
  const title = head.runs.map((run) => run.name).join(", ");
  document.getElementById("title").textContent = tame(title);
  document.getElementById("views").replaceChildren(...VIEWS.map((view) =>
    h("a", { href: viewAddress(view.name), "data-view": view.name }, view.title)));
  loadVerdicts(head.runs.map((run) => run.id));
  verdicts.listeners.add(drawVerdictBar);
  drawVerdictBar();
  drawKeys();
  window.addEventListener("hashchange", route);
  if (source.isServed) follow();
  await route();
}

begin().catch((error) => document.getElementById("main").replaceChildren(missing(error.message)));
