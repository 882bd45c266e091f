"""Results as text: the file to take away holds every part, and the sentence computes the sum from them."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

import numpy as np
import pytest

from sparserm.explain.contributions import Explanation, explain_difference
from sparserm.ui.score.tables import sum_check
from sparserm.ui.shared.tables import contributions_table, differences_table, tokens_table
from tests.unit.ui.explanations import explanation


def _random(seed: int) -> Explanation:
    rng = np.random.default_rng(seed)
    return explanation(*rng.normal(size=8).tolist(), bias=float(rng.normal()))


def _rows(given: Explanation) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(contributions_table(given).to_csv(index=False))))


def test_the_file_by_hand() -> None:
    assert contributions_table(explanation(0.5, -2.0, bias=1.0)).to_csv(index=False).splitlines() == [
        "feature,label,fires,fires_at,activation,score,mu,sigma,weight,contribution",
        "11,feature 11,,,,4.0,0.0,1.0,-0.5,-2.0",
        "10,feature 10,,,,-1.0,0.0,1.0,-0.5,0.5",
        ",bias,,,,,,,,1.0",
        ",reward,,,,,,,,-0.5",
    ]


@pytest.mark.parametrize("seed", range(10))
def test_the_file_holds_every_part_to_the_last_digit_and_they_add_up(seed) -> None:
    given = _random(seed)
    *parts, bias, reward = _rows(given)
    assert [(int(row["feature"]), float(row["contribution"])) for row in parts] == [
        (part.feature, part.contribution) for part in given.contributions
    ]
    assert float(bias["contribution"]) == given.bias and float(reward["contribution"]) == given.reward
    total = sum(float(row["contribution"]) for row in parts) + float(bias["contribution"])
    assert total == pytest.approx(given.reward, abs=1e-12)
    assert "nan" not in contributions_table(given).to_csv(index=False).lower()


def test_the_file_names_families_only_where_features_share_one_and_holds_every_feature() -> None:
    given = explanation(0.5, -2.0, 0.25, bias=1.0)
    parts = tuple(replace(part, family=12 if part.feature != 11 else 11) for part in given.contributions)
    table = contributions_table(replace(given, contributions=parts))
    assert "family" not in contributions_table(given)
    assert table["family"].tolist()[:3] == [11, 12, 12] and list(table)[:3] == ["feature", "label", "family"]
    assert table["contribution"][:4].sum() == pytest.approx(given.reward, abs=1e-5)
    lines = table.to_csv(index=False).splitlines()
    assert lines[1].startswith("11,feature 11,11,") and lines[-1].startswith(",reward,,")
    differences = explain_difference(replace(given, contributions=parts), explanation(1.0, 1.0, 1.0))
    table = differences_table(differences)
    assert table["family"].tolist()[:3] == [part.family for part in differences] and "family" not in differences_table(
        explain_difference(given, given)
    )
    assert table["contribution"].iloc[:-1].sum() == pytest.approx(table["contribution"].iloc[-1], abs=1e-5)


def test_labels_with_commas_quotes_and_line_breaks_survive() -> None:
    label = 'says "no", then\nnothing ☕'
    assert _rows(explanation(1.0, labels={10: label}))[0]["label"] == label


def test_a_file_without_contributions_holds_bias_and_reward() -> None:
    assert [row["label"] for row in _rows(explanation(bias=1.0))] == ["bias", "reward"]


def test_the_sentence_by_hand() -> None:
    assert sum_check(explanation(0.5, -2.0, 0.25, 0.0, bias=1.0)) == (
        "2 features raise the reward by +0.750, 1 lower it by -2.000; "
        "with the bias of +1.000 they add up to the reward of -0.250."
    )


@pytest.mark.parametrize("seed", range(10))
def test_the_sentences_numbers_add_up(seed) -> None:
    given = _random(seed)
    up, down, bias, total = (float(number) for number in re.findall(r"[+-]\d+\.\d{3}", sum_check(given)))
    assert up >= 0 >= down
    assert up + down + bias == pytest.approx(total, abs=2e-3)
    assert total == pytest.approx(given.reward, abs=1e-3)


def test_the_sum_is_computed_from_the_parts_and_not_taken_from_the_reward() -> None:
    given = explanation(1.0, 2.0)
    wrong = Explanation(**{**vars(given), "reward": 99.0})
    assert "add up to the reward of +3.000" in sum_check(wrong)


def test_nothing_adds_up_to_nothing() -> None:
    said = sum_check(explanation())
    assert "0 features raise the reward by +0.000, 0 lower it by +0.000" in said and "nan" not in said


def test_the_tokens_sum_across_features() -> None:
    given = _random(3)
    table = tokens_table(given)
    assert table["text"].tolist() == list(given.tokens) and table["token"].tolist() == list(range(1, len(given.tokens) + 1))
    np.testing.assert_allclose(table["sum"], given.token_contributions.sum(1))
    assert [name for name in table if name.startswith("feature_")] == [f"feature_{one}" for one in given.features]
