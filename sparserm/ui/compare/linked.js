// Texts and labels come from users: they are set with textContent and never become markup.
// Nodes are created once for each pair of responses; hovering only repaints them, at most once a frame.

const el = (tag, cls, text) => {
  const node = document.createElement(tag);
  if (cls) node.className = cls;
  if (text !== undefined) node.textContent = text;
  return node;
};
const signed = (x, digits = 2) => (x > 0 ? '+' : x < 0 ? '−' : '') + Math.abs(x).toFixed(digits);
// Two decimals, and more of small numbers, so that a row can be checked by hand.
const figure = x => signed(x, x === 0 || Math.abs(x) >= 0.1 ? 2 : 3);
const floats = packed => new Float32Array(Uint8Array.from(atob(packed), c => c.charCodeAt(0)).buffer);
const rgb = hex => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16)).join(',');

function bar(value, full, data) {
  const box = el('span', 'bar'),
    inner = box.appendChild(el('i'));
  const share = 50 * Math.min(1, Math.abs(value) / (full || 1));
  inner.style.cssText = `left:${value < 0 ? 50 - share : 50}%;width:${share}%;background:${value > 0 ? data.up : data.down}`;
  return box;
}

function name(cell, feature, card) {
  const [id, label, , , , { family }] = feature;
  if (label) cell.append(`${label} `);
  cell.append(label ? el('small', '', id) : `feature ${id}`);
  if (card) cell.append(' ', card);
  if (family) cell.append(el('small', 'family', family));
  return cell;
}
// Rows that add up: families and features on their own, without the features below a family.
const whole = data => data.features.flatMap((feature, j) => (feature[5].part ? [] : [j]));

// The 98th percentile of the absolute values in both texts: the colour is full there.
function fullAt(state, j) {
  if (state.full.has(j)) return state.full.get(j);
  const all = state.sides.flatMap(side => side.spans.map((_, t) => Math.abs(valueAt(state, side, t, j)))).sort((x, y) => x - y);
  const full = all.length ? all[Math.ceil(0.98 * (all.length - 1))] || all[all.length - 1] : 0;
  state.full.set(j, full);
  return full;
}
const valueAt = (state, side, t, j) => (j === null ? side.totals[t] : side.values[t * state.data.features.length + j]);

function paint(state) {
  state.frame = null;
  const { data } = state,
    j = state.lockedFeature ?? state.hoverFeature,
    full = fullAt(state, j) || 1;
  const up = rgb(data.up),
    down = rgb(data.down);
  for (const side of state.sides) {
    side.spans.forEach((span, t) => {
      const v = valueAt(state, side, t, j),
        a = 0.72 * Math.min(1, Math.abs(v) / full);
      span.style.backgroundColor = a > 0.02 ? `rgba(${v > 0 ? up : down},${a.toFixed(3)})` : '';
    });
  }
  state.rows.forEach((row, i) => {
    row.classList.toggle('on', i === state.lockedFeature);
    row.classList.toggle('lit', i === j && i !== state.lockedFeature);
    row.setAttribute('aria-selected', i === state.lockedFeature);
  });
  tell(state, j, full);
}
const repaint = state => {
  state.frame ??= requestAnimationFrame(() => paint(state));
};

function tell(state, j, full) {
  const { data } = state,
    what = state.legend.firstChild;
  const each = data.shares ? 'contribution to the reward' : 'contribution at that token';
  if (j === null) {
    const all = data.features.filter(feature => !feature[5].family).length;
    what.textContent = `Colour: each token's ${each}, all ${all} features together.`;
  } else {
    const [id, label, , , , { family, fires, activation }, margin, a, b] = data.features[j];
    const where = i =>
      !fires
        ? ''
        : fires[i] === false
          ? ' (silent)'
          : fires[i]
            ? activation[i]
              ? ` (fires, up to ${activation[i].toFixed(2)})`
              : ' (fires)'
            : '';
    const parts = `${signed(a)} in A${where(0)}, ${signed(b)} in B${where(1)}: ${signed(margin)} of the margin.`;
    const locked = j === state.lockedFeature ? ' Locked; click it again or press Esc to unlock.' : '';
    const called = `${label ? `${label} ${id}` : `feature ${id}`}${family ? ` ${family}` : ''}`;
    what.textContent = `Colour: ${called}, ${parts}${locked}`;
  }
  const digits = full >= 1 ? 1 : full >= 0.1 ? 2 : 3;
  state.low.textContent = signed(-full, digits);
  state.high.textContent = signed(full, digits);
}

