"""Two texts and their features, linked: a feature's row lights its tokens in both texts, a token lists its features."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import streamlit as st

from sparserm.explain.comparison import DiffSpan, SideBySide
from sparserm.ui.shared.style import DOWN, UP

_CSS = """
.linked { font-family: var(--st-font); color: var(--st-text-color); font-size: 0.95rem; --line: var(--st-border-color);
          --soft: color-mix(in srgb, var(--st-text-color) 70%, transparent); }
.legend { display: flex; gap: 0.5rem 1.25rem; align-items: center; min-height: 2.9rem; font-size: 0.85rem; }
.legend .what { flex: 1; unicode-bidi: plaintext; overflow-wrap: anywhere; }
.scale { display: flex; gap: 0.5rem; align-items: center; font-variant-numeric: tabular-nums; white-space: nowrap; }
.scale i { width: 7rem; height: 0.6rem; border-radius: 3px; border: 1px solid var(--line);
           background: linear-gradient(90deg, var(--down), transparent, var(--up)); }
.texts, .lower { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
.lower { grid-template-columns: minmax(0, 1.9fr) minmax(0, 1fr); margin-top: 1rem; height: 22rem; }
.card { border: 1px solid var(--line); border-radius: var(--st-base-radius); min-width: 0; display: flex;
        flex-direction: column; }
.card h4 { margin: 0; padding: 0.45rem 0.75rem; font-size: 0.85rem; font-weight: 600; border-bottom: 1px solid var(--line);
           display: flex; justify-content: space-between; gap: 1rem; }
.card h4 span { font-weight: 400; color: var(--soft); font-variant-numeric: tabular-nums; }
.tokens { padding: 0.6rem 0.75rem; line-height: 1.85; white-space: pre-wrap; overflow-wrap: anywhere; max-height: 22rem;
          overflow-y: auto; unicode-bidi: plaintext; text-align: start; }
.tokens span { border-radius: 3px; padding: 2px 0; cursor: pointer; }
.tokens span:hover { outline: 1px solid var(--soft); }
.tokens span.on { outline: 2px solid var(--st-text-color); }
.scroll { flex: 1; min-height: 0; overflow: auto; }
.lower .card { overflow: hidden; }
table { border-collapse: collapse; width: 100%; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
th { position: sticky; top: 0; background: var(--st-secondary-background-color); font-weight: 500; color: var(--soft);
     z-index: 1; font-size: 0.78rem; white-space: nowrap; }
th, td { padding: 0.3rem 0.75rem; text-align: end; white-space: nowrap; }
th:first-child, td:first-child { text-align: start; }
td:first-child { width: 100%; min-width: 6rem; white-space: normal; overflow-wrap: anywhere; unicode-bidi: plaintext; }
td a { color: var(--soft); text-decoration: none; opacity: 0; padding: 0 0.25rem; }
td a:hover { color: var(--st-link-color); } tr:hover td a, tr:focus-within td a { opacity: 1; }
td small { color: var(--soft); font-size: inherit; }
tbody tr { cursor: pointer; border-top: 1px solid color-mix(in srgb, var(--line) 55%, transparent); }
tbody tr:hover, tbody tr.lit { background: color-mix(in srgb, var(--st-primary-color) 9%, transparent); }
tbody tr.on { background: color-mix(in srgb, var(--st-primary-color) 16%, transparent);
              box-shadow: inset 3px 0 var(--st-primary-color); }
.bar { position: relative; display: inline-block; vertical-align: middle; width: 5.5rem; height: 0.75rem;
       margin-inline-start: 0.5rem; }
.bar::after { content: ''; position: absolute; left: 50%; top: -3px; bottom: -3px; width: 1px; background: var(--soft);
              opacity: 0.5; }
.bar i { position: absolute; top: 0; bottom: 0; border-radius: 2px; }
.panel p { margin: 0; padding: 0.6rem 0.75rem; font-size: 0.85rem; color: var(--soft); }
.panel p b { color: var(--st-text-color); font-weight: 600; white-space: pre-wrap; overflow-wrap: anywhere;
             unicode-bidi: isolate; background: color-mix(in srgb, var(--st-text-color) 8%, transparent); border-radius: 3px; }
.panel .bar { width: 3.5rem; }
:focus { outline: none; } :focus-visible { outline: 2px solid var(--st-primary-color) !important; outline-offset: -1px; }
.panel .scroll:focus-visible { outline-offset: -2px; }
@media (max-width: 760px) { .texts, .lower { grid-template-columns: minmax(0, 1fr); } .lower { height: auto; }
                            .lower .scroll { max-height: 20rem; } }
"""

# Texts and labels are users': they are set with textContent and never become markup. Nodes are made once for each pair of
# responses; hovering only paints them, at most once a frame.
_JS = """
const el = (tag, cls, text) => {
  const node = document.createElement(tag);
  if (cls) node.className = cls;
  if (text !== undefined) node.textContent = text;
  return node;
};
const signed = (x, digits = 2) => (x > 0 ? '+' : x < 0 ? '−' : '') + Math.abs(x).toFixed(digits);
const floats = (packed) => new Float32Array(Uint8Array.from(atob(packed), c => c.charCodeAt(0)).buffer);
const rgb = (hex) => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16)).join(',');

