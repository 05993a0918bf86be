// Everything but charts and the map: health, tiles, tables, what is under way, the lease, one region.

const MARKS = { healthy: ['●', 'good'], note: ['○', 'dim'], degraded: ['▲', 'warn'], unavailable: ['■', 'bad'], unknown: ['○', 'dim'] };
const WORDS = { healthy: 'Healthy', degraded: 'Degraded', unavailable: 'Not serving everything' };

function mark(level) {
  const [sign, kind] = MARKS[level] || MARKS.unknown;
  return make('span', { class: kind, 'aria-hidden': 'true' }, sign);
}

function swatch(store) {
  const colour = colourOf(store), node = make('span', { class: 'swatch' + (colour.second ? ' second' : ''), 'aria-hidden': 'true' });
  node.style.backgroundColor = colour.fill;
  return node;
}

// ---- health ----

function showHealth(head) {
  const { state, problems } = head.health, wrong = problems.filter(problem => problem.level !== 'note').length;
  const sign = find('health-mark'), [glyph, kind] = MARKS[state];
  tell(sign, glyph);
  sign.className = 'mark ' + kind;
  tell(find('health-word'), WORDS[state] + (wrong ? ': ' + (wrong === 1 ? 'one thing is wrong' : whole(wrong) + ' things are wrong') : ''));
  const up = head.stores.filter(isUp).length, led = model.sorted.filter(region => region.leader !== 0).length;
  const lease = head.state.lease, roots = head.roots.filter(root => root.answers).length;
  tell(find('health-sum'), [
    up + ' of ' + many(head.stores.length, 'store') + ' up',
    whole(led) + ' of ' + many(model.sorted.length, 'region') + ' led',
    lease.cert_generation ? 'lease generation ' + lease.cert_generation + ' with ' + lease.holder_id : 'no lease yet',
    head.asked ? roots + ' of ' + head.roots.length + ' meta-roots answer' : 'asking the meta-roots',
  ].join(' · '));
  sync(find('problems'), problems, problem => problem.text, problem => problem.level + problem.next, problem =>
    make('li', {}, mark(problem.level), make('span', {}, make('span', { class: 'sr' }, problem.level + ': '), problem.text), make('code', {}, problem.next)));
  document.title = (wrong ? glyph + ' ' : '') + 'NoKV · ' + head.self.id;
  tell(find('who'), head.self.id + (head.self.holds_lease ? ' · holds the lease' : ' · stands by'));
}

function showStandby(head) {
  const box = find('standby');
  box.hidden = head.self.holds_lease;
  if (head.self.holds_lease) return;
  const holder = head.coordinators.find(one => one.holds_lease);
  const where = holder ? holder.id + ' at ' + holder.addr + ' holds it' : head.self.standby;
  const link = holder && consoleOf(holder);
  const look = where + link;
  if (box.look === look) return;
  box.look = look;
  box.replaceChildren('This coordinator stands by for the lease: ' + where + '. What the scheduler does is known there. ',
    link ? make('a', { href: link }, 'Open the console of ' + holder.id) : '');
}

// The address of another coordinator's page; a host that means "any" is the one it serves clients on.
function consoleOf(coordinator) {
  const parts = /^([\w.-]*|\[[0-9a-f:.]+\]):(\d+)$/i.exec(coordinator.console || '');
  if (!parts) return null;
  const any = ['', '0.0.0.0', '[::]'].includes(parts[1]);
  const host = any ? coordinator.addr.replace(/:\d+$/, '') : parts[1];
  if (!/^[\w.\-[\]:]+$/.test(host)) return null;
  return location.protocol + '//' + host + ':' + parts[2] + '/';
}

// ---- who is there ----

const isUp = store => store.up && store.answers !== false, isWell = store => isUp(store) && !store.read_only;

function storeState(store) {
  if (!store.up) return store.age_ms === null ? 'never heard of' : 'silent for ' + span(store.age_ms);
  if (store.answers === false) return 'does not answer';
  if (store.read_only) return 'takes no new data';
  return store.decommissioning ? (store.peers === 0 ? 'emptied' : 'being emptied') : 'up';
}

