// What the coordinator told us, and when. Nothing here touches the page.

const EVERY_MS = 2000;      // pause between two questions
const PATIENCE_MS = 6000;   // with one question
const STALE_MS = 7000;      // without an answer for so long, the page says so
const HISTORY_MS = 600000;  // what charts show
const GAP_MS = 9000;        // a pause in the samples that is not drawn over

const FLAGS = [
  [64, 'no quorum', 'bad'], [4, 'quarantine', 'bad'], [32, 'few replicas', 'warn'], [1, 'merging', 'warn'],
  [2, 'peer leaves', 'warn'], [8, 'learner', 'warn'], [16, 'silent peer', 'warn'], [128, 'spare replica', 'warn'],
];

const model = {
  head: null,            // the last answer without its regions
  regions: new Map(),    // by id
  sorted: [],            // by key
  since: '',
  answeredAt: 0,         // performance.now() of the last answer
  answeredOn: null,      // the same as a date
  failure: '',
  paused: false,
  history: [],           // {t, requests, writes, regions, bytes, lag, root}
};

function regionOf(row) {
  const peers = [];
  for (let n = 0; n < row[5].length; n += 2) peers.push([row[5][n], row[5][n + 1]]);
  return {
    id: row[0], start: bytesOf(row[1]), endGiven: row[2] === null ? null : bytesOf(row[2]), end: null,
    version: row[3], conf: row[4], peers, leader: row[6], bytes: row[7], requests: row[8], writes: row[9],
    lag: row[10], flags: row[11],
  };
}

const KEYS_END = new Uint8Array();

// Takes an answer in: all regions, or those that have changed.
function takeIn(answer) {
  if (answer.format !== 1) throw new Error('the coordinator speaks another version; load the page again');
  const rows = answer.regions;
  delete answer.regions;
  let moved = answer.full || answer.gone.length > 0;
  if (answer.full) model.regions.clear();
  for (const id of answer.gone) model.regions.delete(id);
  for (const row of rows) {
    const region = regionOf(row);
    const before = model.regions.get(region.id);
    moved = moved || !before || compareKeys(before.start, region.start) !== 0;
    model.regions.set(region.id, region);
  }
  if (moved || rows.length > 0) {
    model.sorted = moved
      ? [...model.regions.values()].sort((a, b) => compareKeys(a.start, b.start))
      : model.sorted.map(region => model.regions.get(region.id));
    // A region that says no end ends where the next begins.
    model.sorted.forEach((region, at) => {
      region.at = at;
      region.end = region.endGiven || (model.sorted[at + 1] ? model.sorted[at + 1].start : KEYS_END);
    });
  }
  model.head = answer;
  model.since = answer.since;
  model.answeredAt = performance.now();
  model.answeredOn = new Date();
  model.failure = '';
  remember(answer);
}

function remember(answer) {
  if (!answer.asked) return; // the stores have not said yet how much they are asked
  const totals = answer.totals, now = Date.now();
  model.history.push({
    t: now, requests: totals.requests, writes: totals.writes, regions: totals.regions, bytes: totals.bytes,
    lag: totals.replica_lag, root: totals.root_lag || 0,
  });
  while (model.history[0].t < now - HISTORY_MS) model.history.shift();
  keep('history:' + answer.self.id, JSON.stringify(model.history), sessionStorage);
}

// History from before the page was loaded again.
function recall(id) {
  try {
    const known = JSON.parse(kept('history:' + id, sessionStorage) || '[]');
    const fresh = known.filter(sample => sample.t > Date.now() - HISTORY_MS && sample.t <= Date.now());
    model.history = fresh.concat(model.history);
  } catch { /* it was written by something else */ }
}

// Browsers may refuse to keep anything; the page does without.
function keep(name, value, where = localStorage) { try { where.setItem('nokv:' + name, value); } catch { /* does without */ } }
function kept(name, where = localStorage) { try { return where.getItem('nokv:' + name); } catch { return null; } }

async function ask(path) {
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), PATIENCE_MS);
  try {
    const reply = await fetch(path, { signal: stop.signal, cache: 'no-store' });
    if (!reply.ok) throw new Error('it answered ' + reply.status + ': ' + (await reply.text()).slice(0, 200));
    return await reply.json();
  } finally {
    clearTimeout(timer);
  }
}

// Asks for ever; `changed` runs after every answer and every failure.
async function follow(changed) {
  for (;;) {
    if (!model.paused) {
      try {
        const first = model.head === null;
        const answer = await ask('api/cluster?since=' + encodeURIComponent(model.since));
        if (first) recall(answer.self.id);
        takeIn(answer);
      } catch (error) {
        model.failure = error.name === 'AbortError' ? 'no answer in ' + span(PATIENCE_MS)
        : error instanceof TypeError ? 'it cannot be reached'
        : error instanceof SyntaxError ? 'something else answers in its place' : error.message;
      }
      changed();
    }
    const isFirst = model.head !== null && !model.head.asked;
    await new Promise(done => setTimeout(done, isFirst ? EVERY_MS / 4 : EVERY_MS));
  }
}

// Milliseconds since the last answer; null before the first.
const silence = () => model.head ? performance.now() - model.answeredAt : null;

// Colours that people with any kind of colour vision tell apart; from the ninth store on they come again, hatched.
const COLOURS = ['#2f74b0', '#e3a430', '#1f9a76', '#cf88b2', '#74bdea', '#d2622f', '#c3b52f', '#595d66'];
let storeRanks = new Map();

function rankStores() {
  storeRanks = new Map(model.head.stores.map((store, rank) => [store.id, rank]));
}

function colourOf(store) {
  const rank = storeRanks.get(store);
  return rank === undefined ? { fill: '#8a8f98', second: false } : { fill: COLOURS[rank % 8], second: rank % 16 >= 8 };
}
