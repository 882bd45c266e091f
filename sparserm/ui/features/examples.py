"""Examples of a feature in two columns, chosen and rejected, each with its tokens lit by activation; and tokens as chips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import streamlit as st

from sparserm.features.listing import visible
from sparserm.ui.shared.style import DOWN, UP

#: Tokens shown around the strongest one until the whole response is asked for, where it has more than so many.
BEFORE, AFTER, WHOLE = 30, 18, 64

# User text reaches the page as data and is set with textContent: it is never markup.
_EXAMPLES = st.components.v2.component(
    "sparserm.examples",
    html='<div class="examples"></div>',
    css="""
    .examples { display: grid; grid-template-columns: 1fr 1fr; gap: 0.6rem 1rem; font-family: var(--st-font);
                color: var(--st-text-color); }
    .head { font-size: 0.875rem; font-weight: 600; border-bottom: 2px solid; padding-bottom: 0.2rem; }
    .title { grid-column: 1 / -1; font-size: 0.875rem; opacity: 0.75; padding-top: 0.5rem; }
    .example { border: 1px solid var(--st-border-color); border-radius: var(--st-base-radius); padding: 0.5rem 0.75rem;
               min-width: 0; }
    .meta { display: flex; gap: 0.75rem; font-size: 0.8rem; opacity: 0.75; }
    .meta .prompt { flex: 1; min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
    .whole .meta { flex-direction: column; gap: 0.2rem; }
    .whole .meta .prompt { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 9rem; overflow-y: auto; }
    .text { line-height: 1.75; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; padding-top: 0.25rem;
            max-height: 22rem; overflow-y: auto; font-size: 0.925rem; }
    .text span { border-radius: 3px; padding: 1px 0; }
    .text span:hover { outline: 2px solid var(--st-text-color); }
    button { all: unset; cursor: pointer; font-size: 0.8rem; color: var(--st-link-color); padding-top: 0.25rem; }
    button:focus-visible { outline: 2px solid var(--st-primary-color); }
    .none { font-size: 0.875rem; opacity: 0.6; }
    """,
    js="""
    const make = (tag, name, text) => {
      const node = document.createElement(tag);
      if (name) node.className = name;
      if (text !== undefined) node.textContent = text;
      return node;
    };
    function example(one, colours) {
      const box = make('div', 'example');
      const meta = make('div', 'meta');
      meta.append(make('span', 'peak', one.meta), make('span', 'prompt', one.prompt));
      const text = make('div', 'text');
      text.dir = 'auto';
      const more = make('button');
      more.type = 'button';
      const cut = one.start > 0 || one.end < one.tokens.length;
      const draw = (whole) => {
        box.classList.toggle('whole', whole);
        const [start, end] = whole ? [0, one.tokens.length] : [one.start, one.end];
        const spans = one.tokens.slice(start, end).map(([token, share, note]) => {
          const span = make('span', '', token);
          if (share) {
            const colour = share > 0 ? colours.up : colours.down;
            span.style.backgroundColor = `color-mix(in srgb, ${colour} ${Math.abs(share)}%, transparent)`;
            span.title = note;
          }
          return span;
        });
        if (start > 0) spans.unshift(make('span', '', '… '));
        if (end < one.tokens.length) spans.push(make('span', '', ' …'));
        text.replaceChildren(...spans);
        more.textContent = whole ? 'Show less' : cut ? `Show all ${one.tokens.length} tokens` : 'Show the whole prompt';
        more.onclick = () => draw(!whole);
      };
      draw(false);
      box.append(meta, text);
      if (cut || one.prompt.length > 50 || one.prompt.includes('\\n')) box.append(more);
      return box;
    }
    export default function ({ parentElement, data }) {
      const grid = parentElement.querySelector('.examples');
      const nodes = ['chosen', 'rejected'].map((side, i) => {
        const head = make('div', 'head', side);
        head.style.borderColor = [data.up, data.down][i];
        return head;
      });
      for (const row of data.rows) {
        if (row.title) nodes.push(make('div', 'title', row.title));
        for (const one of [row.chosen, row.rejected]) {
          nodes.push(one ? example(one, data) : make('div', 'none', data.none));
        }
      }
      grid.replaceChildren(...nodes);
    }
    """,
)

_CHIPS = st.components.v2.component(
    "sparserm.chips",
    html='<div class="chips" role="list"></div>',
    css="""
    .chips { display: flex; flex-wrap: wrap; gap: 0.35rem; font-family: var(--st-code-font); font-size: 0.85rem;
             color: var(--st-text-color); }
    .chips span { border-radius: 4px; padding: 2px 7px; white-space: pre; max-width: 14rem; overflow: hidden;
                  text-overflow: ellipsis; }
    """,
    js="""
    export default function ({ parentElement, data }) {
      parentElement.querySelector('.chips').replaceChildren(...data.chips.map(([text, share, note]) => {
        const chip = document.createElement('span');
        chip.textContent = text;
        chip.title = note;
        chip.setAttribute('role', 'listitem');
        chip.style.backgroundColor = `color-mix(in srgb, ${data.colour} ${share}%, transparent)`;
        return chip;
      }));
    }
    """,
)


@dataclass(frozen=True)
class LitText:
    """A response with a signed value at each of its tokens, and what stands over it."""

    meta: str
    prompt: str
    tokens: Sequence[str]
    values: np.ndarray


@dataclass(frozen=True)
class ExampleRow:
    """A chosen and a rejected response side by side, either of which may be missing, under a title where they have one."""

    chosen: LitText | None
    rejected: LitText | None
    title: str = ""


def show_examples(rows: Sequence[ExampleRow], *, full: float, unit: str, none: str, key: str) -> None:
    """The examples; tokens above zero in the hue of what raises a reward, below in the other.

    Args:
        full: absolute value at which the colour is full, the same for all that is shown.
        unit: of the values.
        none: what stands where a row has no response of that side.
    """
    packed = [
        {"chosen": _pack(row.chosen, full, unit), "rejected": _pack(row.rejected, full, unit), "title": row.title}
        for row in rows
    ]
    _EXAMPLES(data={"rows": packed, "up": UP, "down": DOWN, "none": none}, key=key)


def show_chips(tokens: Sequence[str], values: Sequence[float], *, up: bool, key: str) -> None:
    """Tokens of the vocabulary, the stronger the deeper in colour; white space is drawn."""
    full = max((abs(value) for value in values), default=1.0) or 1.0
    rows = zip(tokens, values, strict=True)
    chips = [[visible(token), round(15 + 45 * abs(value) / full), f"logit {value:+.3f}"] for token, value in rows]
    _CHIPS(data={"chips": chips, "colour": UP if up else DOWN}, key=key)


def _pack(text: LitText | None, full: float, unit: str) -> dict[str, object] | None:
    if text is None:
        return None
    shares = np.clip(np.round(65 * text.values / max(full, 1e-9)), -65, 65).astype(int).tolist()
    notes = [f"{unit} {value:+.2f}" for value in text.values.tolist()]
    focus, n = int(np.abs(text.values).argmax()), len(text.tokens)
    start, end = (0, n) if n <= WHOLE else (max(0, focus - BEFORE), min(n, focus + AFTER + 1))
    return {
        "meta": text.meta,
        "prompt": text.prompt,
        "start": start,
        "end": end,
        "tokens": [list(one) for one in zip(text.tokens, shares, notes, strict=True)],
    }