function tile(kind, parts) {
  const { level, name, addr, lines, disk, extra, colour } = parts;
  return make('li', { class: 'tile ' + kind }, make('div', { class: 'top' }, mark(level), colour || null, make('b', {}, name), make('span', { class: 'addr', title: addr }, addr)),
    disk || null, ...lines.filter(Boolean).map(line => make('p', line.startsWith('!') ? { class: 'bad' } : { class: 'dim' }, line.replace(/^!/, ''))), extra || null);
}

const look = item => JSON.stringify(item);

function showTiles(head) {
  sync(find('roots'), head.roots, root => root.id, look, root => tile(root.answers === false ? 'down' : root.leader ? 'lead' : '', {
    level: root.answers === null ? 'unknown' : root.answers ? 'healthy' : 'degraded', name: 'meta-root-' + root.id, addr: root.addr,
    lines: root.answers ? [(root.leader ? 'leads' : 'follows') + ' · term ' + root.term + ' · applied ' + whole(root.applied)]
      : [root.answers === null ? 'not asked yet' : '!does not answer: ' + root.error],
  }));
  const coordinators = [...head.coordinators].sort((a, b) => (a.id || a.addr) < (b.id || b.addr) ? -1 : 1);
  sync(find('coordinators'), coordinators, one => one.addr, look, one => {
    const link = !one.self && consoleOf(one);
    const name = one.id || 'coordinator';
    return tile(one.answers === false ? 'down' : one.holds_lease ? 'lead' : '', {
      level: one.answers ? (one.root_available ? 'healthy' : 'degraded') : 'degraded', name, addr: one.addr,
      lines: one.answers ? [(one.holds_lease ? 'holds the lease' : 'stands by') + (one.root_available ? ' · root lag ' + whole(one.root_lag) : ''),
        one.root_available ? '' : '!cannot reach the meta-roots'] : ['!does not answer: ' + one.error],
      extra: one.self ? make('p', { class: 'dim' }, 'this one') : link ? make('p', {}, make('a', { href: link }, 'its console')) : null,
    });
  });
  find('stores').classList.toggle('many', head.stores.length > 12);
  const brief = store => look([store.id, store.addr, store.up, storeState(store).replace(/[\d.]+ s/, ''), store.error, store.capacity, size(store.available), store.leaders, store.peers]);
  sync(find('stores'), head.stores, store => store.id, brief, store => tile(isWell(store) ? '' : 'down', {
    level: isWell(store) ? 'healthy' : 'degraded', name: 'store-' + store.id, addr: store.addr, colour: swatch(store.id),
    disk: diskBar(store),
    lines: [
      isWell(store) && !store.decommissioning ? '' : (isWell(store) ? '' : '!') + storeState(store).replace(/ for .*/, '') + (store.error && store.up ? ': ' + store.error : ''),
      many(store.leaders, 'leader') + ' · ' + many(store.peers, 'replica'),
      store.capacity ? size(store.available) + ' of ' + size(store.capacity) + ' free' : 'disk not known',
    ],
  }));
}

function diskBar(store) {
  if (!store.capacity) return null;
  const used = 1 - store.available / store.capacity;
  return draw('svg', { class: 'disk', viewBox: '0 0 100 6', preserveAspectRatio: 'none', role: 'img', 'aria-label': 'disk ' + Math.round(used * 100) + ' % used' },
    draw('rect', { class: 'all', width: 100, height: 6, rx: 1 }), draw('rect', { class: 'used' + (used > .9 ? ' full' : ''), width: Math.max(.5, used * 100), height: 6, rx: 1 }));
}

function showLegend(head) {
  const counts = new Map();
  for (const region of model.sorted) counts.set(region.leader, (counts.get(region.leader) || 0) + 1);
  const entries = head.stores.map(store => ({ id: store.id, count: counts.get(store.id) || 0 }));
  if (counts.get(0)) entries.push({ id: 0, count: counts.get(0) });
  const asked = find('search').value.trim();
  sync(find('legend'), entries, entry => entry.id, entry => look([entry, asked === 'leader:' + entry.id]), entry => {
    const typed = 'leader:' + entry.id, pressed = asked === typed;
    return make('li', {}, make('button', { type: 'button', 'aria-pressed': String(pressed), onclick: () => search(pressed ? '' : typed) },
      entry.id ? swatch(entry.id) : make('span', { class: 'swatch none' }), entry.id ? 'store-' + entry.id + ' leads ' + whole(entry.count) : 'nobody leads ' + whole(entry.count)));
  });
  const group = map.cells.length < model.sorted.length;
  tell(find('space-help'), model.sorted.length === 0 ? 'No region is known.'
    : (group ? 'A cell is ' + many(Math.ceil(model.sorted.length / map.cells.length), 'neighbouring region') + '. ' : '')
      + 'Colour: who leads. Dark foot: requests. Cut corner: something is odd. Hatched: nobody leads. Arrow keys move, Enter opens.');
}

