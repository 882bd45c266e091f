"""Best of N: candidates from files and pasted text, their ranking, and pairs that training reads back."""

from __future__ import annotations

import csv
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserm.pairs.candidates import (
    Candidates,
    keep_candidates,
    kept_candidates,
    load_candidates,
    parse_candidates,
    read_candidates,
)
from sparserm.pairs.load import load_pairs
from sparserm.pairs.parsing import PairsError, parse_pairs
from sparserm.pairs.templates import spoken
from sparserm.scoring.best_of_n import best_rows, count_truncated, preference_rows, rank, rank_by, ranking_rows
from sparserm.support.files import to_csv, to_jsonl
from sparserm.types import Message, SparseRMError

USER = {"role": "user", "content": "Q1"}


def _jsonl(*rows: object) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def _texts(found: Candidates) -> dict[str, tuple[str, ...]]:
    return {one.prompt[-1].content: one.responses for one in found.sets}


# ------------------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize(
    ("data", "filename"),
    [
        (_jsonl({"prompt": "Q1", "responses": ["a", "b"]}, {"prompt": "Q2", "responses": ["c", "d"]}), "x.jsonl"),
        (
            json.dumps([{"prompt": "Q1", "completions": ["a", "b"]}, {"prompt": "Q2", "completions": ["c", "d"]}]).encode(),
            "x.json",
        ),
        (_jsonl(*({"prompt": p, "response": r} for p, r in (("Q1", "a"), ("Q2", "c"), ("Q1", "b"), ("Q2", "d")))), "x.jsonl"),
        (b'prompt,responses\nQ1,"[""a"", ""b""]"\nQ2,"[""c"", ""d""]"\n', "x.csv"),
        (b"prompt;candidate\nQ1;a\nQ1;b\n Q2 ;c\nQ2;d\n", "x.csv"),
        (
            _jsonl(
                {"prompt": [USER], "responses": [[{"role": "assistant", "content": "a"}], "b"]},
                {"prompt": "\n\nHuman: Q2\n\nAssistant:", "responses": ["c", {"role": "assistant", "content": "d"}]},
            ),
            "x.jsonl",
        ),
    ],
)
def test_every_form_gives_the_same_candidates(data, filename) -> None:
    found = read_candidates(data, filename)
    assert {prompt.strip(): responses for prompt, responses in _texts(found).items()} == {"Q1": ("a", "b"), "Q2": ("c", "d")}
    assert (found.issues, found.n_responses) == ((), 4)


