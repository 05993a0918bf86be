// Putting it together: the clock, the keys, the buttons.

const wasDeaf = { now: false };

function showAll() {
  if (model.head && model.failure === '') {
    rankStores();
    showHealth(model.head);
    showStandby(model.head);
    showTiles(model.head);
    drawMap();
    showLegend(model.head);
    showHot();
    showWork(model.head);
    showStores();
    showRegions();
    showLease(model.head);
    if (find('region').open) refreshRegion();
  }
  drawCharts();
  showClock();
}

// Says how old all of this is, every second, whether or not anything answers.
function showClock() {
  const quiet = silence(), age = find('age'), pulse = find('pulse');
  const isDeaf = model.failure !== '' && (quiet === null || quiet > STALE_MS);
  if (quiet === null) tell(age, model.failure ? 'no answer yet' : 'asking…');
  else tell(age, (model.paused ? 'paused, ' : '') + 'last answer ' + Math.round(quiet / 1000) + ' s ago');
  pulse.className = 'pulse ' + (isDeaf ? 'off' : model.paused || quiet === null ? '' : 'on');
  document.body.classList.toggle('stale', isDeaf && quiet !== null);
  const box = find('stale');
  box.hidden = !isDeaf;
  if (isDeaf) {
    const look = model.failure + (model.answeredOn || '');
    if (box.look !== look) {
      box.look = look;
      const links = model.head ? model.head.coordinators.filter(one => !one.self).map(one => [one, consoleOf(one)]).filter(([, link]) => link) : [];
      box.replaceChildren('This coordinator does not answer: ' + model.failure + '. ',
        model.answeredOn ? 'What you see is from ' + model.answeredOn.toLocaleTimeString() + '. ' : '', 'Asking again every two seconds. ',
        ...links.flatMap(([one, link]) => [make('a', { href: link }, 'Console of ' + one.id), ' ']));
    }
  }
  if (wasDeaf.now && !isDeaf) tell(find('say'), 'The coordinator answers again.');
  wasDeaf.now = isDeaf;
}

function setUpChoice(id, choices, isChosen, choose) {
  const group = find(id);
  const buttons = choices.map(choice => make('button', {
    type: 'button', role: 'radio', 'aria-checked': String(isChosen(choice)), tabindex: isChosen(choice) ? 0 : -1, onclick: () => pickOne(choice),
  }, choice.title));
  function pickOne(choice) {
    choose(choice);
    buttons.forEach((button, at) => {
      button.setAttribute('aria-checked', String(choices[at] === choice));
      button.tabIndex = choices[at] === choice ? 0 : -1;
    });
  }
  group.addEventListener('keydown', event => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const to = (buttons.indexOf(event.target) + step + buttons.length) % buttons.length;
    pickOne(choices[to]);
    buttons[to].focus();
  });
  group.append(...buttons);
}

const THEMES = ['system', 'light', 'dark'];

function setTheme(name) {
  if (name === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  tell(find('theme'), 'Theme: ' + name);
  keep('theme', name);
  theme = null;
  if (map.cells.length) paintMap();
}

function pause() {
  model.paused = !model.paused;
  find('pause').setAttribute('aria-pressed', String(model.paused));
  tell(find('pause'), model.paused ? 'Go on' : 'Pause');
  showClock();
}

function nextTheme() {
  setTheme(THEMES[(THEMES.indexOf(kept('theme') || 'system') + 1) % 3]);
}

function goTo(id) {
  const node = find(id);
  node.scrollIntoView({ block: 'center' });
  node.focus();
}

function rowOf(table) {
  const row = [...table.body.children].find(one => one.tabIndex === 0);
  if (row) { row.scrollIntoView({ block: 'center' }); row.focus(); }
}

const ACTIONS = {
  '?': () => find('help').showModal(), '/': () => goTo('search'), h: () => goTo('health'), m: () => goTo('space'),
  s: () => rowOf(storeTable), l: () => rowOf(regionTable), p: pause, t: nextTheme,
};

document.addEventListener('keydown', event => {
  const inField = event.target.matches('input[type=search]');
  if (event.key === 'Escape' && inField) { search(''); return; }
  if (inField || event.ctrlKey || event.metaKey || event.altKey || !find('keys-on').checked || document.querySelector('dialog[open]')) return;
  const act = ACTIONS[event.key];
  if (act) { event.preventDefault(); act(); }
});

setTheme(THEMES.includes(kept('theme')) ? kept('theme') : 'system');
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { theme = null; if (map.cells.length) paintMap(); });
find('theme').addEventListener('click', nextTheme);
find('pause').addEventListener('click', pause);
find('help-open').addEventListener('click', ACTIONS['?']);
find('keys-on').checked = kept('keys') !== 'off';
find('keys-on').addEventListener('change', event => keep('keys', event.target.checked ? 'on' : 'off'));
find('search').addEventListener('input', event => search(event.target.value));
find('region').addEventListener('close', () => { opened = null; });
find('ended-box').addEventListener('toggle', () => { if (model.head) showWork(model.head); });
for (const dialog of document.querySelectorAll('dialog')) {
  dialog.addEventListener('click', event => { if (event.target === dialog) dialog.close(); });
}
setUpCharts(find('charts'));
setUpTables();
setUpMap();
setUpChoice('width', WIDTHS, choice => choice === map.width, choice => { map.width = choice; drawMap(); });
setUpChoice('heat', HEATS, choice => choice === heat, choice => { heat = choice; showHot(); });
setInterval(showClock, 1000);
follow(showAll);
