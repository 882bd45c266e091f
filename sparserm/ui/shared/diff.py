"""Component: two texts as one, with what was taken out and what was added."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sparserm.ui.shared.frontend import component

if TYPE_CHECKING:  # imports torch, which the first page does without
    from sparserm.explain.comparison import DiffSpan

_DIFF_BOX = '<div class="diff" dir="auto" tabindex="0" role="group" aria-label="Both texts as one"></div>'
_DIFF = component("diff", _DIFF_BOX, Path(__file__).parent)


def diff_text(spans: tuple[DiffSpan, ...], *, key: str) -> None:
    """Show both texts as one: words only in the first are struck through, words only in the second are underlined."""
    _DIFF(data={"spans": [[span.side, span.text] for span in spans]}, key=key)