function list(state, side, t) {
  const { data } = state,
    k = data.features.length;
  const parts = whole(data)
    .map(j => [j, side.values[t * k + j]])
    .filter(part => part[1] !== 0)
    .sort((x, y) => Math.abs(y[1]) - Math.abs(x[1]));
  const p = el('p'),
    token = el('b', '', side.tokens[t].replace(/\n/g, '↵'));
  const locked = state.lockedToken && state.lockedToken.side === side && state.lockedToken.t === t;
  p.append(
    token,
    ` in ${side.letter}, token ${t + 1} of ${side.tokens.length}: ${signed(side.totals[t], 3)}` +
      (data.shares ? ' of the reward' : ' at this token') +
      (locked ? ', locked' : ''),
  );
  const body = el('tbody');
  if (!parts.length) p.append('. No feature of the head fires here.');
  for (const [j, value] of parts) {
    const row = el('tr'),
      cell = el('td', '', signed(value, 3));
    row.feature = j;
    cell.append(bar(value, Math.abs(parts[0][1]), data));
    row.append(name(el('td'), data.features[j]), cell);
    body.append(row);
  }
  const table = el('table'),
    scroll = el('div', 'scroll');
  table.append(body);
  scroll.append(table);
  scroll.tabIndex = 0;
  state.panel.replaceChildren(el('h4', '', 'Features of one token'), p, scroll);
}

function hint(state) {
  state.panel.replaceChildren(
    el('h4', '', 'Features of one token'),
    el('p', '', 'Hover over a token to list its features, or over a feature to highlight its tokens in both texts.'),
    el('p', '', 'Click to lock a token or feature; click again or press Esc to unlock it.'),
    el('p', '', 'Keyboard: Tab to a list, arrow keys to move within it, Enter to lock.'),
  );
}

function showToken(state) {
  const shown = state.lockedToken ?? state.hoverToken;
  for (const side of state.sides)
    side.spans.forEach((span, t) => {
      const on = !!state.lockedToken && state.lockedToken.side === side && state.lockedToken.t === t;
      if (on !== span.classList.contains('on')) {
        span.classList.toggle('on', on);
        span.setAttribute('aria-pressed', on);
      }
    });
  if (shown) list(state, shown.side, shown.t);
}

function lockFeature(state, j) {
  state.lockedFeature = state.lockedFeature === j ? null : j;
  if (state.lockedFeature !== null) for (const side of state.sides) reveal(state, side);
  paint(state);
  state.send('lock', { feature: state.lockedFeature === null ? null : state.data.features[j][0] });
}
function reveal(state, side) {
  // scrolls the strongest token into view, but not the page
  const strength = t => Math.abs(valueAt(state, side, t, state.lockedFeature));
  const best = side.spans.reduce((top, _, t) => (strength(t) > strength(top) ? t : top), 0);
  const span = side.spans[best],
    box = side.box;
  if (!span) return;
  const top = span.offsetTop - box.offsetTop;
  if (top < box.scrollTop || top > box.scrollTop + box.clientHeight - 30) box.scrollTop = top - box.clientHeight / 2;
}
function lockToken(state, side, t) {
  const same = state.lockedToken && state.lockedToken.side === side && state.lockedToken.t === t;
  state.lockedToken = same ? null : { side, t };
  state.hoverToken = { side, t };
  showToken(state);
}
function unlock(state) {
  const had = state.lockedFeature !== null;
  state.lockedFeature = state.lockedToken = state.hoverFeature = null;
  showToken(state);
  paint(state);
  if (had) state.send('lock', { feature: null });
}

// One tab stop for each list; arrow keys move within it.
function rove(event, nodes, before, after) {
  const at = nodes.indexOf(event.target);
  const to = { [before]: at - 1, [after]: at + 1, Home: 0, End: nodes.length - 1 }[event.key];
  if (at < 0 || to === undefined || !nodes[to]) return;
  event.preventDefault();
  nodes[at].tabIndex = -1;
  nodes[to].tabIndex = 0;
  nodes[to].focus();
}

function listen(state) {
  const found = event => {
    const row = event.target.closest('tr'),
      span = event.target.token ? event.target : null;
    return { j: row?.feature ?? null, token: span?.token ?? null };
  };
  const point = event => {
    const { j, token } = found(event);
    if (j !== state.hoverFeature) {
      state.hoverFeature = j;
      repaint(state);
    }
    if (token && !state.lockedToken) {
      state.hoverToken = token;
      showToken(state);
    }
  };
  const toggle = event => {
    if (event.target.closest('a')) return;
    const { j, token } = found(event);
    if (j !== null) lockFeature(state, j);
    else if (token) lockToken(state, token.side, token.t);
  };
  const leave = () => {
    state.hoverFeature = null;
    repaint(state);
  };
  state.root.addEventListener('mouseover', point);
  state.root.addEventListener('mouseleave', leave);
  state.root.addEventListener('focusin', event => {
    if (event.target.matches(':focus-visible')) point(event);
  });
  state.root.addEventListener('click', toggle);
  state.root.addEventListener('keydown', event => {
    if (event.key === 'Escape') {
      unlock(state);
      return;
    }
    if (event.target.closest('a')) return;
    if (event.key === 'Enter' || event.key === ' ') {
      event.preventDefault();
      toggle(event);
      return;
    }
    rove(event, state.rows, 'ArrowUp', 'ArrowDown');
    for (const side of state.sides) rove(event, side.spans, 'ArrowLeft', 'ArrowRight');
  });
}

