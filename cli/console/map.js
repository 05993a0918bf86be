// The regions over the key space: one strip of cells in the order of their keys, broken into rows when there are many.
// A cell is a region; only where cells would be too small to see does one stand for several neighbours.

const CELL_MIN = 5, CELL_WANTED = 11, ROWS_MAX = 30;
const WIDTHS = [
  { name: 'equal', title: 'equal', weigh: () => 1 },
  { name: 'size', title: 'by size', weigh: region => region.bytes },
  { name: 'requests', title: 'by requests', weigh: region => region.requests },
];

const map = { width: WIDTHS[0], cells: [], rows: 1, high: 64, at: 0, hover: null, focused: false, question: null };

function setUpMap() {
  const canvas = find('space');
  new ResizeObserver(() => drawMap()).observe(canvas.parentNode);
  canvas.addEventListener('pointermove', event => {
    map.hover = cellAt(event.offsetX, event.offsetY);
    paintMap();
  });
  canvas.addEventListener('pointerleave', () => { map.hover = null; paintMap(); });
  canvas.addEventListener('click', event => {
    const at = cellAt(event.offsetX, event.offsetY);
    if (at !== null) { map.at = at; paintMap(); openRegion(chief(map.cells[at]).id); }
  });
  canvas.addEventListener('focus', () => { map.focused = canvas.matches(':focus-visible'); paintMap(); });
  canvas.addEventListener('blur', () => { map.focused = false; paintMap(); });
  canvas.addEventListener('keydown', moveInMap);
}

function moveInMap(event) {
  const last = map.cells.length - 1, row = Math.max(1, Math.round(map.cells.length / map.rows));
  const page = Math.max(row, Math.ceil(map.cells.length / 10));
  const to = {
    ArrowLeft: map.at - 1, ArrowRight: map.at + 1, ArrowUp: map.at - row, ArrowDown: map.at + row, Home: 0, End: last,
    PageUp: map.at - page, PageDown: map.at + page,
  }[event.key];
  if (last < 0) return;
  if (event.key === 'Enter' || event.key === ' ') {
    event.preventDefault();
    openRegion(chief(map.cells[map.at]).id);
  } else if (to !== undefined) {
    event.preventDefault();
    map.at = Math.max(0, Math.min(last, to));
    map.focused = true;
    paintMap();
  }
}

// The regions of a cell, and the one that is asked most.
const membersOf = cell => model.sorted.slice(cell.from, cell.to);
const chief = cell => membersOf(cell).reduce((best, region) => region.requests > best.requests ? region : best);

// Lays the cells out anew.
function drawMap() {
  const canvas = find('space'), wide = canvas.parentNode.clientWidth, count = model.sorted.length;
  if (wide === 0) return;
  map.rows = Math.max(1, Math.min(ROWS_MAX, Math.ceil(count * CELL_WANTED / wide)));
  const group = Math.max(1, Math.ceil(count * CELL_MIN / (map.rows * wide)));
  map.rowHigh = map.rows === 1 ? 66 : map.rows <= 3 ? 34 : map.rows <= 8 ? 22 : map.rows <= 16 ? 16 : 13;
  map.gap = map.rows === 1 ? 0 : 3;
  map.high = map.rows * (map.rowHigh + map.gap) - map.gap;
  map.wide = wide;
  const weights = [];
  for (let from = 0; from < count; from += group) {
    const to = Math.min(count, from + group);
    weights.push({ from, to, weight: model.sorted.slice(from, to).reduce((sum, region) => sum + map.width.weigh(region), 0) });
  }
  const total = weights.reduce((sum, cell) => sum + cell.weight, 0), length = map.rows * wide;
  // Nothing is too small to be pointed at.
  const least = Math.min(3, length / Math.max(1, weights.length));
  const spare = Math.max(0, length - least * weights.length);
  let x = 0;
  map.cells = weights.map(cell => {
    const share = total > 0 ? cell.weight / total : 1 / weights.length;
    const from = x;
    x += least + spare * share;
    return { ...cell, x0: from, x1: x };
  });
  map.at = Math.min(map.at, Math.max(0, map.cells.length - 1));
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(wide * ratio);
  canvas.height = Math.round(map.high * ratio);
  canvas.style.height = map.high + 'px';
  paintMap();
}