// ---- hot ranges ----

const HEATS = [
  { name: 'requests', title: 'requests', note: 'Requests a second, as leaders counted them in the last second.', none: 'Nobody asked any region in the last second.', value: region => region.requests, show: value => rate(value) + ' /s' },
  { name: 'writes', title: 'writes', note: 'Entries a second in the logs of regions, between two heartbeats of their leaders.', none: 'No log has grown between the last two heartbeats.', value: region => region.writes, show: value => rate(value) + ' /s' },
  { name: 'size', title: 'size', note: 'The largest regions: bytes of keys and values. Large is not hot.', none: 'No size is known yet.', value: region => region.bytes, show: size },
];
let heat = HEATS[0];

function showHot() {
  const rows = model.sorted.filter(region => heat.value(region) > 0).sort((a, b) => heat.value(b) - heat.value(a)).slice(0, 8);
  const most = rows.length ? heat.value(rows[0]) : 1;
  tell(find('hot-note'), rows.length ? heat.note : heat.none);
  sync(find('hot'), rows, region => region.id, region => look([heat.name, region.leader, region.version, heat.value(region), most]), region => {
    const colour = colourOf(region.leader);
    return make('li', {}, make('button', { type: 'button', onclick: () => openRegion(region.id), title: startText(region) + ' … ' + endText(region) },
      'region ' + region.id + '  ', make('span', { class: 'key dim' }, startText(region) + ' … ' + endText(region))),
    make('span', { class: 'num' }, heat.show(heat.value(region))),
    draw('svg', { viewBox: '0 0 100 4', preserveAspectRatio: 'none', 'aria-hidden': 'true' }, draw('rect', { class: 'all', width: 100, height: 4 }),
      draw('rect', { fill: colour.fill, width: Math.max(.5, 100 * heat.value(region) / most), height: 4 })));
  });
}

// ---- under way ----

function operatorNode(record) {
  const way = [record.from ? 'store-' + record.from : '', record.to ? 'store-' + record.to : ''].filter(Boolean).join(' → ');
  const time = record.state === 'running' ? 'for ' + span(record.age_ms) : span(Math.max(0, record.age_ms - record.took_ms)) + ' ago, took ' + span(record.took_ms);
  const level = { running: 'note', done: 'healthy', cancelled: 'degraded' }[record.state];
  return make('li', {}, make('div', { class: 'top' }, mark(level), make('b', {}, record.kind), regionLink(record.region), way, make('span', { class: 'time' }, time)),
    make('p', {}, 'why: ' + record.reason), record.progress && record.progress !== record.state ? make('p', {}, (record.state === 'running' ? 'now: ' : record.state + ': ') + record.progress) : null);
}

function regionLink(id) {
  return make('a', { href: '#region-' + id, onclick: event => { event.preventDefault(); openRegion(id); } }, 'region ' + id);
}

function transitionNode(entry) {
  return make('li', {}, make('div', { class: 'top' }, mark('note'), make('b', {}, transitionWords(entry.id)), regionLink(entry.region),
    entry.planned ? 'planned at the meta-root' : '', make('span', { class: 'time' }, 'seen here for ' + span(entry.seen_ms))),
  make('p', {}, make('span', { class: 'key' }, entry.id)));
}

function transitionWords(id) {
  const part = id.split(':');
  if (part[0] === 'peer') return (part[2] === 'add' ? 'peer ' + part[4] + ' comes to store-' : 'peer ' + part[4] + ' leaves store-') + part[3];
  if (part[0] === 'split') return 'split';
  return part[0] === 'merge' ? 'merge into region ' + part[2] : 'change';
}

