"""Two sets of pairs side by side, and slices of one: where effects differ, and where they do not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from sparserm.heads.labels import AutoLabel, Detection, save_auto_label
from sparserm.insights.effects import Effects, gaps_between
from sparserm.insights.find import insights_of, with_against
from sparserm.insights.report import differences_table, to_html, to_markdown
from sparserm.insights.values import Against, Insights
from sparserm.representations.values import PairRepresentations
from sparserm.types import Message, PreferenceData, PreferencePair
from tests.unit.features.latents import D_SAE, pairs_where, tiny_sae

N = 400


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SPARSERM_HOME", str(tmp_path))


def _effects(wins: list[int], n: list[int]) -> Effects:
    counts, zeros = np.array(n), np.zeros(len(n))
    return Effects(np.arange(len(n)), counts, np.array(wins), counts.astype(float), zeros, zeros + 1, 1000)


def test_the_interval_of_a_difference_is_that_of_agresti_and_caffo() -> None:
    found = gaps_between(_effects([56], [70]), _effects([48], [80]))
    # shares 57/72 and 49/82, standard error sqrt(.7917 * .2083 / 72 + .5976 * .4024 / 82) = .07230
    assert found.rate[0] == pytest.approx(0.2)
    assert (found.low[0], found.high[0]) == pytest.approx((0.19411 - 1.96 * 0.07230, 0.19411 + 1.96 * 0.07230), abs=1e-4)
    assert found.z[0] == pytest.approx(0.19411 / 0.07230, abs=1e-3)


def test_an_interval_holds_its_difference_also_where_all_pairs_are_won() -> None:
    found = gaps_between(_effects([30], [30]), _effects([0], [30]))
    assert found.rate[0] == 1.0 == found.high[0] and found.low[0] < 1


def _made(wins: dict[int, float], seed: int, categories: list[str] | None = None) -> tuple[PreferenceData, PairRepresentations]:
    """Pairs in which each latent fires at random, and wins with the given share."""
    rng = np.random.default_rng(seed)
    fires = rng.random((2, N, D_SAE)) < 0.4
    for latent, share in wins.items():
        alone = fires[0, :, latent] != fires[1, :, latent]
        fires[0, alone, latent] = rng.random(alone.sum()) < share
        fires[1, alone, latent] = ~fires[0, alone, latent]
    names = categories or [""] * N
    pairs = tuple(
        PreferencePair((Message("user", f"question {seed} {i}"),), f"word {i} a", f"word {i} b", category=names[i])
        for i in range(N)
    )
    return PreferenceData(f"set {seed}", pairs, (), N, f"hash {seed}"), pairs_where(fires, seed=seed)


def _beside(here: tuple[PreferenceData, PairRepresentations], there: tuple[PreferenceData, PairRepresentations]) -> Insights:
    return with_against(insights_of(*here, tiny_sae()), here, there, tiny_sae())


def _against(here: dict[int, float], there: dict[int, float]) -> tuple[Insights, Against]:
    found = _beside(_made(here, 1), _made(there, 2))
    assert found.against is not None
    return found, found.against


def test_what_one_rewards_and_the_other_punishes_or_does_not_is_found_and_what_both_reward_alike_is_not() -> None:
    found, against = _against({0: 0.9, 1: 0.85, 2: 0.9}, {0: 0.1, 1: 0.5, 2: 0.9})
    how = {one.feature: one.how for one in against.differences}
    assert how == {0: "rewarded here, punished there", 1: "rewarded here, not sure there"}
    assert against.differences[0].feature == 0  # the surest first
    one = against.differences[0]
    assert one.gap == pytest.approx(one.here.win_rate - one.there.win_rate) and one.ci95[0] < one.gap < one.ci95[1]
    assert (against.data, against.n_pairs, against.n_sure) == ("set 2", N, 2) and found.data == "set 1"


def test_a_difference_in_strength_says_where_there_is_more() -> None:
    _, against = _against({0: 0.95, 1: 0.1}, {0: 0.7, 1: 0.35})
    assert {one.feature: one.how for one in against.differences} == {
        0: "rewarded in both, more here",
        1: "punished in both, more here",
    }


@pytest.mark.parametrize("seed", range(5))
def test_two_sets_of_one_kind_do_not_differ(seed: int) -> None:
    wins = {0: 0.9, 1: 0.2}
    against = _beside(_made(wins, 10 + seed), _made(wins, 20 + seed)).against
    assert against is not None and against.differences == () and against.n_tested >= D_SAE
    assert "none surely has another effect there" in against.verdict


def test_differences_are_in_every_report_and_in_json() -> None:
    score = Detection(0.9, (0.8, 0.95), 0.9, 40, 20)
    label = AutoLabel("says <b>no", "", "a reader", "d", "h", 10, 100, detection=score, evidence="fires on: no")
    save_auto_label(tiny_sae().fingerprint, 0, label)
    found, against = _against({0: 0.9}, {0: 0.1})
    (row,) = differences_table(against)
    assert (row["how"], row["name"]) == ("rewarded here, punished there", "says <b>no")
    assert "Against set 2: a response that says <b>no is chosen in" in against.verdict
    page = to_html(found)
    assert "Against set 2" in page and "says &lt;b&gt;no" in page and "rewarded here, punished there" in page
    assert "# Against set 2" in to_markdown(found) and "rewarded here, punished there" in to_markdown(found)
    value = json.loads(json.dumps(found.to_dict(), allow_nan=False))["against"]
    assert value["features"][0]["here"]["win_rate"] == pytest.approx(against.differences[0].here.win_rate)
    assert replace(found, against=None).to_dict()["against"] is None


def _turned(seed: int, low: float) -> Insights:
    """Latent 1 wins in category a, and in category b with the given share; latent 3 wins everywhere."""
    categories = ["a" if i % 4 else "b" for i in range(N)]
    data, pairs = _made({1: 0.95, 3: 0.85}, seed, categories)
    _, other = _made({1: low, 3: 0.85}, seed, categories)
    in_b = np.array(categories) == "b"
    order = np.flatnonzero(~in_b), np.flatnonzero(in_b)
    fires = np.zeros((2, N, D_SAE), bool)
    for rows, source in zip(order, (pairs, other), strict=True):
        for side, own in enumerate((source.chosen, source.rejected)):
            summary = own.strengths
            dense = np.zeros((N, D_SAE), bool)
            dense[np.repeat(np.arange(N), np.diff(summary.indptr)), summary.indices] = True
            fires[side, rows] = dense[rows]
    return insights_of(data, pairs_where(fires, seed=seed), tiny_sae())


def test_a_slice_in_which_an_effect_turns_around_is_told_and_one_where_it_holds_is_not() -> None:
    found = {one.feature: one for one in _turned(100, 0.15).findings}
    names = [each.name for each in found[1].slices]
    assert names == ["category b"] and found[3].slices == ()  # category a is all the others
    b = found[1].slices[names.index("category b")]
    assert b.turns and b.win_rate < 0.5 < b.elsewhere and b.q < 0.05
    value = _turned(100, 0.15).to_dict()["features"]
    assert any(each["name"] == "category b" for one in value for each in one["slices"])
    assert "category b" in to_html(_turned(100, 0.15)) and "the other way round" in to_markdown(_turned(3, 0.15))


@pytest.mark.parametrize("seed", range(4, 9))
def test_slices_that_are_alike_are_not_told(seed: int) -> None:
    assert all(one.slices == () for one in _turned(seed, 0.95).findings)