function bar(value, full, data) {
  const box = el('span', 'bar'), inner = box.appendChild(el('i'));
  const share = 50 * Math.min(1, Math.abs(value) / (full || 1));
  inner.style.cssText = `left:${value < 0 ? 50 - share : 50}%;width:${share}%;background:${value > 0 ? data.up : data.down}`;
  return box;
}

function name(cell, feature) {
  const [id, label] = feature;
  if (label) cell.append(label + ' ');
  cell.append(label ? el('small', '', id) : `feature ${id}`);
  return cell;
}

// The value below which 98 % of the tokens of both texts lie: where the colour is full, the same for both.
function fullAt(state, j) {
  if (state.full.has(j)) return state.full.get(j);
  const all = state.sides.flatMap(side => side.spans.map((_, t) => Math.abs(valueAt(state, side, t, j)))).sort((x, y) => x - y);
  const full = all.length ? all[Math.ceil(0.98 * (all.length - 1))] || all[all.length - 1] : 0;
  state.full.set(j, full);
  return full;
}
const valueAt = (state, side, t, j) => j === null ? side.totals[t] : side.values[t * state.data.features.length + j];

function paint(state) {
  state.frame = null;
  const { data } = state, j = state.lockedFeature ?? state.hoverFeature, full = fullAt(state, j) || 1;
  const up = rgb(data.up), down = rgb(data.down);
  for (const side of state.sides) {
    side.spans.forEach((span, t) => {
      const v = valueAt(state, side, t, j), a = 0.72 * Math.min(1, Math.abs(v) / full);
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
const repaint = (state) => { state.frame ??= requestAnimationFrame(() => paint(state)); };

function tell(state, j, full) {
  const { data } = state, what = state.legend.firstChild;
  const each = data.shares ? 'contribution to its reward' : 'contribution, read at the token';
  if (j === null) {
    what.textContent = `Colour: each token's ${each}, all ${data.features.length} features together.`;
  } else {
    const [id, label, , , , margin, a, b] = data.features[j];
    const parts = `${signed(a)} in A, ${signed(b)} in B: ${signed(margin)} of the margin.`;
    const locked = j === state.lockedFeature ? ' Locked; click it again or press Esc to unlock.' : '';
    what.textContent = `Colour: ${label ? label + ' ' + id : 'feature ' + id}, ${parts}${locked}`;
  }
  const digits = full >= 1 ? 1 : full >= 0.1 ? 2 : 3;
  state.low.textContent = signed(-full, digits);
  state.high.textContent = signed(full, digits);
}

function list(state, side, t) {
  const { data } = state, k = data.features.length;
  const parts = data.features.map((feature, j) => [j, side.values[t * k + j]]).sort((x, y) => Math.abs(y[1]) - Math.abs(x[1]));
  const p = el('p'), token = el('b', '', side.tokens[t].replace(/\\n/g, '↵'));
  const locked = state.lockedToken && state.lockedToken.side === side && state.lockedToken.t === t;
  p.append(token, ` in ${side.letter}, token ${t + 1} of ${side.tokens.length}: ${signed(side.totals[t], 3)}`
    + (data.shares ? ' of its reward' : ', read here') + (locked ? ', locked' : ''));
  const body = el('tbody');
  for (const [j, value] of parts) {
    const row = el('tr'), cell = el('td', '', signed(value, 3));
    row.feature = j;
    cell.append(bar(value, Math.abs(parts[0][1]), data));
    row.append(name(el('td'), data.features[j]), cell);
    body.append(row);
  }
  const table = el('table'), scroll = el('div', 'scroll');
  table.append(body);
  scroll.append(table);
  scroll.tabIndex = 0;
  state.panel.replaceChildren(el('h4', '', 'Features of one token'), p, scroll);
}

function hint(state) {
  state.panel.replaceChildren(el('h4', '', 'Features of one token'),
    el('p', '', 'Point at a token to list its features, or at a feature to light its tokens in both texts.'),
    el('p', '', 'A click locks what you point at; a second click or Esc unlocks it.'),
    el('p', '', 'With the keyboard: Tab to a list, arrow keys within it, Enter to lock.'));
}

function showToken(state) {
  const shown = state.lockedToken ?? state.hoverToken;
  for (const side of state.sides) side.spans.forEach((span, t) => {
    const on = !!state.lockedToken && state.lockedToken.side === side && state.lockedToken.t === t;
    if (on !== span.classList.contains('on')) { span.classList.toggle('on', on); span.setAttribute('aria-pressed', on); }
  });
  if (shown) list(state, shown.side, shown.t);
}

function lockFeature(state, j) {
  state.lockedFeature = state.lockedFeature === j ? null : j;
  if (state.lockedFeature !== null) state.sides.forEach(side => reveal(state, side));
  paint(state);
  state.send('lock', { feature: state.lockedFeature === null ? null : state.data.features[j][0] });
}
function reveal(state, side) {  // the strongest token into view, without scrolling the page
  const strength = (t) => Math.abs(valueAt(state, side, t, state.lockedFeature));
  const best = side.spans.reduce((top, _, t) => strength(t) > strength(top) ? t : top, 0);
  const span = side.spans[best], box = side.box;
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
  const found = (event) => {
    const row = event.target.closest('tr'), span = event.target.token ? event.target : null;
    return { j: row?.feature ?? null, token: span?.token ?? null };
  };
  const point = (event) => {
    const { j, token } = found(event);
    if (j !== state.hoverFeature) { state.hoverFeature = j; repaint(state); }
    if (token && !state.lockedToken) { state.hoverToken = token; showToken(state); }
  };
  const toggle = (event) => {
    if (event.target.closest('a')) return;
    const { j, token } = found(event);
    if (j !== null) lockFeature(state, j);
    else if (token) lockToken(state, token.side, token.t);
  };
  const leave = () => { state.hoverFeature = null; repaint(state); };
  state.root.addEventListener('mouseover', point);
  state.root.addEventListener('mouseleave', leave);
  state.root.addEventListener('focusin', (event) => { if (event.target.matches(':focus-visible')) point(event); });
  state.root.addEventListener('click', toggle);
  state.root.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') { unlock(state); return; }
    if (event.target.closest('a')) return;
    if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); toggle(event); return; }
    rove(event, state.rows, 'ArrowUp', 'ArrowDown');
    for (const side of state.sides) rove(event, side.spans, 'ArrowLeft', 'ArrowRight');
  });
}

