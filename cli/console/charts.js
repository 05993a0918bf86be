// Making nodes, and small charts of the last ten minutes.

const find = id => document.getElementById(id);
const SVG = 'http://www.w3.org/2000/svg';

// An element with attributes and children; strings become text, never markup.
function make(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function draw(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.filter(child => child !== null && child !== undefined));
  return node;
}

// Changes a text only if it is another one, so that nothing flickers and no selection is lost.
function tell(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Makes the children of `parent` those of `items`, in order. Children are kept by key, with the focus on them; one whose
// `look` (a string that says all that is shown) has not changed is left alone.
function sync(parent, items, keyOf, lookOf, build) {
  const known = parent.known || (parent.known = new Map());
  const wanted = new Map();
  let place = parent.firstChild;
  for (const item of items) {
    const key = String(keyOf(item)), look = lookOf(item);
    let entry = known.get(key);
    if (!entry || entry.look !== look) {
      const node = build(item);
      if (entry) {
        const focused = entry.node.contains(document.activeElement);
        if (place === entry.node) place = node;
        entry.node.replaceWith(node);
        if (focused) (node.tabIndex >= 0 ? node : node.querySelector('button, a, [tabindex]') || node).focus();
      }
      entry = { node, look };
    }
    wanted.set(key, entry);
    if (entry.node === place) place = place.nextSibling;
    else parent.insertBefore(entry.node, place);
  }
  for (const [key, entry] of known) if (!wanted.has(key)) entry.node.remove();
  parent.known = wanted;
}

const CHARTS = [
  { name: 'requests', title: 'Requests', unit: '/s', show: rate },
  { name: 'writes', title: 'Writes', unit: '/s', show: rate },
  { name: 'regions', title: 'Regions', unit: '', show: whole },
  { name: 'bytes', title: 'Data', unit: '', show: size },
  { name: 'lag', title: 'Replica lag', unit: ' entries', show: whole },
  { name: 'root', title: 'Root lag', unit: ' entries', show: whole },
];
const WIDE = 300, HIGH = 38, SHOWN_MIN_MS = 60000;

// How far back charts reach: as far as there is something to show.
function reach() {
  const first = model.history.length ? model.history[0].t : Date.now();
  return Math.max(SHOWN_MIN_MS, Math.min(HISTORY_MS, Date.now() - first));
}

function setUpCharts(parent) {
  for (const chart of CHARTS) {
    chart.now = make('span');
    chart.range = make('span');
    chart.since = make('small');
    chart.area = draw('path', { class: 'area' });
    chart.line = draw('path', { class: 'line' });
    chart.cursor = draw('line', { class: 'cursor', y1: 0, y2: HIGH, visibility: 'hidden' });
    chart.svg = draw('svg', { viewBox: '0 0 ' + WIDE + ' ' + HIGH, preserveAspectRatio: 'none', tabindex: 0, role: 'img' },
      draw('line', { class: 'base', x1: 0, x2: WIDE, y1: HIGH, y2: HIGH }), chart.area, chart.line, chart.cursor);
    chart.picked = null;
    chart.svg.addEventListener('pointermove', event => {
      const box = chart.svg.getBoundingClientRect();
      pick(chart, Date.now() - reach() * (1 - (event.clientX - box.left) / box.width));
    });
    chart.svg.addEventListener('pointerleave', () => { chart.picked = null; drawChart(chart); });
    chart.svg.addEventListener('blur', () => { chart.picked = null; drawChart(chart); });
    chart.svg.addEventListener('keydown', event => {
      const last = model.history.length - 1;
      const at = chart.picked === null ? last : model.history.findIndex(sample => sample.t >= chart.picked);
      const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
      if (to === undefined || last < 0) return;
      event.preventDefault();
      pick(chart, model.history[Math.max(0, Math.min(last, to))].t);
      tell(find('say'), chart.title + ' ' + chart.now.parentNode.textContent + ', ' + chart.range.textContent);
    });
    parent.append(make('figure', { class: 'chart' }, make('figcaption', {}, make('span', {}, chart.title), chart.range),
      make('p', { class: 'now' }, make('span', {}, chart.now, make('small', {}, chart.unit)), chart.since), chart.svg));
  }
}

// Picks the sample that is nearest to a moment.
function pick(chart, moment) {
  let best = null;
  for (const sample of model.history) {
    if (best === null || Math.abs(sample.t - moment) < Math.abs(best - moment)) best = sample.t;
  }
  chart.picked = best;
  drawChart(chart);
}

function drawCharts() { CHARTS.forEach(drawChart); }

function drawChart(chart) {
  const samples = model.history;
  if (samples.length === 0) return;
  const end = Math.max(Date.now(), samples[samples.length - 1].t);
  const values = samples.map(sample => sample[chart.name]);
  const highest = Math.max(...values), lowest = Math.min(...values);
  // From zero, so that a wobble looks like one.
  const top = highest > 0 ? highest * 1.1 : 1;
  const shownMs = reach();
  const x = t => WIDE * (1 - (end - t) / shownMs), y = value => HIGH - (HIGH - 2) * value / top;
  const runs = [];
  samples.forEach((sample, at) => {
    if (at === 0 || sample.t - samples[at - 1].t > GAP_MS) runs.push([]);
    runs[runs.length - 1].push(x(sample.t).toFixed(1) + ' ' + y(sample[chart.name]).toFixed(1));
  });
  const edge = point => point.split(' ')[0];
  chart.line.setAttribute('d', runs.map(run => 'M' + run.join('L') + (run.length === 1 ? 'h.1' : '')).join(''));
  chart.area.setAttribute('d', runs.map(run => 'M' + edge(run[0]) + ' ' + HIGH + 'L' + run.join('L') + 'L' + edge(run[run.length - 1]) + ' ' + HIGH + 'Z').join(''));
  const picked = chart.picked === null ? null : samples.find(sample => sample.t === chart.picked);
  const shown = picked || samples[samples.length - 1];
  tell(chart.now, chart.show(shown[chart.name]));
  tell(chart.range, picked ? 'at ' + new Date(picked.t).toLocaleTimeString() : 'most ' + chart.show(highest));
  tell(chart.since, 'last ' + span(shownMs));
  chart.cursor.setAttribute('visibility', picked ? 'visible' : 'hidden');
  if (picked) ['x1', 'x2'].forEach(name => chart.cursor.setAttribute(name, x(picked.t)));
  chart.svg.setAttribute('aria-label', chart.title + ': now ' + chart.show(values[values.length - 1]) + chart.unit + ', between '
    + chart.show(lowest) + ' and ' + chart.show(highest) + ' in the last ' + span(shownMs) + '. Arrow keys show single moments.');
}