function showWork(head) {
  const operators = head.operators || [], running = operators.filter(record => record.state === 'running'), ended = operators.filter(record => record.state !== 'running');
  const items = [
    ...running.map(record => ({ key: 'o' + record.id, node: () => operatorNode(record), look: look([record.progress, span(record.age_ms)]) })),
    ...head.transitions.slice(0, 30).map(entry => ({ key: 't' + entry.id, node: () => transitionNode(entry), look: span(entry.seen_ms) })),
    ...(head.waiting || []).map(text => ({ key: 'w' + text, node: () => make('li', {}, make('div', { class: 'top' }, mark('note'), make('b', {}, 'waiting')), make('p', {}, text)), look: '' })),
  ];
  sync(find('work'), items, item => item.key, item => item.look, item => item.node());
  const none = head.operators === null ? 'Only the holder of the lease knows what its scheduler does.' : 'The scheduler has nothing to do.';
  const more = head.transitions.length > 30 ? 'And ' + whole(head.transitions.length - 30) + ' more changes; nokv transitions lists them.' : '';
  tell(find('work-note'), running.length + (head.waiting || []).length === 0 ? none + (head.transitions.length ? ' Regions change by themselves:' : '') : more);
  find('ended-box').hidden = ended.length === 0;
  tell(find('ended-sum'), ended.length + ' ended lately');
  if (find('ended-box').open) sync(find('ended'), ended, record => record.id, record => span(Math.max(0, record.age_ms - record.took_ms)), operatorNode);
}

// ---- tables ----

// A table that is sorted by clicking its titles and walked through with the arrow keys.
function setUpTable(node, columns, options) {
  const table = { node, columns, by: null, down: false, ...options };
  const changed = () => options.show();
  table.heads = columns.map(column => {
    const button = make('button', { type: 'button', onclick: () => { table.down = table.by === column ? !table.down : Boolean(column.num); table.by = column; changed(); } }, column.title);
    return make('th', { scope: 'col', class: column.num ? 'num' : null }, button);
  });
  table.body = make('tbody');
  node.append(make('thead', {}, make('tr', {}, ...table.heads)), table.body);
  table.body.addEventListener('keydown', event => {
    const rows = [...table.body.children], at = rows.indexOf(event.target);
    if (at < 0) return;
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1, PageDown: at + 10, PageUp: at - 10 }[event.key];
    if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); rows[at].click(); }
    if (to === undefined) return;
    event.preventDefault();
    rows[Math.max(0, Math.min(rows.length - 1, to))].focus();
  });
  table.body.addEventListener('focusin', event => rove(table, event.target.closest('tr')));
  return table;
}

// One row of a table is reached with Tab, the others from there.
function rove(table, row) {
  for (const other of table.body.children) other.tabIndex = other === row ? 0 : -1;
}

function sorted(table, rows) {
  table.columns.forEach((column, at) => {
    if (table.by === column) table.heads[at].setAttribute('aria-sort', table.down ? 'descending' : 'ascending');
    else table.heads[at].removeAttribute('aria-sort');
  });
  if (!table.by) return rows;
  const { value } = table.by, sign = table.down ? -1 : 1;
  const order = (a, b) => a instanceof Uint8Array ? compareKeys(a, b) : a < b ? -1 : a > b ? 1 : 0;
  return [...rows].sort((a, b) => sign * order(value(a), value(b)));
}

function fillTable(table, rows) {
  const cells = row => table.columns.map(column => column.text(row));
  sync(table.body, rows, row => row.id, row => look([cells(row), table.isDown(row)]), row =>
    make('tr', { tabindex: -1, class: table.isDown(row) ? 'down' : null, onclick: () => table.open(row) }, ...table.columns.map(column => {
      const text = column.text(row);
      return make('td', { class: column.num ? 'num' : column.kind || null, title: column.kind === 'key' ? text : null }, column.icon ? column.icon(row) : null, column.node ? column.node(row, text) : text);
    })));
  const reached = [...table.body.children].some(row => row.tabIndex === 0);
  if (!reached && table.body.firstChild) table.body.firstChild.tabIndex = 0;
}

