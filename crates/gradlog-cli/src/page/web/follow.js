// A served page looks now and then whether the run has grown. The overview follows; other views offer it by a button.

const LOOK_WHILE_RECORDING = 3000;
const LOOK_OTHERWISE = 15000;

/** Draws all views anew from another state of the run. */
async function showState(found) {
  source.renew(found);
  const place = [window.scrollX, window.scrollY];
  drawn = null;
  await route();
  window.scrollTo(...place);
}

function drawFollow(found, lost) {
  const bar = document.getElementById("follow");
  const more = found.visits - source.state.visits;
  const isNew = found.state !== source.state.state;
  const words = lost ? "the server does not answer" : found.recording ? `recording · ${count(found.visits)} visits` : "";
  const offer = more > 0 ? `show ${count(more)} more visits` : "show the new state";
  bar.replaceChildren(...[
    words && h("span", { class: lost ? "warn" : "recording" }, words),
    isNew && !lost && h("button", { id: "show-more", type: "button", onclick: () => update(found) }, offer),
    h("input", { id: "open-example", type: "search", inputmode: "numeric", size: 9, placeholder: "example id", "aria-label": "open an example by its id",
      onkeydown: (event) => { if (event.key === "Enter" && /^\d+$/.test(event.target.value)) openExample(BigInt(event.target.value).toString()); } }),
  ].filter(Boolean));
  bar.hidden = false;
}

async function update(found) {
  await showState(found);
  drawFollow(found, false);
  announce(`${plural(found.visits, "visit")} so far`);
}

/** Whether a view may be drawn anew without taking anything from a reader. */
function mayFollow() {
  return readAddress().view.name === "overview" && currentExample() === null && !document.hidden;
}

let lastBar = "";

async function lookAgain() {
  let found = source.state;
  let lost = false;
  try {
    found = await source.look();
  } catch {
    lost = true;
  }
  if (found.state !== source.state.state && mayFollow()) {
    await update(found);
  } else {
    const bar = JSON.stringify([found, source.state, lost]);
    // What somebody types into the bar stays while nothing changes.
    if (bar !== lastBar && document.activeElement?.id !== "open-example") {
      drawFollow(found, lost);
      lastBar = bar;
    }
  }
  setTimeout(lookAgain, found.recording || lost ? LOOK_WHILE_RECORDING : LOOK_OTHERWISE);
}

/** Begins to follow. */
function follow() {
  source.dataNotes().then((notes) => {
    const place = document.getElementById("warning");
    place.textContent = tame(notes.map((note) => sentence(note.replace(/^(warning|note): /, ""))).join(" "));
    place.hidden = notes.length === 0;
  }, () => {});
  drawFollow(source.state, false);
  setTimeout(lookAgain, source.state.recording ? LOOK_WHILE_RECORDING : LOOK_OTHERWISE);
}
