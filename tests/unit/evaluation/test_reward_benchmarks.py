"""Reward benchmarks by their published rules, every score computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sparserm.evaluation.reward_benchmarks import REWARDBENCH, REWARDBENCH_2, RM_BENCH, recognise, score_benchmark
from sparserm.pairs.parsing import parse_pairs


def _pair_rows(*subsets: str) -> list[dict]:
    return [{"prompt": f"p{i}", "chosen": "good", "rejected": "bad", "subset": s, "id": i} for i, s in enumerate(subsets)]


def _list_row(number: int, chosen: int, rejected: int, **columns) -> dict:
    return {
        "prompt": f"p{number}",
        "chosen": [f"right {i}" for i in range(chosen)],
        "rejected": [f"wrong {i}" for i in range(rejected)],
        **columns,
    }


def _score(rows: list[dict], rewards: list[tuple[list[float], list[float]]]):
    """Score rows, given the rewards of each row's chosen and rejected responses."""
    pairs = [(a, b) for chosen, rejected in rewards for a in chosen for b in rejected]
    return score_benchmark(parse_pairs(rows), *np.array(pairs).T)


# ---------------------------------------------------------------------------------------------------------- recognition


def test_formats_are_recognised_from_their_rows() -> None:
    tie = {"subset": "Ties", "num_correct": 2, "id": "tied:0"}
    assert recognise(parse_pairs(_pair_rows("hep-go", "shp"))) == REWARDBENCH
    assert recognise(parse_pairs([_list_row(0, 1, 3, subset="Focus"), _list_row(1, 2, 2, **tie)])) == REWARDBENCH_2
    assert recognise(parse_pairs([_list_row(0, 3, 3, domain="safety-refuse"), _list_row(1, 3, 3, domain="chat")])) == RM_BENCH


@pytest.mark.parametrize(
    "rows",
    [
        _pair_rows("hep-go", "my own"),
        _pair_rows("Math", "Safety"),
        _pair_rows("chat", "code"),
        [{"prompt": "p", "chosen": "good", "rejected": "bad"}],
        [_list_row(0, 3, 3, domain="cooking")],
        [_list_row(0, 3, 3, domain="chat"), _list_row(1, 3, 2, domain="chat")],
    ],
)
def test_ordinary_pairs_are_no_benchmark(rows) -> None:
    data = parse_pairs(rows)
    assert recognise(data) is None
    assert score_benchmark(data, np.zeros(len(data.pairs)), np.zeros(len(data.pairs))) is None


# ---------------------------------------------------------------------------------------------------------- RewardBench


def test_rewardbench_sections_count_prompts_and_reasoning_counts_mathematics_as_much_as_code() -> None:
    chat = _pair_rows("alpacaeval-easy", "alpacaeval-easy", "alpacaeval-easy", "mt-bench-med")
    reasoning = _pair_rows("math-prm", "hep-cpp", "hep-go", "hep-go", "hep-rust")
    wins = [1, 1, 0, 1, *(0, 1, 1, 0, 1)]
    found = _score(chat + reasoning, [([float(win)], [0.5]) for win in wins])
    assert found.sections == {"Chat": 0.75, "Reasoning": pytest.approx((0 + 3 / 4) / 2)}
    assert found.overall == pytest.approx((0.75 + 0.375) / 2)
    assert {row.name: (row.n, row.scores["accuracy"]) for row in found.rows}["hep-go"] == (2, 0.5)
    assert "llmbar-natural" in found.notes[0]


def test_rewardbench_counts_prior_sets_half_and_takes_the_mean_of_its_sets() -> None:
    rows = _pair_rows("donotanswer", "shp", "shp", "shp", "summarize")
    found = _score(rows, [([win], [0.5]) for win in (1, 1, 1, 1, 0)])
    assert found.sections == {"Safety": 1.0, "Prior Sets": 0.5}
    assert found.overall == pytest.approx((2 * 1.0 + 1 * 0.5) / 3)


def test_a_tie_loses_in_rewardbench() -> None:
    assert _score(_pair_rows("hep-go"), [([1.0], [1.0])]).overall == 0.0


# -------------------------------------------------------------------------------------------------------- RewardBench 2