const STORE_COLUMNS = [
  { title: 'Store', value: store => store.id, text: store => 'store-' + store.id, icon: store => swatch(store.id) },
  { title: 'Address', value: store => store.addr, text: store => store.addr, kind: 'addr' },
  { title: 'State', value: storeState, text: storeState, icon: store => make('span', {}, mark(isWell(store) ? 'healthy' : 'degraded'), ' ') },
  { title: 'Leaders', num: true, value: store => store.leaders, text: store => whole(store.leaders) },
  { title: 'Replicas', num: true, value: store => store.peers, text: store => whole(store.peers) },
  { title: 'Data', num: true, value: store => store.bytes, text: store => size(store.bytes) },
  { title: 'Requests/s', num: true, value: store => store.requests, text: store => rate(store.requests) },
  { title: 'Writes/s', num: true, value: store => store.writes, text: store => rate(store.writes) },
  { title: 'Disk free', num: true, value: store => store.available, text: store => store.capacity ? size(store.available) : '–' },
  { title: 'Used', num: true, value: store => store.capacity ? 1 - store.available / store.capacity : 0, text: store => store.capacity ? Math.round(100 * (1 - store.available / store.capacity)) + ' %' : '–' },
  { title: 'Heard', num: true, value: store => store.age_ms === null ? Infinity : store.age_ms, text: store => store.age_ms === null ? 'never' : span(store.age_ms) + ' ago' },
];

const edgeNode = (region, side, text) => region[side].length ? make('span', { class: text.startsWith('0x') ? 'hex' : null, dir: 'ltr' }, text) : make('span', { class: 'edge' }, text);
const stateOf = region => (region.leader === 0 && !(region.flags & 64) ? ['no leader'] : []).concat(oddities(region).map(flag => flag[1])).join(', ');

const REGION_COLUMNS = [
  { title: 'Region', value: region => region.id, text: region => String(region.id) },
  { title: 'From', value: region => region.start, text: startText, kind: 'key', node: (region, text) => edgeNode(region, 'start', text) },
  { title: 'To', value: region => region.at, text: endText, kind: 'key', node: (region, text) => edgeNode(region, 'end', text) },
  { title: 'Leader', value: region => region.leader, text: region => region.leader ? 'store-' + region.leader : 'nobody', icon: region => region.leader ? swatch(region.leader) : null },
  { title: 'Replicas on', value: region => region.peers.length, text: region => region.peers.map(peer => peer[0]).sort((a, b) => a - b).join(' ') },
  { title: 'Size', num: true, value: region => region.bytes, text: region => size(region.bytes) },
  { title: 'Requests/s', num: true, value: region => region.requests, text: region => rate(region.requests) },
  { title: 'Writes/s', num: true, value: region => region.writes, text: region => rate(region.writes) },
  { title: 'Lag', num: true, value: region => region.lag, text: region => whole(region.lag) },
  { title: 'State', value: region => region.flags + (region.leader ? 0 : 256), text: stateOf, kind: 'wrap' },
];

const PAGE_ROWS = 25;
let storeTable, regionTable, page = 0;

function setUpTables() {
  storeTable = setUpTable(find('store-table'), STORE_COLUMNS, {
    show: showStores, isDown: store => !isWell(store),
    open: store => { search('store:' + store.id); find('search').scrollIntoView({ block: 'center' }); find('search').focus(); },
  });
  regionTable = setUpTable(find('region-table'), REGION_COLUMNS, {
    show: () => { page = 0; showRegions(); }, isDown: region => region.leader === 0 || Boolean(region.flags & 64), open: region => openRegion(region.id),
  });
}

function showStores() {
  if (model.head) fillTable(storeTable, sorted(storeTable, model.head.stores));
}

function showRegions() {
  const found = map.question ? model.sorted.filter(map.question) : model.sorted;
  // The region of that number comes before the one that holds the number as a key.
  const named = found.findIndex(region => String(region.id) === find('search').value.trim());
  if (named > 0) found.unshift(...found.splice(named, 1));
  const pages = Math.max(1, Math.ceil(found.length / PAGE_ROWS));
  page = Math.max(0, Math.min(page, pages - 1));
  fillTable(regionTable, sorted(regionTable, found).slice(page * PAGE_ROWS, (page + 1) * PAGE_ROWS));
  tell(find('found'), map.question ? many(found.length, 'region') + ' of ' + whole(model.sorted.length) : many(found.length, 'region'));
  const pager = find('pager');
  if (pages === 1) { pager.replaceChildren(); return; }
  if (!pager.firstChild) {
    const step = by => () => { page += by; showRegions(); };
    pager.append(make('button', { type: 'button', onclick: step(-1) }, 'Previous'), make('span', { class: 'dim' }), make('button', { type: 'button', onclick: step(1) }, 'Next'));
  }
  const [previous, place, next] = pager.children;
  previous.disabled = page === 0;
  next.disabled = page === pages - 1;
  tell(place, 'page ' + (page + 1) + ' of ' + pages);
}