function makeText(state, text) {
  const side = { letter: text.letter, tokens: text.tokens, values: floats(text.values) }, k = state.data.features.length;
  side.totals = text.tokens.map((_, t) => side.values.subarray(t * k, (t + 1) * k).reduce((sum, v) => sum + v, 0));
  const card = el('section', 'card'), head = el('h4', '', text.title);
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
  ['feature', 'largest difference first'], ['score A', 'alignment score of A'], ['score B', 'alignment score of B'],
  ['weight', 'of the standardised score'], ['w (A − B) / σ', 'what the feature adds to the margin'],
];
function makeTable(state) {
  const { data } = state, table = el('table'), head = el('tr'), body = el('tbody');
  for (const [text, title] of HEADINGS) head.appendChild(el('th', '', text)).title = title;
  const full = Math.max(...data.features.map(feature => Math.abs(feature[5])), 1e-9);
  state.rows = data.features.map((feature, j) => {
    const row = el('tr'), [, , a, b, weight, part] = feature, last = el('td', '', signed(part));
    last.append(bar(part, full, data));
    const first = name(el('td'), feature), card = el('a', '', '↗');
    Object.assign(card, { href: data.card + feature[0], target: '_blank', title: 'The card of this feature, in a new tab' });
    card.setAttribute('aria-label', `card of feature ${feature[0]}`);
    first.append(' ', card);
    row.append(first, el('td', '', signed(a)), el('td', '', signed(b)), el('td', '', signed(weight)), last);
    row.feature = j;
    row.tabIndex = j ? -1 : 0;
    return row;
  });
  table.createTHead().append(head);
  body.append(...state.rows);
  table.append(body);
  const card = el('section', 'card'), scroll = el('div', 'scroll');
  scroll.append(table);
  card.append(scroll);
  return card;
}