def test_rewardbench_2_shares_the_first_place_and_averages_subsets() -> None:
    rows = [_list_row(i, 1, 3, subset=subset) for i, subset in enumerate(["Focus", "Focus", "Focus", "Math"])]
    found = _score(rows, [([2], [1, 2, 2]), ([2], [1, 1, 0]), ([2], [3, 1, 1]), ([1], [1, 0, 0])])
    assert found.sections == {"Focus": pytest.approx((1 / 3 + 1 + 0) / 3), "Math": 0.5}
    assert found.overall == pytest.approx((4 / 9 + 1 / 2) / 2)
    assert found.notes == ("not in the file, and left out of the overall score: Factuality, Precise IF, Safety, Ties",)


def _ties_rows(*marks: str) -> list[dict]:
    return [_list_row(i, 3 if mark.startswith("tied") else 1, 2, subset="Ties", id=mark) for i, mark in enumerate(marks)]


def test_ties_by_hand() -> None:
    found = _score(
        _ties_rows("ref:0", "tied:0", "ref:1", "tied:1"),
        [([3], [1, 2]), ([4, 5, 4.5], [1, 2]), ([1], [2, 0]), ([6, 3, 3], [1, 0])],
    )
    # tied:0 gap 2, spread 1; ref:0 gap 1, no more than the spread; tied:1 gap 2, spread 3; ref:1 gap -1, inaccurate.
    margin = (np.tanh(1 / 1 - 1) + np.tanh(-1 / 3 - 1)) / 2
    assert found.details == {
        "accuracy, many correct": 1.0,
        "accuracy, one correct": 0.5,
        "correctness over spread": 0.5,
        "correctness over spread, both prompts": 0.0,
        "margin": pytest.approx(margin),
    }
    assert found.overall == pytest.approx(0.3 + 0.3 * 0.5 + 0.2 * 0.5 + 0 + 0.01 * margin)


def test_ties_between_equal_correct_answers_have_no_margin_to_divide_by() -> None:
    found = _score(_ties_rows("ref:0", "tied:0"), [([3], [1, 2]), ([4, 4, 4], [1, 2])])
    assert found.overall == pytest.approx(0.3 + 0.3 + 0.2 + 0.2 + 0.01)


def test_ties_without_their_other_half_are_left_out_and_said() -> None:
    rows = [*_ties_rows("tied:0"), _list_row(9, 1, 3, subset="Math")]
    found = _score(rows, [([4, 5, 4.5], [1, 2]), ([1], [0, 0, 0])])
    assert (found.overall, list(found.sections)) == (1.0, ["Math"])
    assert "ref:N" in found.notes[0]


# ------------------------------------------------------------------------------------------------------------- RM-Bench


def test_rm_bench_by_hand() -> None:
    rows = [_list_row(0, 3, 3, domain="chat"), _list_row(1, 3, 3, domain="chat"), _list_row(2, 3, 3, domain="math")]
    found = _score(rows, [([1, 2, 3], [0, 1, 2]), ([0, 0, 0], [1, 1, 1]), ([1, 1, 1], [0, 0, 0])])
    # The first prompt: 1 > 0; 2 > 0, 1; 3 > 0, 1, 2: normal 3/3, easy 3/3, hard 0/3 (ties lose).
    chat, math = found.rows
    assert (chat.n, chat.scores) == (2, {"hard": 0.0, "normal": 0.5, "easy": 0.5, "average": pytest.approx(1 / 3)})
    assert math.scores == {"hard": 1.0, "normal": 1.0, "easy": 1.0, "average": 1.0}
    assert found.details == {"hard": 0.5, "normal": 0.75, "easy": 0.75}
    assert found.overall == pytest.approx((1 / 3 + 1) / 2)
    assert found.matrix == ((0.75, 0.5, 0.5), (0.75, 0.75, 0.5), (0.75, 0.75, 0.75))


def test_both_kinds_of_safety_are_one_domain_of_rm_bench() -> None:
    rows = [_list_row(i, 3, 3, domain=domain) for i, domain in enumerate(["safety-refuse", "safety-refuse", "safety-response"])]
    win, loss = ([1, 1, 1], [0, 0, 0]), ([0, 0, 0], [1, 1, 1])
    found = _score(rows, [win, win, loss])
    assert (found.sections, found.rows[0].n) == ({"safety": pytest.approx(2 / 3)}, 3)


def test_rows_that_could_not_be_read_are_said() -> None:
    data = parse_pairs([*_pair_rows("hep-go"), {**_pair_rows("hep-go")[0], "rejected": ""}], skip_bad=True)
    found = score_benchmark(data, np.ones(1), np.zeros(1))
    assert found is not None and "could not be read, and are not counted: 1" in found.notes[-1]