// Looks for regions: in the list, and in the map, where the others fade.
function search(typed) {
  const field = find('search');
  if (field.value !== typed) field.value = typed;
  map.question = questionOf(typed);
  page = 0;
  paintMap();
  showRegions();
  if (model.head) showLegend(model.head);
}

// ---- lease, fences ----

function timeOf(timestamp) {
  const whole = BigInt(timestamp || 0);
  if (whole === 0n) return null;
  return new Date(Number(whole >> 18n));
}

function moment(timestamp) {
  const date = timeOf(timestamp);
  if (!date) return 'none';
  // One that did not begin as a clock's reading is only a number.
  if (date.getFullYear() < 2020) return String(timestamp);
  return date.toLocaleTimeString() + ' (' + timestamp + ')';
}

function facts(node, rows) {
  sync(node, rows.filter(row => row[1]).flatMap(row => [{ key: 'k' + row[0], tag: 'dt', text: row[0] }, { key: 'v' + row[0], tag: 'dd', text: row[1] }]),
    item => item.key, item => item.text, item => make(item.tag, {}, item.text));
}

const DUTIES = { alloc_id: 'ids', tso: 'timestamps', get_region_by_key: 'routes', lease_start: 'lease start' };

function showLease(head) {
  const { lease, seal, audit, allocator, root, gc } = head.state;
  const covered = audit.successor_frontier_coverage.map(row => (DUTIES[row.duty_name] || row.duty_name) + (row.covered ? ' covered' : ' not covered'));
  const stage = audit.closure_stage === 'unspecified' ? 'not recorded yet' : audit.closure_stage.replace('_', ' ');
  facts(find('lease'), [
    ['Holder', lease.holder_id ? lease.holder_id + (lease.held_by_self ? ' (this one)' : '') : 'nobody yet'],
    ['Phase', lease.phase + (lease.cert_generation ? ', generation ' + lease.cert_generation : '')],
    ['Life', span(lease.ttl_nanos / 1e6) + ' without renewal, renewed ' + span(lease.renew_before_nanos / 1e6) + ' before its end at the latest'],
    ['Trusted here', lease.usable_by_self ? 'yes: this one hands out ids and timestamps' : 'no' + (head.self.standby ? ': ' + head.self.standby : '')],
    ['Last seal', audit.seal_generation ? 'generation ' + seal.cert_generation + ' of ' + seal.holder_id + ', sealed by ' + (seal.by_root ? 'the meta-root, because it was silent' : 'itself') : 'none yet'],
    ['Successor', audit.seal_generation ? (audit.successor_present ? covered.join(', ') || 'nothing to cover' : 'none yet') : ''],
    ['Hand-over', audit.seal_generation ? stage + (audit.closure_defect ? ': ' + audit.closure_defect.replace('_', ' ') : audit.closure_satisfied ? ', proved' : '') : ''],
  ]);
  const served = root.served_token, newest = root.current_token;
  facts(find('fences'), [
    ['Meta-root', root.available ? 'reached; log seen up to ' + whole(served.index) + ', term ' + served.term : 'cannot be reached' + (root.last_reload_error ? ': ' + root.last_reload_error : '')],
    ['Root lag', root.root_lag ? whole(root.root_lag) + ' entries behind ' + whole(newest.index) : 'none: nothing newer has been heard of'],
    ['Ids', lease.usable_by_self ? 'up to ' + whole(Number(allocator.id_current)) + ' handed out, fence at ' + whole(Number(allocator.id_window_high)) : 'handed out by the holder of the lease'],
    ['Timestamps', lease.usable_by_self ? 'up to ' + moment(allocator.tso_current) : ''],
    ['Their fence', lease.usable_by_self ? moment(allocator.tso_window_high) : ''],
    ['Safe point', gc.safe_point && gc.safe_point !== '0' ? moment(gc.safe_point) : 'not raised yet; versions live for ' + span(gc.life_ms)],
    ['Its target', gc.target && gc.target !== '0' ? moment(gc.target) + ', ' + many(gc.holds, 'hold') : ''],
  ]);
}