function build(state) {
  const { data, root } = state;
  Object.assign(state, { sides: [], full: new Map(), hoverFeature: null, hoverToken: null, lockedToken: null });
  root.style.setProperty('--up', data.up);
  root.style.setProperty('--down', data.down);
  state.legend = el('div', 'legend');
  const what = el('span', 'what'), scale = el('span', 'scale');
  what.setAttribute('aria-live', 'polite');
  state.low = el('span'); state.high = el('span');
  scale.append(state.low, el('i'), state.high);
  state.legend.append(what, scale);
  const texts = el('div', 'texts'), lower = el('div', 'lower');
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
  const root = parentElement.querySelector('.linked'), first = !root.state, state = root.state ??= { root };
  state.send = setTriggerValue;
  if (state.data?.id === data.id) return;
  state.data = data;
  build(state);
  if (first) listen(state);
}
"""

_LINKED = st.components.v2.component("sparserm.linked", html='<div class="linked"></div>', css=_CSS, js=_JS)


def linked_texts(
    found: SideBySide,
    a: int,
    b: int,
    *,
    shares: bool,
    card: str,
    locked: int | None,
    on_lock: Callable[[int | None], None],
    key: str,
) -> None:
    """Responses ``a`` and ``b`` over the table of their features, each lighting up in the other.

    Args:
        shares: whether tokens' contributions add up to the reward, as with mean pooling.
        card: the address of a feature's card, up to its number.
        locked: the feature that is locked from the start.
        on_lock: told of the feature that the user locks, or None, before the page is run again.
    """

    def changed() -> None:
        event = st.session_state[key].lock
        if event:
            on_lock(event["feature"])

    data = linked_data(found, a, b, shares=shares)
    _LINKED(data={**data, "card": card, "locked": locked}, key=key, on_lock_change=changed)


def linked_data(found: SideBySide, a: int, b: int, *, shares: bool) -> dict[str, Any]:
    """What the component draws; token contributions are base64 of float32 ``[T, K]``, columns in the table's order."""
    sides = [found.explanations[i] for i in (a, b)]
    own = [{part.feature: part for part in side.contributions} for side in sides]
    differences = found.differences(a, b)
    columns = [sides[0].features.tolist().index(part.feature) for part in differences]
    texts = [
        {
            "letter": letter,
            "title": f"{letter} · response {i + 1}",
            "reward": side.reward,
            "tokens": list(side.tokens),
            "values": base64.b64encode(side.token_contributions[:, columns].astype(np.float32).tobytes()).decode(),
        }
        for letter, i, side in zip("AB", (a, b), sides, strict=True)
    ]
    features = [
        [
            part.feature,
            "" if part.label == f"feature {part.feature}" else part.label,
            part.score_a,
            part.score_b,
            part.weight,
            part.contribution,
            *(one[part.feature].contribution for one in own),
        ]
        for part in differences
    ]
    data: dict[str, Any] = {"texts": texts, "features": features, "shares": shares, "up": UP, "down": DOWN}
    return {**data, "id": hashlib.sha256(json.dumps(data).encode()).hexdigest()[:16]}


_DIFF = st.components.v2.component(
    "sparserm.diff",
    html='<div class="diff" dir="auto"></div>',
    css="""
    .diff { font-family: var(--st-font); color: var(--st-text-color); line-height: 1.85; white-space: pre-wrap;
            overflow-wrap: anywhere; unicode-bidi: plaintext; max-height: 24rem; overflow-y: auto; }
    .diff del, .diff ins { border-radius: 3px; padding: 2px 0; text-decoration-thickness: 2px;
            background: color-mix(in srgb, var(--st-text-color) 9%, transparent); }
    .diff del { text-decoration-line: line-through; opacity: 0.75; }
    .diff ins { text-decoration-line: underline; font-weight: 600; }
    """,
    js="""
    export default function ({ parentElement, data }) {
      parentElement.querySelector('.diff').replaceChildren(...data.spans.map(([side, text]) => {
        const node = document.createElement({ both: 'span', a: 'del', b: 'ins' }[side]);
        node.textContent = text;
        return node;
      }));
    }
    """,
)


def diff_text(spans: tuple[DiffSpan, ...], *, key: str) -> None:
    """Both texts in one: what only A has is struck through, what only B has is underlined."""
    _DIFF(data={"spans": [[span.side, span.text] for span in spans]}, key=key)