@pytest.mark.parametrize(
    ("beside", "turns"),
    [
        ({"system": "Be brief."}, (Message("system", "Be brief."), Message("user", "Q1"))),
        ({"context": "A passage."}, (Message("user", "A passage.\n\nQ1"),)),
        ({"input": "Good day"}, (Message("user", "Q1\n\nGood day"),)),
        ({"history": [["Hi", "Hello"]]}, (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Q1"))),
        (
            {"messages": [{"role": "system", "content": "Be brief."}, USER]},
            (Message("system", "Be brief."), Message("user", "Q1")),
        ),
    ],
)
@pytest.mark.parametrize("columns", [("prompt", "responses"), ("Prompt", "Completions"), ("instruction", "candidates")])
def test_what_stands_beside_a_prompt_belongs_to_it_as_in_pairs(columns, beside, turns) -> None:
    found = read_candidates(_jsonl({**beside, columns[0]: "Q1", columns[1]: ["a", "b"]}), "x.jsonl")
    assert [(one.prompt, one.responses) for one in found.sets] == [(turns, ("a", "b"))]
    pairs = parse_pairs([{**beside, columns[0]: "Q1", "chosen": "a", "rejected": "b"}])
    assert pairs.pairs[0].prompt == turns
    assert [one.problem for one in found.issues] == [one.problem for one in pairs.issues]


def test_prompts_that_differ_in_the_system_message_or_in_indentation_are_ranked_apart() -> None:
    rows = [{"system": one, "prompt": "Q", "response": text} for one, text in (("A", "a"), ("B", "b"), ("A", "c"))]
    assert [one.rows for one in read_candidates(_jsonl(*rows), "x.jsonl").sets] == [(1, 3), (2,)]
    rows = [{"prompt": f"if x:\n{indent}y", "response": "a"} for indent in ("  ", "    ")]
    assert len(read_candidates(_jsonl(*rows), "x.jsonl").sets) == 2


@pytest.mark.parametrize(
    "whole", ["\n\nHuman: Q1\n\nAssistant: {}", "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n"]
)
def test_responses_that_are_whole_conversations_are_ranked_by_their_answers(whole) -> None:
    found = read_candidates(_jsonl({"prompt": "Q1", "responses": [whole.replace("{}", one) for one in "ab"]}), "x.jsonl")
    assert _texts(found) == {"Q1": ("a", "b")} and not found.issues


def test_what_is_doubtful_about_a_candidate_is_said_as_of_a_pair() -> None:
    found = read_candidates(
        _jsonl({"prompt": '["Q1"]', "responses": ["nan", "Human: Hi\n\nAssistant: b", "<think>Hm.</think>c"]}), "x.jsonl"
    )
    assert _texts(found) == {"Q1": ("nan", "Human: Hi\n\nAssistant: b", "c")}
    said = ["is the text 'nan', which may be a missing value", "looks like a transcript (Human:): read as text"]
    said += ["thinking at the beginning of responses was left out (1 row)", "read the text in each list or object of `prompt`"]
    assert [one.problem for one in found.issues] == said


def test_rows_are_remembered(tmp_path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(
        _jsonl({"prompt": "Q1", "response": "a"}, {"prompt": "Q2", "response": "b"}, {"prompt": "Q1", "response": "c"})
    )
    assert [one.rows for one in load_candidates(path).sets] == [(1, 3), (2,)]


def test_pasted_blocks_are_prompts_and_responses() -> None:
    text = "Q1\n---\na\nin two lines\n ---\r\n<b>b</b>\n===\n\nQ2\n---\nc -- d\n---\ne\n===\n"
    assert _texts(parse_candidates(text)) == {"Q1": ("a\nin two lines", "<b>b</b>"), "Q2": ("c -- d", "e")}
    assert _texts(parse_candidates(_jsonl({"prompt": "Q", "responses": ["a", "b"]}).decode())) == {"Q": ("a", "b")}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has nothing to rank"),
        (" \n===\n", "has nothing to rank"),
        ("only a prompt", "responses: is empty, expected a list"),
        ("---\na", "prompt: is empty"),
        ('{"prompt": "Q", "responses": ["a"', "not valid JSON"),
        ('{"text": "Q", "responses": ["a", "b"]}', "has the columns 'text', 'responses'; expected 'prompt' with"),
        ('{"prompt": "Q", "responses": ["a"], "completions": ["b"]}', "in the columns 'responses' and 'completions', of which"),
        ('{"prompt": "Q", "text": "a"}', "expected 'prompt' with 'responses'"),
        ('{"prompt": "Q", "responses": "a, b"}', "expected a list in JSON or Python's print format"),
        ('{"prompt": "Q", "responses": {"a": 1}}', "is not a list"),
        ('{"prompt": "Q", "responses": []}', "responses: is empty"),
    ],
)
def test_what_cannot_be_ranked_is_refused_with_what_helps(text, said) -> None:
    with pytest.raises(SparseRMError) as error:
        parse_candidates(text, skip_bad=True)
    assert said in str(error.value)


def test_one_empty_candidate_costs_no_other() -> None:
    data = _jsonl({"prompt": "Q1", "responses": ["a", "", "b"]}, {"prompt": "", "responses": ["c"]}, ["no"])
    with pytest.raises(PairsError, match="3 entries cannot be used") as error:
        read_candidates(data, "x.jsonl")
    found = read_candidates(data, "x.jsonl", skip_bad=True)
    assert _texts(found) == {"Q1": ("a", "b")}
    assert [(issue.row, issue.column) for issue in found.issues] == [(1, "responses"), (2, "prompt"), (3, "(whole row)")]
    assert "response 2 is empty" in str(found.issues[0]) and len(error.value.issues) == 3


def test_a_lonely_response_is_a_warning() -> None:
    (issue,) = parse_candidates("Q\n---\na").issues
    assert issue.severity == "warning" and "only response" in issue.problem


def test_kept_candidates_are_found_again_by_their_hash(sparserm_home) -> None:
    turns = [USER, {"role": "assistant", "content": "?"}, {"role": "user", "content": "\u2028Q"}]
    data = read_candidates(
        _jsonl({"prompt": turns, "responses": ["a", "\ta\n"]}, {"prompt": "Q2", "response": "b"}), "x.jsonl", skip_bad=True
    )
    digest = keep_candidates(data)
    assert digest == keep_candidates(data)
    assert kept_candidates(digest).sets == data.sets
    for wrong in ("0" * 16, "../x", "", digest + "\n"):
        with pytest.raises(SparseRMError, match="no candidates"):
            kept_candidates(wrong)


# ------------------------------------------------------------------------------------------------------------ ranking

TWO = read_candidates(
    _jsonl({"prompt": "Q1", "responses": ["a", "b", "c"]}, {"prompt": "Q2", "responses": ["d", "e"]}), "x.jsonl"
)


def test_each_prompt_has_its_own_ranking(monkeypatch) -> None:
    asked = []
    cut = SimpleNamespace(n_truncated=np.arange(5) % 2)
    model = SimpleNamespace(head=None, represent_texts=lambda texts, progress: (asked.extend(texts), cut)[1])
    monkeypatch.setattr("sparserm.scoring.best_of_n.rewards", lambda head, found: np.arange(5.0) % 3)
    first, second = rank(model, TWO)  # type: ignore[arg-type]
    assert [text.prompt[0].content for text in asked] == ["Q1", "Q1", "Q1", "Q2", "Q2"]
    assert [text.response for text in asked] == list("abcde")
    assert (first.n_truncated, second.n_truncated) == ((0, 1, 0), (1, 0)) and count_truncated([first, second]) == 2
    assert (first.rewards, first.ranking, first.best, first.worst, first.spread) == ((0.0, 1.0, 2.0), (2, 1, 0), 2, 0, 2.0)
    assert (second.rewards, second.ranking) == ((0.0, 1.0), (1, 0))
    assert first.p_best_beats_next == pytest.approx(1 / (1 + np.exp(-1)))


def test_equal_rewards_keep_their_order_and_a_lonely_response_beats_nothing() -> None:
    assert rank_by(TWO, np.zeros(5))[0].ranking == (0, 1, 2)
    (alone,) = rank_by(parse_candidates("Q\n---\na"), np.ones(1))
    assert (alone.ranking, alone.p_best_beats_next, alone.spread) == ((0,), None, 0.0)


def test_the_exported_ranking_by_hand() -> None:
    rows = ranking_rows(rank_by(TWO, np.array([0.0, np.log(3), 0.0, 1.0, 1.0])))
    assert [(row["prompt_number"], row["rank"], row["response"]) for row in rows] == [
        (1, 1, "b"),
        (1, 2, "a"),
        (1, 3, "c"),
        (2, 1, "d"),
        (2, 2, "e"),
    ]
    assert [row["beats_best"] for row in rows] == pytest.approx([0.5, 0.25, 0.25, 0.5, 0.5])
    assert [json.loads(line) for line in to_jsonl(rows).splitlines()] == rows
    table = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert [row["response"] for row in table] == list("bacde") and list(table[0]) == list(rows[0])


def test_the_best_of_each_prompt_by_hand() -> None:
    first, second = best_rows(rank_by(TWO, np.array([0.0, np.log(3), -1.0, 1.0, 1.0])))
    assert (first["best"], first["n"], first["reward"]) == ("b", 3, pytest.approx(np.log(3)))
    assert (first["beats_next"], first["spread"]) == (pytest.approx(0.75), pytest.approx(np.log(3) + 1))
    assert (second["best"], second["beats_next"], second["spread"]) == ("d", 0.5, 0.0)


def test_pairs_are_best_against_worst_with_a_minimum_margin() -> None:
    ranked = rank_by(TWO, np.array([0.0, 2.0, 1.0, 1.0, 1.0]))
    assert preference_rows(ranked) == [
        {"prompt": "Q1", "chosen": "b", "rejected": "a", "score_chosen": 2.0, "score_rejected": 0.0}
    ]
    assert len(preference_rows(ranked, 2.0)) == 1
    assert preference_rows(ranked, 2.1) == []


TEXT = st.text(min_size=1, max_size=30).filter(lambda text: text.strip())


@settings(deadline=None, max_examples=200)
@given(prompt=st.one_of(TEXT, st.just("\n\nHuman: hi\n\nAssistant: yes")), a=TEXT, b=TEXT)
def test_exported_pairs_are_read_back_as_they_were(prompt: str, a: str, b: str) -> None:
    a, b = spoken(a), spoken(b)
    if a.strip() == b.strip() or not a.strip() or not b.strip():
        return
    data = read_candidates(_jsonl({"prompt": [{"role": "user", "content": prompt}], "responses": [a, b]}), "x.jsonl")
    exported = to_jsonl(preference_rows(rank_by(data, np.array([0.0, 1.0]))))
    (pair,) = parse_pairs(map(json.loads, exported.rstrip("\n").split("\n"))).pairs
    assert (pair.prompt, pair.chosen, pair.rejected) == ((Message("user", prompt),), b, a)


def test_exported_pairs_are_a_file_that_training_loads(tmp_path) -> None:
    turns = [USER, {"role": "assistant", "content": "What?"}, {"role": "user", "content": "I mean: Q"}]
    data = read_candidates(
        _jsonl({"prompt": turns, "responses": ["a", "b"]}, {"prompt": "Q2", "responses": ["c", "d\nd"]}), "x.jsonl"
    )
    path = tmp_path / "pairs.jsonl"
    path.write_text(to_jsonl(preference_rows(rank_by(data, np.array([0.0, 1.0, 0.0, 1.0])))))
    loaded = load_pairs(path)
    assert loaded.issues == ()
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in loaded.pairs] == [
        (data.sets[0].prompt, "b", "a"),
        (data.sets[1].prompt, "d\nd", "c"),
    ]
