// Answers from the server that the page comes from, for any example and any probe.

/** The rows of a page of the table, and the probes whose strongest examples are kept. */
const ENDS_OF_PROBE = 12;
const IDS_AT_ONCE = 150;
const KEPT_MAX = 20000;

/** Why the server did not answer, in its words. */
class Refused extends Error {
  constructor(status, words) {
    super(words);
    this.status = status;
  }
}

const wait = (milliseconds) => new Promise((resolve) => { setTimeout(resolve, milliseconds); });

/** Asks for JSON; waits and asks again where the server is busy. */
async function fetchJson(path, signal) {
  for (let tries = 0; ; tries += 1) {
    let reply;
    try {
      reply = await fetch(path, { signal, cache: "no-store", credentials: "omit" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused(0, "The server does not answer. Is `gradlog serve` still running?");
    }
    if (reply.ok) return reply.json();
    const words = (await reply.text()).trim();
    if (reply.status !== 503 || tries >= 30) throw new Refused(reply.status, words);
    await wait(2000);
  }
}

/** Collects what is asked for at the same time, and asks once for all of it. */
class Batch {
  constructor(ask) {
    this.ask = ask;
    this.known = new Map();
    this.wanted = [];
  }

  get(id) {
    if (!this.known.has(id)) {
      if (this.known.size >= KEPT_MAX) this.known.clear();
      this.known.set(id, new Promise((resolve, reject) => {
        if (this.wanted.length === 0) setTimeout(() => this.send(), 0);
        this.wanted.push({ id, resolve, reject });
      }));
    }
    return this.known.get(id);
  }

  send() {
    const all = this.wanted.splice(0);
    for (let at = 0; at < all.length; at += IDS_AT_ONCE) this.sendSome(all.slice(at, at + IDS_AT_ONCE));
  }

  async sendSome(wanted) {
    try {
      const find = await this.ask(wanted.map(({ id }) => id).join(","));
      wanted.forEach(({ id, resolve }) => resolve(find(id)));
    } catch (error) {
      wanted.forEach(({ id, reject }) => { this.known.delete(id); reject(error); });
    }
  }
}

/** A number of the command's JSON: infinities are words, and NaN is null. */
function readNumber(value) {
  if (value === null) return NaN;
  return typeof value === "number" ? value : value === "inf" ? Infinity : -Infinity;
}

/** What the command says of a probe, as the panels take it. */
function readEnds({ words, answer }, split, parts) {
  const rows = answer.rows.map((row) => ({
    id: String(row.example), score: readNumber(row.score), error: row.error === null ? NaN : readNumber(row.error), epoch: null, layer: null,
  }));
  const names = parts ? [...new Set(parts.answer.rows.map((row) => String(row[split])))] : [];
  if (parts) {
    const own = new Map();
    for (const row of parts.answer.rows) own.set(String(row.example), [...(own.get(String(row.example)) ?? []), readNumber(row.score)]);
    rows.forEach((row) => { row[split] = own.get(row.id) ?? null; });
  }
  return {
    variant: answer.variant, basis: answer.basis, words,
    helped: rows.filter((row) => row.score > 0),
    hurt: rows.filter((row) => row.score < 0).reverse(),
    parts: { epoch: split === "epoch" ? names : [], layer: split === "layer" ? names : [] },
    canSplit: answer.method === "tracin",
  };
}

function servedSource() {
  let kept = new Map();
  let state = null;
  const address = (path, parameters) => {
    const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== undefined));
    query.set("state", state.state);
    return `${path}?${query}`;
  };
  const ask = (path, parameters = {}, signal = undefined) => fetchJson(address(path, parameters), signal);
  /** Asked once for a state of the run; what failed is asked again. */
  const once = (name, make) => {
    if (!kept.has(name)) {
      const answer = make();
      const owner = kept;
      answer.catch(() => owner.delete(name));
      kept.set(name, answer);
    }
    return kept.get(name);
  };
  const always = (name, make) => {
    if (!kept.has(name)) kept.set(name, make());
    return kept.get(name);
  };
  /** A panel that the run cannot give is a sentence. */
  const panel = (name) => once(name, () => ask(name)).catch((error) => ({ missing: error.message }));
  const suspects = () => panel("suspects").then((found) => {
    const rows = new Map((found.rows ?? []).map((row, at) => [row.id, { ...row, rank: at + 1 }]));
    kept.set("suspects:read", rows);
    return found;
  });
  const described = () => always("batch:examples", () => new Batch(async (ids) => {
    const known = new Map((await ask("examples", { ids })).map((row) => [row.id, row]));
    return (id) => known.get(id) ?? { label: null, prediction: null };
  }));
  const histories = (set) => always(`batch:histories:${set}`, () => new Batch(async (ids) => {
    const table = new HistoryTable(await ask("histories", set === null ? { ids } : { ids, set }));
    return (id) => table.visits(id);
  }));
  const cards = (of) => always(`batch:cards:${of}`, () => new Batch(async (ids) => {
    const set = new CardSet(await ask("cards", { of, ids }));
    return () => set;
  }));
  const visits = () => once("visits:read", async () => {
    const found = await ask("visits");
    return found.missing ? null : new HistoryTable(found);
  });
  const setPart = async (set) => ((await panel("probes")).sets ?? []).find((one) => one.set === set);
  const wall = (set) => once(`wall:${set}`, async () => new HistoryTable((await setPart(set)).history));

  return {
    isServed: true,
    /** How far the run is; the first call must come before any other question. */
    look: async () => {
      const found = await fetchJson("state");
      state ??= found;
      return found;
    },
    /** The state that all answers are of. */
    get state() { return state; },
    /** From now on answers are of another state. */
    renew: (found) => {
      state = found;
      kept = new Map();
    },
    head: () => once("head", () => ask("head")),
    curves: () => panel("curves"),
    suspects,
    map: () => panel("map"),
    groups: () => panel("groups"),
    scores: async () => {
      const [head, found] = await Promise.all([once("head", () => ask("head")), once("scores", () => ask("scores"))]);
      return { ...found, examples: head.runs[0].examples, missing_scores: [] };
    },
    score: (name) => once(`score:${name}`, () => ask("score", { name })),
    rows: async ({ score, columns, sort, down, range, text, label, first, count: wanted }) => {
      const question = { score, columns: columns.join(","), sort, order: down ? "down" : "up", first, count: wanted, text };
      if (label !== null) question.label = label;
      if (range) {
        question.from = range[0];
        if (Number.isFinite(range[1])) question.to = range[1];
        if (range[2]) question.last = "";
      }
      const found = await ask("rows", question);
      for (const row of found.rows) for (const name of Object.keys(row.values)) row.values[name] = readNumber(row.values[name]);
      return found;
    },
    describe: async (id) => withSuspect(await described().get(id), kept.get("suspects:read")?.get(id) ?? null),
    suspectOf: async (id) => {
      await once("suspects:asked", suspects);
      return kept.get("suspects:read")?.get(id) ?? null;
    },
    /** A server that is gone is no run without probes. */
    probeSets: async () => (await once("probes", () => ask("probes")).catch((error) => {
      if (error.status === 0) throw error;
      return {};
    })).sets ?? [],
    ends: async (set, id, question, signal) => {
      const { split = "none", ...rest } = question;
      const base = { probe: set, id, ...rest };
      const asked = [ask("influence", { ...base, top: ENDS_OF_PROBE }, signal)];
      if (split !== "none") asked.push(ask("influence", { ...base, top: ENDS_OF_PROBE, by: split }, signal));
      try {
        const [whole, parts] = await Promise.all(asked);
        const nearest = ask("influence", { probe: set, id, nearest: ENDS_OF_PROBE }, signal).then(
          ({ answer }) => ({
            layer: answer.features,
            rows: answer.rows.filter((row) => row.role === "nearest").map((row) => ({ id: String(row.example), distance: row.distance })),
          }),
          (error) => ({ missing: error.message }));
        return { ...readEnds(whole, split, parts), nearest };
      } catch (error) {
        if (error.name === "AbortError") throw error;
        return { missing: error.message };
      }
    },
    history: (id) => histories(null).get(id),
    historyIds: async () => (await visits())?.ids ?? [],
    probeHistory: async (set, id) => (await wall(set)).visits(id) ?? histories(set).get(id),
    neighbors: (id) => once(`neighbors:${id}`, () => ask("neighbors", { id })),
    /** What a reader should know of the data of the examples. */
    dataNotes: async () => (await once("data", () => ask("data"))).notes,
    cardSet: (of, id) => cards(of).get(id),
  };
}