// ---- one region ----

let opened = null;

async function openRegion(id) {
  opened = id;
  const dialog = find('region');
  tell(find('region-title'), 'Region ' + id);
  find('region-body').replaceChildren(make('p', { class: 'dim' }, 'asking…'));
  if (!dialog.open) dialog.showModal();
  await refreshRegion();
}

async function refreshRegion() {
  const id = opened;
  if (id === null) return;
  let answer = null, why = '';
  try { answer = await ask('api/region?id=' + id); } catch (error) { why = error.message; }
  if (opened !== id) return;
  const body = find('region-body');
  // What somebody is reading or copying stays as it is.
  const selection = getSelection();
  if (body.childElementCount > 1 && (body.contains(document.activeElement) || (selection && !selection.isCollapsed && body.contains(selection.anchorNode)))) return;
  body.replaceChildren(...(answer ? regionNodes(answer) : [make('p', { class: 'bad' }, 'No answer: ' + why)]));
}

function regionNodes(answer) {
  const start = bytesOf(answer.start), end = bytesOf(answer.end);
  const bound = (bytes, none) => bytes.length === 0 ? make('span', { class: 'edge' }, none)
    : make('span', {}, make('span', { class: 'key', dir: 'ltr' }, keyForPeople(bytes).text), make('br'), make('span', { class: 'key hex' }, '0x' + hexOf(bytes)));
  const state = replica => [replica.up ? '' : 'store is down', replica.silent ? 'silent' : '', replica.leaving ? 'leaves' : '', replica.quarantined ? 'in quarantine' : ''].filter(Boolean).join(', ') || 'well';
  const cell = (value, show) => value === null ? '–' : show(value);
  const facts = [
    ['From', bound(start, 'the first key')], ['To', bound(end, 'the last key')],
    ['Epoch', 'version ' + answer.version + ', configuration ' + answer.conf_version + (answer.merging ? ', being merged' : '')],
    ['Requests', rate(answer.requests) + ' a second'], ['Writes', rate(answer.writes) + ' log entries a second'],
    ['Size', size(answer.bytes) + (answer.measured ? ' of keys and values, all versions' : answer.bytes ? ' or less: guessed from the bounds of tables' : ' or more: not measured yet')],
    ['Split', answer.fill ? (answer.fill / 10).toFixed(1) + ' % of what makes it split' : 'not known'],
  ];
  const rows = answer.replicas.map(replica => make('tr', { class: replica.up ? null : 'down' },
    make('td', {}, swatch(replica.store), 'store-' + replica.store), make('td', { class: 'num' }, String(replica.peer)), make('td', {}, replica.role),
    make('td', { class: 'num' }, cell(replica.applied, whole)), make('td', { class: 'num' }, cell(replica.lag, whole)), make('td', { class: 'num' }, cell(replica.term, whole)),
    make('td', { class: 'num' }, cell(replica.heard_ms, ms => span(ms) + ' ago')), make('td', {}, state(replica))));
  const leads = model.head.stores.find(store => store.id === answer.leader);
  const titles = [['Store'], ['Peer', 1], ['Role'], ['Applied', 1], ['Lag', 1], ['Term', 1], ['Heard', 1], ['State']];
  const list = (title, nodes) => nodes.length ? make('section', {}, make('h3', {}, title), make('ul', { class: 'work' }, ...nodes)) : null;
  return [
    make('dl', {}, ...facts.flatMap(([name, value]) => [make('dt', {}, name), make('dd', {}, value)])),
    make('section', {}, make('h3', {}, 'Replicas'), make('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Replicas' },
      make('table', {}, make('thead', {}, make('tr', {}, ...titles.map(([title, num]) => make('th', { scope: 'col', class: num ? 'num' : null }, title)))), make('tbody', {}, ...rows)))),
    list('Changes', answer.transitions.map(transitionNode)),
    list('Operators', answer.operators.map(operatorNode)),
    make('section', {}, make('h3', {}, 'Look further'), make('p', {}, make('code', {}, 'nokv region check --region ' + answer.id)), make('p', {}, make('code', {}, 'nokv operators --region ' + answer.id)),
      leads ? make('p', {}, make('code', {}, 'nokv execution --addr ' + leads.addr + ' --region ' + answer.id)) : null),
  ].filter(Boolean);
}
