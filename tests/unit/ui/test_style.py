"""Colours of signed numbers can be read on the page and on a selected row, in both themes."""

from __future__ import annotations

import pytest

from sparserm.ui.shared.frontend import PAGE_CSS
from sparserm.ui.shared.style import DOWN, UP, text_colour


def _light(colour: str) -> float:
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in shares]
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05


@pytest.mark.parametrize(
    ("theme", "background"), [("light", "#ffffff"), ("light", "#dfe8e8"), ("dark", "#171614"), ("dark", "#1f2c28")]
)
@pytest.mark.parametrize("value", [1.0, -1.0])
def test_a_signed_number_has_a_contrast_of_wcag_aa(theme: str, background: str, value: float) -> None:
    low, high = sorted((_light(text_colour(value, theme)), _light(background)))
    assert high / low >= 4.5


def test_the_style_sheet_knows_the_accents_of_charts() -> None:
    css = PAGE_CSS.read_text(encoding="utf-8")
    for accent in (UP, DOWN):
        r, g, b = (int(accent[i : i + 2], 16) for i in (1, 3, 5))
        assert accent in css and f"rgb({r}, {g}, {b})" in css
