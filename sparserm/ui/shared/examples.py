"""Components: examples of a feature in two columns with coloured tokens, and vocabulary tokens as chips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparserm.features.listing import visible
from sparserm.ui.shared.frontend import component
from sparserm.ui.shared.style import DOWN, UP

#: A response of more than WHOLE tokens is cut to BEFORE and AFTER tokens around its strongest one until it is expanded.
BEFORE, AFTER, WHOLE = 30, 18, 64

_EXAMPLES = component("examples", '<div class="examples"></div>', Path(__file__).parent)
_CHIPS = component("chips", '<div class="chips" role="list"></div>', Path(__file__).parent)


@dataclass(frozen=True)
class ColouredText:
    """A response with a signed value for each token and a heading (``meta``)."""

    meta: str
    prompt: str
    tokens: Sequence[str]
    values: np.ndarray


@dataclass(frozen=True)
class ExampleRow:
    """A chosen and a rejected response side by side; either may be missing, and the title may be empty."""

    chosen: ColouredText | None
    rejected: ColouredText | None
    title: str = ""


def show_examples(rows: Sequence[ExampleRow], *, full: float, unit: str, none: str, key: str) -> None:
    """Draw examples; tokens above zero have the colour of what raises the reward, tokens below zero the other.

    Args:
        full: absolute value drawn in full colour, the same for all examples.
        unit: unit of the values.
        none: text shown once on a side that has fewer responses.
    """
    packed = [
        {"chosen": _pack(row.chosen, full, unit), "rejected": _pack(row.rejected, full, unit), "title": row.title}
        for row in rows
    ]
    _EXAMPLES(data={"rows": packed, "up": UP, "down": DOWN, "none": none}, key=key)


def show_chips(tokens: Sequence[str], values: Sequence[float], *, up: bool, key: str) -> None:
    """Draw vocabulary tokens as chips, coloured by strength; white space is made visible."""
    full = max((abs(value) for value in values), default=1.0) or 1.0
    rows = zip(tokens, values, strict=True)
    chips = [[visible(token), round(15 + 45 * abs(value) / full), f"logit {value:+.3f}"] for token, value in rows]
    _CHIPS(data={"chips": chips, "colour": UP if up else DOWN}, key=key)


def _pack(text: ColouredText | None, full: float, unit: str) -> dict[str, object] | None:
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
