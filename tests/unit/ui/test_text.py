"""Text from users is shown as it is, wherever it stands in a sentence."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from sparserm.ui.shared.text import counted, plain

HOSTILE = (
    "<script>alert(1)</script>",
    "**bold** _it_ `code` ~~gone~~",
    "![x](http://example.org/a.png) [link](javascript:alert(1))",
    "https://example.org www.example.org",
    "# heading | table",
    "שלום 👋 a_b.csv",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_commonmark_leaves_it_alone(text: str) -> None:
    tokens = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(f"In {plain(text)} there is something")
    kinds = {child.type for token in tokens for child in token.children or ()}
    assert kinds <= {"text", "text_special"}
    shown = "".join(child.content for token in tokens for child in token.children or ())
    assert shown == f"In {text} there is something"


def test_what_streamlit_adds_to_markdown_is_escaped_too() -> None:
    assert plain(":red[x] :smile: $x^2$") == r"\:red\[x\] \:smile\: \$x^2\$"
    assert plain("www.example.org") == r"www\.example.org"


def test_it_stays_on_its_line() -> None:
    assert plain("a\n\n- b") == "a - b"


def test_one_row_is_a_row() -> None:
    assert [counted(n) for n in (0, 1, 2, 1092)] == ["0 rows", "1 row", "2 rows", "1,092 rows"]