function cellAt(px, py) {
  const row = Math.min(map.rows - 1, Math.floor(py / (map.rowHigh + map.gap)));
  const x = row * map.wide + px;
  let low = 0, high = map.cells.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (map.cells[middle].x0 <= x) low = middle; else high = middle - 1;
  }
  return map.cells.length ? low : null;
}

// The rectangles of a cell: one for each row that it touches.
function pieces(cell) {
  const list = [];
  for (let row = Math.floor(cell.x0 / map.wide); row < map.rows && row * map.wide < cell.x1 - .01; row++) {
    const from = Math.max(cell.x0, row * map.wide) - row * map.wide;
    const to = Math.min(cell.x1, (row + 1) * map.wide) - row * map.wide;
    if (to - from > .2) list.push({ x: from, y: row * (map.rowHigh + map.gap), w: to - from, h: map.rowHigh });
  }
  return list;
}

// Colours of the theme, resolved; asked for anew when the theme changes.
let theme = null;
function themeColours() {
  if (theme) return theme;
  const probe = make('span', { class: 'sr' });
  document.body.append(probe);
  theme = {};
  for (const name of ['text', 'dim', 'bad', 'warn', 'focus', 'soft', 'panel']) {
    probe.style.color = 'var(--' + name + ')';
    theme[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  return theme;
}

function leaderOf(members) {
  const counts = new Map();
  for (const region of members) counts.set(region.leader, (counts.get(region.leader) || 0) + 1);
  return [...counts].reduce((best, one) => one[1] > best[1] ? one : best)[0];
}

function hatch(pen, box, colour, step) {
  pen.save();
  pen.beginPath();
  pen.rect(box.x, box.y, box.w, box.h);
  pen.clip();
  pen.strokeStyle = colour;
  pen.lineWidth = 1.5;
  pen.beginPath();
  for (let x = box.x - box.h; x < box.x + box.w; x += step) {
    pen.moveTo(x, box.y + box.h);
    pen.lineTo(x + box.h, box.y);
  }
  pen.stroke();
  pen.restore();
}

function paintMap() {
  const canvas = find('space'), pen = canvas.getContext('2d'), colours = themeColours();
  const ratio = window.devicePixelRatio || 1;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, map.wide, map.high);
  const hottest = Math.max(1, ...map.cells.map(cell => chief(cell).requests));
  for (const cell of map.cells) {
    const members = membersOf(cell), leader = leaderOf(members), colour = colourOf(leader);
    const found = !map.question || members.some(map.question);
    const worst = members.reduce((all, region) => all | region.flags, 0);
    const asked = chief(cell).requests;
    for (const box of pieces(cell)) {
      const gap = box.w > 5 ? 1.5 : box.w > 3 ? .7 : 0;
      const inner = { ...box, w: Math.max(.8, box.w - gap) };
      pen.globalAlpha = found ? 1 : .16;
      pen.fillStyle = leader === 0 ? colours.soft : colour.fill;
      pen.fillRect(inner.x, inner.y, inner.w, inner.h);
      if (worst & 64) hatch(pen, inner, colours.bad, 5);
      else if (leader === 0) hatch(pen, inner, colours.dim, 6);
      else if (colour.second) hatch(pen, inner, 'rgba(0,0,0,.35)', 5);
      if (asked > 0) {
        const high = Math.max(2, box.h * .4 * Math.log1p(asked) / Math.log1p(hottest));
        pen.fillStyle = 'rgba(0,0,0,.5)';
        pen.fillRect(inner.x, inner.y + inner.h - high, inner.w, high);
      }
      // A silent peer is said by its store already, and there may be many.
      if (worst & ~16 && !(worst & 64)) {
        pen.fillStyle = colours.text;
        pen.beginPath();
        pen.moveTo(inner.x, inner.y);
        pen.lineTo(inner.x + Math.min(8, inner.w), inner.y);
        pen.lineTo(inner.x, inner.y + Math.min(8, inner.h / 2));
        pen.fill();
      }
      if (members.length === 1 && inner.w > 54 && inner.h >= 20) label(pen, members[0], inner, leader, colour, colours);
    }
  }
  pen.globalAlpha = 1;
  const shown = map.hover !== null ? map.hover : map.focused ? map.at : null;
  if (shown !== null && map.cells[shown]) {
    for (const box of pieces(map.cells[shown])) {
      pen.strokeStyle = colours.panel;
      pen.lineWidth = 4;
      pen.strokeRect(box.x + 1, box.y + 1, Math.max(2, box.w - 3), box.h - 2);
      pen.strokeStyle = colours.text;
      pen.lineWidth = 2;
      pen.strokeRect(box.x + 1, box.y + 1, Math.max(2, box.w - 3), box.h - 2);
    }
  }
  showTip(shown);
  describeMap(canvas);
}

function label(pen, region, box, leader, colour, colours) {
  pen.save();
  pen.beginPath();
  pen.rect(box.x, box.y, box.w - 4, box.h);
  pen.clip();
  const dark = leader === 0 ? colours.text : ['#2f74b0', '#d2622f', '#1f9a76'].includes(colour.fill) ? '#fff' : '#000';
  pen.textBaseline = 'middle';
  const name = leader === 0 ? 'region ' + region.id + ' · nobody leads' : 'region ' + region.id + ' · store-' + leader;
  const write = (text, font, x, y) => {
    pen.font = font;
    if (leader === 0) { // on a hatched ground
      pen.fillStyle = colours.soft;
      pen.fillRect(x - 4, y - 8, pen.measureText(text).width + 8, 16);
    }
    pen.fillStyle = dark;
    pen.fillText(text, x, y);
  };
  const strong = '600 12.5px system-ui, sans-serif';
  if (box.h < 40) {
    write(box.w > 120 ? name : String(region.id), strong, box.x + 7, box.y + box.h / 2);
  } else {
    write(name, strong, box.x + 9, box.y + 16);
    write(region.start.length ? keyForPeople(region.start).text : 'first key', '12px ui-monospace, monospace', box.x + 9, box.y + 33);
  }
  pen.restore();
}

function describeMap(canvas) {
  const cell = map.cells[map.at];
  canvas.setAttribute('aria-valuemin', map.cells.length ? 1 : 0);
  canvas.setAttribute('aria-valuemax', map.cells.length);
  canvas.setAttribute('aria-valuenow', map.cells.length ? map.at + 1 : 0);
  canvas.setAttribute('aria-valuetext', cell ? wordsOf(cell).join(', ') : 'no regions');
}

// A cell in words, most important first.
function wordsOf(cell) {
  const members = membersOf(cell);
  const range = { start: members[0].start, end: members[members.length - 1].end };
  const sum = name => members.reduce((all, region) => all + region[name], 0);
  const numbers = [size(sum('bytes')), rate(sum('requests')) + ' requests/s', rate(sum('writes')) + ' writes/s'];
  const from = 'from ' + startText(range) + ' to ' + endText(range);
  if (members.length > 1) {
    return [members.length + ' regions', from, ...numbers, 'Enter opens region ' + chief(cell).id + ', the busiest'];
  }
  const region = members[0], odd = oddities(region);
  return ['region ' + region.id, region.leader ? 'led by store-' + region.leader : 'nobody leads it', from,
    'replicas on ' + region.peers.map(peer => 'store-' + peer[0]).join(', '), ...numbers,
    ...(region.lag > 0 ? ['lag ' + whole(region.lag)] : []), ...odd.map(one => one[1])];
}

const oddities = region => FLAGS.filter(flag => region.flags & flag[0]);

function showTip(shown) {
  const tip = find('tip');
  const cell = shown === null ? null : map.cells[shown];
  tip.hidden = !cell;
  if (!cell) return;
  const words = wordsOf(cell);
  const text = words.join('\n');
  if (tip.text !== text) {
    tip.text = text;
    tip.replaceChildren(make('b', {}, words[0] + ', ' + words[1]), make('br'), words.slice(2, 4).join(', '), make('br'), words.slice(4).join(' · '));
  }
  const box = pieces(cell)[0] || { x: 0, y: 0, w: 0, h: 0 };
  const left = Math.max(0, Math.min(box.x + box.w / 2 - 20, map.wide - tip.offsetWidth));
  tip.style.left = left + 'px';
  tip.style.top = (box.y + box.h + 8) + 'px';
}
