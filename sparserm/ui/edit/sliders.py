"""A head's features as rows with a slider each: one component, so that a change redraws figures and not widgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from sparserm.ui.shared.style import DOWN, UP

#: The range of a slider's factor, and its step.
LOWEST, HIGHEST, STEP = -1.0, 2.0, 0.05

_CSS = """
.box { font-family: var(--st-font); font-size: 0.875rem; color: var(--st-text-color); max-height: 33rem; overflow: auto;
       border: 1px solid var(--st-border-color); border-radius: var(--st-base-radius); }
.row { display: grid; align-items: center; column-gap: 0.7rem; padding: 0 0.8rem; min-height: 2.15rem; min-width: 54rem;
       grid-template-columns: minmax(6.5rem, 1.6fr) 8rem minmax(8rem, 1.2fr) 3.2rem 6.2rem 6.4rem 2.9rem 2.9rem 4rem; }
.row + .row { border-top: 1px solid color-mix(in srgb, var(--st-border-color) 60%, transparent); }
.head { position: sticky; top: 0; z-index: 2; background: var(--st-secondary-background-color); font-size: 0.78rem;
        min-height: 2.4rem; }
.head span { opacity: 0.8; } .head .n, .n { text-align: right; font-variant-numeric: tabular-nums; }
.head [title] { text-decoration: underline dotted; text-underline-offset: 3px; cursor: help; }
.name { display: flex; gap: 0.4rem; min-width: 0; white-space: nowrap; }
.name bdi { overflow: hidden; text-overflow: ellipsis; min-width: 0; }
.name .id { opacity: 0.7; font-variant-numeric: tabular-nums; flex: none; color: inherit; text-decoration: none; }
.name .id:hover, .name .id:focus-visible { opacity: 1; color: var(--st-link-color); text-decoration: underline; }
.edited { background: color-mix(in srgb, var(--st-primary-color) 9%, transparent); }
.off .name, .off .weight { opacity: 0.5; }
.weight { display: grid; grid-template-columns: 1fr 3.2rem; align-items: center; gap: 0.5rem; }
.bar { position: relative; height: 0.8rem; }
.bar::after { content: ''; position: absolute; left: 50%; top: -2px; bottom: -2px; width: 1px;
              background: var(--st-text-color); opacity: 0.35; }
.bar i { position: absolute; top: 0; bottom: 0; border-radius: 2px; }
.bar .was { border: 1px dashed var(--st-text-color); opacity: 0.45; box-sizing: border-box; }
.slider { position: relative; display: block; }
.slider input { width: 100%; margin: 0; display: block; accent-color: var(--st-primary-color); cursor: pointer; }
.ticks { display: block; position: relative; height: 3px; margin: 0 8px; }
.ticks i { position: absolute; width: 1px; height: 3px; background: var(--st-text-color); opacity: 0.5; }
button { font: inherit; font-size: 0.78rem; color: inherit; background: transparent; cursor: pointer; padding: 0.1rem 0.4rem;
         border: 1px solid var(--st-border-color); border-radius: 0.4rem; }
button:hover { border-color: var(--st-primary-color); color: var(--st-primary-color); }
button[aria-pressed=true] { background: var(--st-primary-color); border-color: var(--st-primary-color);
                            color: var(--st-background-color); }
button:disabled { visibility: hidden; }
.buttons { display: flex; gap: 0.3rem; }
input:focus-visible, button:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 2px; }
"""

# Labels are users' text: they are set with textContent and never become markup. Rows are made once and then brought up to
# date, so that the slider that a keyboard moves keeps its focus.
_JS = """
const HEADINGS = [
  ['feature', 'largest |weight| first'],
  ['weight', 'of the standardised alignment score; dashed: before the edit'],
  ['factor on the weight', '0 switches the feature off, -1 flips it; double-click sets it back to 1'],
  ['', ''], ['', ''],
  ['chosen / rejected', 'how often it fires: share of chosen / rejected training responses in which the latent is active'],
  ['gap', 'f_chosen - f_rejected, in points'],
  ['length', 'Spearman correlation of what the feature adds to a margin with the gap in log length, held-out pairs'],
  ['without it', 'change of held-out accuracy, in points, if this feature were off as well'],
];
const el = (tag, cls, text) => {
  const e = document.createElement(tag);
  if (cls) e.className = cls;
  if (text !== undefined) e.textContent = text;
  return e;
};
const signed = (x, digits) => x === null ? '–' : (x > 0 ? '+' : x < 0 ? '−' : '') + Math.abs(x).toFixed(digits);

