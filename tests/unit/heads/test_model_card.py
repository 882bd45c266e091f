"""What is said of a head: its card's figures, the limits that follow from them, and nothing from a card that says little."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparserm.heads.model_card import accuracy, baselines, card_markdown, card_rows, head_limits, reference_rewards
from sparserm.heads.reward import RewardHead
from sparserm.heads.saved import HeadCard, SavedHead, head_hash

METRICS = {
    "accuracy": 0.85,
    "ci95": [0.8, 0.9],
    "n": 1234,
    "measured_on": "test.jsonl",
    "random_directions": 0.7,
    "length_baseline": 0.5,
    "dense_probe": 0.88,
}
TRAINING = {"data": "train.jsonl", "n_pairs": 2000, "n_prompts": 600, "licence": "MIT"}


def _saved(metrics: dict[str, Any] = METRICS, training: dict[str, Any] = TRAINING, **card: Any) -> SavedHead:
    one = np.ones(1)
    head = RewardHead(np.array([7]), np.eye(1, 3, dtype=np.float32), np.zeros(3, np.float32), one, one, one, 0.0, "mean")
    fields = {
        "name": "kind",
        "backbone": "tiny",
        "backbone_fingerprint": "bb",
        "hook": "blocks.1.hook_resid_post",
        "sae": "dictionary",
        "sae_fingerprint": "ss",
        "d_sae": 4608,
    }
    percentiles = np.arange(101.0)
    card_ = HeadCard(**fields | card, metrics=metrics, training=training)
    return SavedHead(head, card_, one, one, percentiles, -percentiles[::-1], np.zeros(0, np.int64))


def _limits(**changes: Any) -> str:
    return " ".join(head_limits(_saved(**changes)))


def test_the_facts_are_the_cards() -> None:
    saved = _saved()
    facts = dict(card_rows(saved))
    assert facts["version"] == head_hash(saved)
    assert facts["accuracy"] == "85.0% (95% interval 80.0% to 90.0%, n = 1,234) on test.jsonl"
    assert facts["baselines"] == (
        "dense probe on the whole representation 88.0%, random latents 70.0%, longer-response baseline 50.0%"
    )
    assert facts["trained on"] == "train.jsonl: 2,000 pairs of 600 prompts"
    assert facts["features"] == "1 of 4,608 latents of SAE dictionary (ss)"
    assert "edited" not in facts


def test_the_reference_rewards_say_of_which_responses_it_is() -> None:
    assert reference_rewards(_saved()) == (
        "typical chosen +50.00 (middle 50% +25.00 to +75.00), typical rejected -50.00 (-75.00 to -25.00); "
        "medians of the training responses"
    )
    edited = _saved(training={"yardstick": "responses of other.jsonl, 9 held-out pairs"})
    assert reference_rewards(edited).endswith("medians of responses of other.jsonl, 9 held-out pairs")


def test_an_edited_head_says_what_was_edited() -> None:
    lineage = {"parent": "kind", "parent_hash": "01234567", "edits": {"7": 0.0, "8": -1.0, "9": 0.5}}
    facts = dict(card_rows(_saved(training={**TRAINING, "lineage": lineage})))
    assert facts["edited"] == "from kind (01234567): 7 off, 8 flipped, 9 × 0.5"
    assert "edited by hand" in _limits(training={**TRAINING, "lineage": lineage})
    assert "edited by hand" not in _limits(training={**TRAINING, "lineage": lineage}, metrics={})


def test_limits_follow_from_the_figures() -> None:
    plain = _limits()
    assert "ranks about 15 of 100 test pairs incorrectly" in plain and "tiny at blocks.1" in plain
    assert not any(word in plain for word in ("longer response", "random latents", "commercially", "not stated"))
    assert "not been evaluated" in _limits(metrics={})
    assert "ranks about 15 of 100 test pairs incorrectly." in _limits(metrics={"accuracy": 0.85})
    few = _limits(metrics={"accuracy": 1.0, "ci95": [0.758, 1.0], "n": 12})
    assert "ranks all 12 test pairs as labelled" in few and "of 100 others up to 24 may be ranked incorrectly" in few
    assert "Picking the longer response does about as well" in _limits(metrics={**METRICS, "length_baseline": 0.81})
    assert "preferred in 70%" in _limits(metrics={**METRICS, "length_baseline": 0.7})
    assert "random latents does about as well" in _limits(metrics={**METRICS, "random_directions": 0.8})
    assert "Surface features alone" in _limits(metrics={**METRICS, "surface_features": 0.82})
    assert "not be used commercially (X, CC BY-NC 4.0)" in _limits(training={"licence": "X, CC BY-NC 4.0"})
    assert "licence of its training data is not stated" in _limits(training={})


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        {"accuracy": None},
        {"accuracy": "high"},
        {"accuracy": True},
        {"accuracy": 0.5, "ci95": "wide", "n": [1]},
        {"accuracy": 0.5, "ci95": [None, 1]},
        {"accuracy": 0.5, "ci95": [], "length_baseline": {}},
    ],
)
def test_a_card_with_odd_entries_is_still_told_of(metrics) -> None:
    saved = _saved(metrics=metrics, training={"n_pairs": "many", "lineage": {"edits": 3}})
    assert card_rows(saved) and head_limits(saved) and card_markdown(saved)
    assert accuracy(saved.card) in ("", "50.0%") and baselines(saved.card) == ""


def test_the_model_card_holds_every_fact_and_limit_and_no_markup_of_others() -> None:
    saved = _saved(name="<b>x</b> | [y](z)")
    text = card_markdown(saved)
    assert text.startswith("# \\<b\\>x\\</b\\> \\| \\[y\\](z)\n")
    assert text.count("\n| ") == len(card_rows(saved)) + 1 and text.count("\n- ") == len(head_limits(saved))
