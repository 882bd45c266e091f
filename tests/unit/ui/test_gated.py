"""Gated heads on the pages: rows that can be checked by hand, silence that adds nothing, verdicts on what was learned."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sparserm.explain.comparison import SideBySide
from sparserm.sae.autoencoder import SAEInfo
from sparserm.support.files import to_csv
from sparserm.ui.compare.component import linked_data
from sparserm.ui.shared.charts import contribution_bars
from sparserm.ui.shared.firing import silent_line
from sparserm.ui.shared.tables import contributions_table, differences_table
from sparserm.ui.train import setup
from sparserm.ui.train.learned import learned_table
from tests.unit.heads.test_learned import learned
from tests.unit.ui.gated import FEATURES, explained


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("seed", range(5))
def test_every_row_of_the_file_reconciles_and_says_whether_the_feature_fires(seed, pooling) -> None:
    given = explained(seed, pooling)
    rows = list(csv.DictReader(io.StringIO(to_csv(contributions_table(given)))))
    *parts, _, reward = rows
    assert {int(row["feature"]) for row in parts} == set(FEATURES)
    for row in parts:
        weight, score, mu, sigma = (float(row[name]) for name in ("weight", "score", "mu", "sigma"))
        assert weight * (score - mu) / sigma == pytest.approx(float(row["contribution"]), abs=1e-9)
        assert row["fires"] in ("True", "False") and mu == 0
        if row["fires"] == "False":
            assert float(row["contribution"]) == 0 == score
        assert (row["fires"] == "True") == (float(row["activation"]) > 0)
        if pooling == "mean":
            assert (row["fires"] == "True") == bool(row["fires_at"])
    assert sum(float(row["contribution"]) for row in parts) == pytest.approx(float(reward["contribution"]))


@pytest.mark.parametrize("seed", range(5))
def test_bars_are_of_firing_features_only_and_add_up(seed) -> None:
    given = explained(seed)
    bars = contribution_bars(given, 8)
    firing = {part.feature for part in given.contributions if part.fires}
    assert {bar.feature for bar in bars} == firing and 2 not in firing
    assert sum(bar.value for bar in bars) == pytest.approx(given.reward)
    assert all(bar.where.startswith("fires on: w") for bar in bars)
    assert silent_line(given.contributions).startswith(str(len(FEATURES) - len(firing)))


def test_two_responses_are_compared_by_what_fires_in_either() -> None:
    found = SideBySide((explained(0), explained(1)))
    data = linked_data(found, 0, 1, shares=True)
    firing = {part.feature for one in found.explanations for part in one.contributions if part.fires}
    assert {feature[0] for feature in data["features"]} == firing
    assert data["quiet"] == f"{3 - len(firing)} more feature fires in neither response and contributes nothing."
    for _, _, a, b, weight, more, contribution, in_a, in_b in data["features"]:
        assert weight * (a - b) / more["sigma"] == pytest.approx(contribution) == pytest.approx(in_a - in_b)
        assert more["fires"] == [a != 0, b != 0] and [one > 0 for one in more["activation"]] == more["fires"]
    table = differences_table(found.differences(0, 1))
    assert {"sigma", "fires_a", "fires_b", "activation_a", "activation_b"} <= set(table)


def test_what_was_learned_is_listed_largest_weight_first_and_by_family() -> None:
    table = learned_table(learned(3, [1.0, 0.6, 0.4]), {0: "polite"})
    assert table["feature"].tolist() == [2, 0, 4] and table["label"].tolist() == ["", "polite", ""]
    assert table["selected"].tolist() == [0.6, 1.0, 0.4] and table["gap"].tolist() == pytest.approx([0, 0.25, -0.1])
    assert not {"selected", "family"} & set(learned_table(learned(None), {}))
    one = learned(3, [1.0, 0.6, 0.4])
    weights, families = np.array([1.0, 2.0, 1.5]), np.array([2, 2, 4])
    table = learned_table(replace(one, head=replace(one.head, weights=weights, families=families)), {})
    assert table["feature"].tolist() == [2, 0, 4] and table["family"].fillna(-1).tolist() == [2, 2, -1]


def test_gated_scores_are_offered_where_all_saes_have_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {"a/topk": Path("topk"), "a/jump": Path("jump")}
    info = SAEInfo("a", Path(), "blocks.0.hook_resid_post", 0, 4, "jumprelu", {})
    monkeypatch.setattr(setup, "find_saes", lambda: folders)
    kinds = {"topk": "topk", "jump": "jumprelu"}
    monkeypatch.setattr(setup, "describe_sae", lambda name, folder: replace(info, architecture=kinds[folder.name]))
    assert setup.allowed_scores(["a/jump"]) == ("gated", "projection")
    assert setup.allowed_scores(["a/topk"]) == setup.allowed_scores(["a/jump", "a/topk"]) == ("projection",)