function makeRow(state, feature) {
  const row = { el: el('div', 'row'), feature };
  row.name = el('span', 'name');
  const weight = el('span', 'weight'), bar = el('span', 'bar');
  row.was = bar.appendChild(el('i', 'was'));
  row.now = bar.appendChild(el('i'));
  row.number = el('span', 'n');
  weight.append(bar, row.number);
  const slider = el('span', 'slider'), ticks = el('span', 'ticks'), { low, high, step } = state.data;
  row.input = el('input');
  Object.assign(row.input, { type: 'range', min: low, max: high, step });
  row.input.setAttribute('aria-label', `factor of feature ${feature}`);
  for (const at of [-1, 0, 1, 2]) {
    ticks.appendChild(el('i')).style.left = `${100 * (at - low) / (high - low)}%`;
  }
  slider.append(row.input, ticks);
  row.factor = el('span', 'n');
  const buttons = el('span', 'buttons');
  const button = (text, title, factor) => {
    const b = buttons.appendChild(el('button', '', text));
    b.title = title;
    b.setAttribute('aria-label', `${title}: feature ${feature}`);
    b.onclick = () => send(factor === row.value ? 1 : factor);
    return b;
  };
  row.off = button('off', 'switch off', 0);
  row.flip = button('flip', 'flip the sign', -1);
  row.reset = button('↺', 'set back to 1', 1);
  row.fires = el('span', 'n'); row.gap = el('span', 'n'); row.length = el('span', 'n'); row.without = el('span', 'n');
  row.el.append(row.name, weight, slider, row.factor, buttons, row.fires, row.gap, row.length, row.without);
  const send = (factor) => {
    clearTimeout(row.timer);
    show(state, row, factor);
    state.send('edit', { feature, factor });
  };
  row.input.oninput = () => show(state, row, Number(row.input.value));
  row.input.onkeydown = () => { row.keys = true; };
  row.input.onpointerdown = () => { row.keys = false; };
  row.input.onchange = () => {  // held keys send where they end, not every step on the way
    clearTimeout(row.timer);
    const value = Number(row.input.value);
    if (row.keys) row.timer = setTimeout(() => send(value), 250); else send(value);
  };
  row.input.ondblclick = () => send(1);
  return row;
}

function place(bar, weight, full, colour) {
  const share = 50 * Math.min(1, Math.abs(weight) / full);
  bar.style.left = `${weight < 0 ? 50 - share : 50}%`;
  bar.style.width = `${share}%`;
  if (colour) bar.style.background = colour;
}

function show(state, row, factor) {
  const { up, down, full } = state.data, weight = row.data.weight * factor;
  row.value = factor;
  row.input.value = factor;
  row.input.setAttribute('aria-valuetext', `${factor.toFixed(2)} times`);
  row.factor.textContent = `× ${factor.toFixed(2).replace('-', '−')}`;
  row.number.textContent = signed(weight, 2);
  place(row.now, weight, full, weight > 0 ? up : down);
  place(row.was, row.data.weight, full);
  row.was.style.display = factor === 1 ? 'none' : '';
  row.off.setAttribute('aria-pressed', factor === 0);
  row.flip.setAttribute('aria-pressed', factor === -1);
  row.reset.disabled = factor === 1;
  row.el.className = 'row' + (factor === 1 ? '' : ' edited') + (factor === 0 ? ' off' : '');
}

function update(state, row, data) {
  row.data = data;
  const id = el('a', 'id', data.label ? data.feature : `feature ${data.feature}`);
  id.title = 'The card of this feature, in a new tab';
  Object.assign(id, { href: state.data.card + data.feature, target: '_blank' });
  row.name.replaceChildren(...(data.label ? [el('bdi', '', data.label), id] : [id]));
  row.name.title = data.label;
  row.fires.textContent = `${(100 * data.chosen).toFixed(0)} % / ${(100 * data.rejected).toFixed(0)} %`;
  const gap = data.chosen - data.rejected, { up, down } = state.data;
  row.gap.textContent = signed(100 * gap, 1);
  row.gap.style.color = gap > 0 ? up : gap < 0 ? down : '';
  row.length.textContent = signed(data.length, 2);
  row.without.textContent = signed(data.without === null ? null : 100 * data.without, 1);
  show(state, row, data.factor);
}

export default function ({ parentElement, data, setTriggerValue }) {
  const box = parentElement.querySelector('.box');
  const state = box.state ??= {};
  state.data = data;
  state.send = setTriggerValue;
  const features = data.rows.map(row => row.feature).join();
  if (state.features !== features) {
    state.features = features;
    const head = el('div', 'row head');
    HEADINGS.forEach(([text, title], i) => {
      const cell = head.appendChild(el('span', i > 4 ? 'n' : '', text));
      if (title) cell.title = title;
    });
    state.rows = data.rows.map(row => makeRow(state, row.feature));
    box.replaceChildren(head, ...state.rows.map(row => row.el));
  }
  data.rows.forEach((row, i) => update(state, state.rows[i], row));
}
"""

_SLIDERS = st.components.v2.component("sparserm.weight_sliders", html='<div class="box"></div>', css=_CSS, js=_JS)


def weight_sliders(rows: Sequence[Mapping[str, Any]], *, card: str, key: str, on_edit: Callable[[int, float], None]) -> None:
    """Rows of features, each with a slider and buttons for off, flip and back.

    Args:
        rows: with ``feature``, ``label``, ``weight`` (before edits), ``factor``, ``chosen``, ``rejected`` (firing rates),
            ``length`` (a correlation or None) and ``without`` (a change of accuracy, or None).
        card: the address of a feature's card, up to its number.
        on_edit: told of a feature and its new factor, before the page is run again.
    """

    def edited() -> None:
        event = st.session_state[key].edit
        if event:
            on_edit(int(event["feature"]), float(event["factor"]))

    full = max((abs(row["weight"]) * max(1.0, abs(row["factor"])) for row in rows), default=1.0) or 1.0
    data = {
        "rows": list(rows),
        "card": card,
        "full": full,
        "low": LOWEST,
        "high": HIGHEST,
        "step": STEP,
        "up": UP,
        "down": DOWN,
    }
    _SLIDERS(data=data, key=key, on_edit_change=edited)
