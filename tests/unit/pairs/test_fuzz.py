"""Pairs written in random forms: the reader gives the pairs that were meant; what nobody meant is refused, without a crash.

``FUZZ_EXAMPLES=90000 python -m pytest -n 0 tests/unit/pairs/test_fuzz.py`` runs for about an hour.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparserm.pairs.candidates import read_candidates
from sparserm.pairs.cells import is_mark, looks_like_messages, written_lone_text
from sparserm.pairs.files import read_bytes
from sparserm.pairs.parsing import parse_rows
from sparserm.pairs.templates import mark_in, spoken
from sparserm.pairs.transcripts import transcript
from sparserm.types import Message, Prompt, SparseRMError
from tests.unit.pairs.templated import TEMPLATES

#: Examples of each test: about a minute for all of them on one core.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "1500"))
THOROUGH = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)

#: Characters and strings with a meaning in some format, among letters of several scripts.
_PIECES = st.sampled_from(
    [
        *"abc XYZ 019.,;:!?",
        *"\"'`[]{}()<>|\\/\t\n",
        "\r\n",
        "é",
        "日本",
        "مرحبا",
        "👩‍👩‍👧",
        "\u200b",
        "\ufeff",
        "\u2028",
        "- ",
        "None",
        "nan",
    ]
)
TEXTS = st.lists(_PIECES, min_size=1, max_size=14).map("".join)


#: What begins and ends as a list of texts does.
_LIST = r"\s*\[\s*[\"'].*[\"']\s*,?\s*\]\s*"


def _is_plain(text: str) -> bool:
    """Whether a text means itself in every format."""
    special = mark_in(text) or looks_like_messages(text) or transcript(text) or spoken(text) != text
    stands_for = is_mark(text) or written_lone_text(text) is not None or re.fullmatch(_LIST, text, re.DOTALL)
    return bool(text.strip()) and not special and not stands_for and not text.startswith("\ufeff")


PLAIN = TEXTS.filter(_is_plain)


@dataclass(frozen=True)
class Meant:
    """A pair as somebody means it: turns of user and assistant in turn, and two responses."""

    turns: tuple[str, ...]
    system: str
    chosen: str
    rejected: str

    @property
    def prompt(self) -> Prompt:
        """The messages of the prompt."""
        told = tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(self.turns))
        return (*((Message("system", self.system),) if self.system else ()), *told)


@st.composite
def _meant(draw: Any, max_turns: int = 3) -> Meant:
    turns = draw(st.lists(PLAIN, min_size=1, max_size=max_turns).filter(lambda found: len(found) % 2 == 1))
    chosen = draw(PLAIN)
    rejected = draw(PLAIN.filter(lambda text: text.strip() != chosen.strip()))
    return Meant(tuple(turns), draw(st.sampled_from(["", "Be brief."])), chosen, rejected)


# --------------------------------------------------------------------------------------------------------- into rows

_SYSTEM = {"role": "system", "content": "Be brief."}


def _turns(meant: Meant, role: str, content: str, names: tuple[str, str]) -> list[dict[str, str]]:
    named = {"user": names[0], "assistant": names[1], "system": "system"}
    return [{role: named[turn.role], content: turn.content} for turn in meant.prompt]


def _conversational(meant: Meant, keys: tuple[str, str], names: tuple[str, str]) -> dict[str, Any]:
    answers = ({keys[0]: names[1], keys[1]: text} for text in (meant.chosen, meant.rejected))
    return {"prompt": _turns(meant, *keys, names), **{side: [turn] for side, turn in zip(_SIDES, answers, strict=True)}}


_SIDES = ("chosen", "rejected")
_OPENAI, _SHAREGPT = (("role", "content"), ("user", "assistant")), (("from", "value"), ("human", "gpt"))


def _openai(meant: Meant) -> dict[str, Any]:
    return _conversational(meant, *_OPENAI)


def _sharegpt(meant: Meant) -> dict[str, Any]:
    row = _conversational(meant, *_SHAREGPT)
    return {"conversations": row["prompt"], **{side: row[side][0] for side in _SIDES}}


def _whole(meant: Meant) -> dict[str, Any]:
    row = _openai(meant)
    return {side: row["prompt"] + row[side] for side in _SIDES}


def _as_text(write: Callable[[Any], str]) -> Callable[[Meant], dict[str, Any]]:
    return lambda meant: {name: write(value) for name, value in _openai(meant).items()}


def _texts(prompt: str, chosen: str, rejected: str) -> Callable[[Meant], dict[str, Any]]:
    def row(meant: Meant) -> dict[str, Any]:
        system = {"system": meant.system} if meant.system else {}
        return {**system, prompt: meant.turns[0], chosen: meant.chosen, rejected: meant.rejected}

    return row


def _labelled(label: int) -> Callable[[Meant], dict[str, Any]]:
    def row(meant: Meant) -> dict[str, Any]:
        a, b = (meant.chosen, meant.rejected) if label else (meant.rejected, meant.chosen)
        return {"system": meant.system, "prompt": meant.turns[0], "response_A": a, "response_B": b, "label": label}

    return row


#: How a pair is written as a row, and whether prompts of several turns fit in.
FORMS: dict[str, tuple[Callable[[Meant], dict[str, Any]], bool]] = {
    "openai": (_openai, True),
    "sharegpt": (_sharegpt, True),
    "whole": (_whole, True),
    "json": (_as_text(lambda value: json.dumps(value, ensure_ascii=False)), True),
    "python": (_as_text(repr), True),
    "texts": (_texts("prompt", "chosen", "rejected"), False),
    "capitals": (_texts("Prompt", "Chosen", "Rejected"), False),
    "question": (_texts("question", "chosen", "rejected"), False),
    "good": (_texts("instruction", "good_response", "bad_response"), False),
    "preferred": (_texts("query", "preferred_answer", "dispreferred_answer"), False),
    "first": (_labelled(1), False),
    "second": (_labelled(0), False),
}
_FLAT = ("texts", "capitals", "question", "good", "preferred", "json", "python", "first", "second")


# -------------------------------------------------------------------------------------------------------- into bytes


def _csv(rows: Sequence[dict[str, Any]], delimiter: str = ",", **form: Any) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, delimiter=delimiter, **form)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    data = io.BytesIO()
    pd.DataFrame(list(rows)).to_parquet(data)
    return data.getvalue()


WRITERS: dict[str, Callable[[Sequence[dict[str, Any]]], bytes]] = {
    "jsonl": lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode(),
    "jsonl, unescaped": lambda rows: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(),
    "json": lambda rows: json.dumps(list(rows), indent=1).encode(),
    "json, wrapped": lambda rows: json.dumps({"version": 1, "data": list(rows)}).encode(),
    "parquet": _parquet,
    "csv": lambda rows: _csv(rows).encode(),
    "csv, with a mark": lambda rows: _csv(rows).encode("utf-8-sig"),
    "csv, UTF-16": lambda rows: _csv(rows).encode("utf-16"),
    "csv, of Excel": lambda rows: f"sep=;\r\n{_csv(rows, ';')}".encode(),
    "csv, all in quotes": lambda rows: _csv(rows, quoting=csv.QUOTE_ALL).encode(),
    "csv, lines of Unix": lambda rows: _csv(rows, lineterminator="\n").encode(),
    "json, of the viewer": lambda rows: json.dumps(
        {"features": [], "rows": [{"row_idx": i, "row": row, "truncated_cells": []} for i, row in enumerate(rows)]}
    ).encode(),
    "tsv": lambda rows: _csv(rows, "\t").encode(),
}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": lambda data: gzip.compress(data, 1),
    ".bz2": lambda data: bz2.compress(data, 1),
    ".xz": lambda data: lzma.compress(data, preset=0),
}


#: Columns that stand beside pairs and are none of their texts.
OTHERS: dict[str, Any] = {
    "id": "a-1",
    "source": "web",
    "category": "chat",
    "language": "en",
    "prompt_id": "0f3c",
    "model": "policy-1",
    "chosen_model": "good-model-large",
    "rejected_model": "bad-model-small",
    "score_chosen": 8.5,
    "score_rejected": 2.0,
    "chosen_rating": 5,
    "rejected_rating": 1,
    "reference_chosen_logps": -12.5,
    "reason": "The first one is right.",
    "timestamp": "2026-01-01",
}


def _among(row: dict[str, Any], others: Sequence[str], order: random.Random) -> dict[str, Any]:
    """A row with other columns, in random order."""
    names = [*row, *others]
    order.shuffle(names)
    return {name: row[name] if name in row else OTHERS[name] for name in names}


def _read(data: bytes, name: str) -> list[tuple[Prompt, str, str]]:
    found = parse_rows(read_bytes(data, name), name, columns=None, skip_bad=False)
    return [(pair.prompt, pair.chosen, pair.rejected) for pair in found.pairs]


@THOROUGH
@given(st.data())
def test_what_was_meant_is_read_in_every_form_among_other_columns(data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(sorted(FORMS)))
    writer = data.draw(st.sampled_from([name for name in WRITERS if form in _FLAT or name[:3] not in ("csv", "tsv")]))
    packer = data.draw(st.sampled_from(sorted(PACKERS)))
    write, several = FORMS[form]
    meant = data.draw(st.lists(_meant(3 if several else 1), min_size=1, max_size=4))
    if form in ("first", "second"):  # the columns hold for all rows
        meant = [Meant(one.turns, "", one.chosen, one.rejected) for one in meant]
    others = data.draw(st.lists(st.sampled_from(sorted(OTHERS)), unique=True, max_size=4))
    order = data.draw(st.randoms(use_true_random=False))
    content = PACKERS[packer](WRITERS[writer]([_among(write(one), others, order) for one in meant]))
    try:
        found = _read(content, f"a.{writer[:5].strip(',').split(',')[0]}{packer}")
    except SparseRMError as error:  # a text whose lines look like rows, in a file that shows no other quotes
        assert writer.startswith(("csv", "tsv")) and "each of which looks like a row" in str(error)
        assert any("\n" in text for one in meant for text in (*one.turns, one.chosen, one.rejected))
        return
    assert found == [(one.prompt, one.chosen, one.rejected) for one in meant]


@THOROUGH
@given(
    st.lists(_meant(1), min_size=1, max_size=4),
    st.sampled_from(["texts", "capitals", "question", "openai", "sharegpt", "json"]),
    st.booleans(),
)
def test_candidates_are_read_as_the_responses_of_pairs_are(meant: list[Meant], form: str, alone: bool) -> None:
    rows: list[dict[str, Any]] = []
    expected: dict[Any, list[str]] = {}
    for one in meant:
        row = FORMS[form][0](one)
        both = [row.pop(name) for side in _SIDES for name in (side, side.capitalize()) if name in row]
        rows += [{**row, "response": response} for response in both] if alone else [{**row, "responses": both}]
        told = tuple((turn.role, turn.content.strip()) for turn in one.prompt)
        expected.setdefault(told, []).extend([one.chosen, one.rejected])
    found = read_candidates(WRITERS["jsonl"](rows), "a.jsonl")
    read = {tuple((turn.role, turn.content.strip()) for turn in one.prompt): list(one.responses) for one in found.sets}
    assert read == expected


#: Cells of a file whose writer leaves quotes as they are.
_BARE = (
    st.lists(st.sampled_from([*"ab.5", '"', '""', " 'x'", "é"]), min_size=1, max_size=5)
    .map("".join)
    .filter(lambda text: bool(text.strip('" ')) and not text.startswith(" "))
)


@THOROUGH
@given(
    st.lists(st.tuples(_BARE, _BARE, _BARE), min_size=2, max_size=6),
    st.sampled_from([",", ";", "\t", ", "]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_quotes_that_are_left_as_they_are_join_no_rows_in_silence(rows: list[Any], between: str, end: str) -> None:
    content = "".join(between.join(row) + end for row in [("prompt", "chosen", "rejected"), *rows]).encode()
    try:
        found = parse_rows(read_bytes(content, "a.csv"), "a.csv", columns=None, skip_bad=True)
    except SparseRMError as error:
        assert str(error)
        return
    said = {issue.row for issue in found.issues if "each of which looks like a row" in issue.problem}
    for pair in found.pairs:
        texts = (pair.prompt[0].content, pair.chosen, pair.rejected)
        assert pair.row in said or not any("\n" in text for text in texts)


_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(allow_nan=True), TEXTS, st.sampled_from(["user", "gpt"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                [
                    *("role", "content", "from", "value", "rank", "score", "text", "tool_calls", "parts", "candidates"),
                    *("preferenceLabel", "choices", "labels", "prompt", "answer1", "answer2", "result", "completion"),
                ]
            ),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)
_NAMES = st.sampled_from(
    [
        *("prompt", "chosen", "rejected", "conversations", "messages", "system", "question", "instruction", "input", "context"),
        *("completion", "label", "kto_tag", "labels", "history", "human_ref_A", "human_ref_B", "answers", "completions"),
        *("response_a", "response_b", "winner", "response_0", "response_1", "better_response_id", "rejected_response"),
        *("data", "annotations", "correct_answers", "incorrect_answers", "mc2_targets", "contents", "answer_0", "answer_1"),
        *(
            "score_0",
            "score_1",
            "tie",
            "flipped",
            "initial_reason_steps",
            "Winner",
            "Response A",
            "Response B",
            "row",
            "row_idx",
        ),
        *(
            "response_A",
            "response_B",
            "output",
            "output_1",
            "output_2",
            "info",
            "summaries",
            "choice",
            "generations",
            "ratings",
        ),
        *(
            "conversation_a",
            "conversation_b",
            "response1",
            "response2",
            "overall_preference",
            "preference.responses",
            "score_chosen",
        ),
    ]
)


@THOROUGH
@given(st.lists(st.dictionaries(_NAMES, _JSON, max_size=6), min_size=1, max_size=4), st.sampled_from(["jsonl", "parquet"]))
def test_rows_of_anything_are_read_or_refused_and_never_crash(rows: list[dict[str, Any]], kind: str) -> None:
    try:
        content = WRITERS[kind](rows)
    except Exception:  # pandas cannot write columns of mixed types
        return
    try:
        found = _read(content, f"a.{kind}")
    except SparseRMError as error:
        assert str(error)
        return
    for prompt, chosen, rejected in found:
        assert prompt and prompt[-1].role == "user" and prompt[-1].content.strip()
        assert chosen.strip() and rejected.strip()


@THOROUGH
@given(
    st.binary(max_size=200),
    st.sampled_from(["jsonl", "json", "csv", "tsv", "parquet", "jsonl.gz", "csv.xz", "json.zst", "csv.bz2"]),
)
def test_bytes_of_anything_are_read_or_refused_and_never_crash(content: bytes, kind: str) -> None:
    with pytest.raises(SparseRMError):
        _read(content, f"a.{kind}")


# ------------------------------------------------------------------------------------------- templates and transcripts


@THOROUGH
@given(_meant(), st.sampled_from(sorted(TEMPLATES)), st.sampled_from(["prompt", "whole", "both"]), st.booleans())
def test_what_was_meant_is_read_out_of_every_template(meant: Meant, name: str, kind: str, thinks: bool) -> None:
    template = TEMPLATES[name]
    turns = tuple(turn for turn in meant.prompt if turn.role != "system" or template.system)
    asked, before = template.prompt(turns), template.thinks if thinks else template.says
    chosen, rejected = (before + text + template.end for text in (meant.chosen, meant.rejected))
    row = (
        {"chosen": chosen, "rejected": rejected}
        if kind == "prompt"
        else {"chosen": asked + chosen, "rejected": asked + rejected}
    )
    prompt = {} if kind == "whole" else {"prompt": asked if kind == "prompt" else meant.turns[-1]}
    (found,) = parse_rows(read_bytes(WRITERS["jsonl"]([{**prompt, **row}]), "a.jsonl"), "a", columns=None, skip_bad=False).pairs
    expected = [(turn.role, turn.content.strip()) for turn in turns]
    assert [(turn.role, turn.content.strip()) for turn in found.prompt] == expected
    assert (found.chosen.strip(), found.rejected.strip()) == (meant.chosen.strip(), meant.rejected.strip())


_MARKS = st.sampled_from(
    [
        *("<|im_start|>user\n", "<|im_end|>", "[INST]", "[/INST]", "<|user|>", "<|assistant|>\n", "<｜User｜>", "[|user|]"),
        *("\n\nHuman: ", "\n\nAssistant: ", "\nUser: ", "USER: ", " ASSISTANT: ", "### Instruction:\n", "### Response:\n"),
        *(
            "<|start_of_role|>user<|end_of_role|>",
            "[gMASK]<sop>",
            "<|im_user|>user<|im_middle|>",
            "<|channel|>final<|message|>",
        ),
    ]
)


@THOROUGH
@given(PLAIN, st.lists(st.tuples(_MARKS, PLAIN), min_size=1, max_size=3), PLAIN)
def test_marks_in_the_middle_are_text_and_never_passed_over_in_silence(
    begin: str, marked: list[tuple[str, str]], end: str
) -> None:
    """A text that begins with a word, and has marks and words after it, is kept as it is; or refused."""
    text = f"Well, {begin}" + "".join(mark + said for mark, said in marked) + f" so {end}."
    for row in ({"prompt": "Why?", "chosen": text, "rejected": "No."}, {"prompt": text, "chosen": "Yes.", "rejected": "No."}):
        found = parse_rows(read_bytes(WRITERS["jsonl"]([row]), "a.jsonl"), "a", columns=None, skip_bad=False)
        (pair,) = found.pairs
        assert (pair.prompt, pair.chosen) == ((Message("user", row["prompt"]),), row["chosen"])
        assert mark_in(text) is None or any("read as text" in issue.problem for issue in found.issues)