function makeText(state, text) {
  const side = { letter: text.letter, tokens: text.tokens, values: floats(text.values) },
    k = state.data.features.length;
  side.totals = text.tokens.map((_, t) => whole(state.data).reduce((sum, j) => sum + side.values[t * k + j], 0));
  const card = el('section', 'card'),
    head = el('h4', '', text.title);
  head.append(el('span', '', `reward ${signed(text.reward)} · ${text.tokens.length.toLocaleString('en')} tokens`));
  side.box = el('div', 'tokens');
  side.box.dir = 'auto';
  side.box.setAttribute('role', 'group');
  side.box.setAttribute('aria-label', `tokens of ${text.letter}`);
  side.spans = text.tokens.map((token, t) => {
    const span = el('span', '', token);
    span.token = { side, t };
    span.tabIndex = t ? -1 : 0;
    span.setAttribute('role', 'button');
    span.setAttribute('aria-pressed', false);
    return span;
  });
  side.box.append(...side.spans);
  card.append(head, side.box);
  state.sides.push(side);
  return card;
}

const HEADINGS = [
  ['Feature', 'Largest difference first'],
  ['w (A − B) / σ', 'Contribution to the margin'],
  ['Score A', 'Alignment score of A; silent: the feature does not fire there'],
  ['Score B', 'Alignment score of B; silent: the feature does not fire there'],
  ['σ', 'Standard deviation of the score over the training responses'],
  ['Weight', 'Weight on the standardised alignment score'],
];
function makeTable(state) {
  const { data } = state,
    table = el('table'),
    head = el('tr'),
    body = el('tbody');
  for (const [text, title] of HEADINGS) head.appendChild(el('th', '', text)).title = title;
  const full = Math.max(...data.features.map(feature => Math.abs(feature[6])), 1e-9);
  state.rows = data.features.map((feature, j) => {
    const row = el('tr'),
      [, , a, b, weight, { sigma, fires, part: below }, part] = feature,
      last = el('td', '', signed(part));
    last.append(bar(part, full, data));
    const card = el('a', '', '↗');
    Object.assign(card, { href: data.card + feature[0], target: '_blank', title: 'Open the feature card in a new tab' });
    card.setAttribute('aria-label', `open the card of feature ${feature[0]}`);
    const first = name(el('td', below ? 'part' : ''), feature, card);
    const score = (value, fire) => {
      const cell = el('td', '', fire === false && value === 0 ? '' : figure(value));
      if (fire === false) cell.append(el('small', '', cell.textContent ? ' silent' : 'silent'));
      return cell;
    };
    const numbers = fires && [score(a, fires[0]), score(b, fires[1]), sigma.toPrecision(3), figure(weight)];
    row.append(first, last, ...(numbers ?? ['', '', '', '']).map(cell => (cell instanceof Node ? cell : el('td', '', cell))));
    row.feature = j;
    row.tabIndex = j ? -1 : 0;
    return row;
  });
  table.createTHead().append(head);
  body.append(...state.rows);
  table.append(body);
  const card = el('section', 'card'),
    scroll = el('div', 'scroll');
  scroll.append(table);
  if (data.quiet) scroll.append(el('p', 'quiet', data.quiet));
  card.append(scroll);
  return card;
}

function build(state) {
  const { data, root } = state;
  Object.assign(state, { sides: [], full: new Map(), hoverFeature: null, hoverToken: null, lockedToken: null });
  root.style.setProperty('--up', data.up);
  root.style.setProperty('--down', data.down);
  state.legend = el('div', 'legend');
  const what = el('span', 'what'),
    scale = el('span', 'scale');
  what.setAttribute('aria-live', 'polite');
  state.low = el('span');
  state.high = el('span');
  scale.append(state.low, el('i'), state.high);
  state.legend.append(what, scale);
  const texts = el('div', 'texts'),
    lower = el('div', 'lower');
  texts.append(...data.texts.map(text => makeText(state, text)));
  state.panel = el('section', 'card panel');
  lower.append(makeTable(state), state.panel);
  root.replaceChildren(state.legend, texts, lower);
  const locked = data.features.findIndex(feature => feature[0] === data.locked);
  state.lockedFeature = locked < 0 ? null : locked;
  hint(state);
  paint(state);
}

export default function ({ parentElement, data, setTriggerValue }) {
  const root = parentElement.querySelector('.linked');
  const first = !root.state;
  root.state ??= { root };
  const state = root.state;
  state.send = setTriggerValue;
  if (state.data?.id === data.id) return;
  state.data = data;
  build(state);
  if (first) listen(state);
}
