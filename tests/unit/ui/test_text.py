"""Text from users is shown as it is, wherever it stands in a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from sparserm.pairs.load import load_pairs
from sparserm.types import SparseRMError
from sparserm.ui.shared.text import counted, plain, sentence

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


@pytest.mark.parametrize(
    "row", [{"question": "Q", "answer": "A"}, {"prompt": "Q", "chosen": "A", "rejected": ""}], ids=["columns", "rows"]
)
@pytest.mark.parametrize("usable", [0, 1])
def test_errors_about_a_file_name_no_python_arguments_and_no_flags(row: dict[str, str], usable: int, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [row, *[{"prompt": "Q", "chosen": "A", "rejected": "B"}] * usable]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(SparseRMError) as found:
        load_pairs(path)
    said = sentence(found.value)
    assert said.endswith("; choose its columns, or leave rows out, on the Train page")
    assert "=" not in said and "--" not in said
    assert sentence(found.value, "choose the columns above").endswith("; choose the columns above")


def test_errors_name_no_flags() -> None:
    assert sentence(SparseRMError("got 1 pair; give more pairs (--test)")) == "Got 1 pair; give more pairs"
    assert sentence(SparseRMError("no model; try again, or give one with --backbone FOLDER")) == "No model; try again"
    assert sentence(SparseRMError("got 'a --b c'; expected a number")) == "Got 'a --b c'; expected a number"
