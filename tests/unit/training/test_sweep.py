"""Sweeps: every cell is what cross-validation says of its settings, and the choice among them is by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparserm.evaluation.accuracy import cross_validate, cross_validate_dense
from sparserm.heads.fitting import SELECTIONS, FitSettings
from sparserm.representations.values import LatentSummary, PairRepresentations
from sparserm.training import sweep as sweeping
from sparserm.training.sweep import DENSE, METHODS, SIZES, SweepCell, cells_table, choose, sweep
from sparserm.types import SparseRMError
from tests.unit.separable import SAE, TRAIN, noise

SETTINGS = FitSettings(l2=0.1, score="projection")
GATED = FitSettings(score="gated")


@pytest.fixture(autouse=True)
def _few_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """How often the prompts are halved is tested on its own; here less of it does."""
    monkeypatch.setattr("sparserm.heads.gated_selection.SPLITS", 1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        replace(SETTINGS, l2=None),
        replace(SETTINGS, avoid_length=True, activity="most"),
        GATED,
        replace(GATED, l2=0.7, seed=3, avoid_length=True, activity="most"),
        FitSettings(),  # gated, as the SAE's latents have thresholds of their own
        FitSettings(selection="sparse"),  # projection, as gated scores have no such selector
    ],
)
def test_every_cell_is_what_cross_validation_says_of_its_settings(seed: int, settings: FitSettings) -> None:
    rng = np.random.default_rng(seed)
    pairs = noise(seed, 40)
    lengths = rng.integers(1, 50, (2, 40))
    pairs = replace(
        pairs,
        chosen=replace(pairs.chosen, n_tokens=lengths[0]),
        rejected=replace(pairs.rejected, n_tokens=lengths[1]),
        groups=rng.integers(0, 12, 40),
    )
    sizes = rng.choice(np.arange(1, 16), 2, replace=False).tolist()
    cells = sweep({"sae": pairs}, {"sae": SAE}, settings, sizes)
    score = settings.for_sae(SAE).score
    assert [(cell.method, cell.k) for cell in cells] == [
        (method, k)
        for method in METHODS
        if method in (DENSE, *SELECTIONS[score])
        for k in ([0] if method == DENSE else sorted(sizes))
    ]
    for cell in cells:
        alone = (
            cross_validate_dense(pairs, settings.l2 if score == "projection" else None)
            if cell.method == DENSE
            else cross_validate(pairs, SAE, replace(settings, score=score, k=cell.k, selection=cell.method))
        )
        assert (cell.accuracy, cell.ci95) == (alone.accuracy, alone.ci95)


def test_layers_stand_beside_each_other_and_noise_is_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    probes: list[int] = []
    gather = sweeping.fit_statistics
    monkeypatch.setattr(sweeping, "fit_statistics", lambda *given: (probes.append(1), gather(*given))[1])
    told: list[tuple[int, int]] = []
    cells = sweep(
        {"one": TRAIN, "noise": noise(2)},
        {"one": SAE, "noise": SAE},
        SETTINGS,
        (3, 8),
        ("sparse", "frequency"),
        lambda done, total, what: told.append((done, total)),
    )
    assert [cell.sae for cell in cells] == ["one"] * 4 + ["noise"] * 4
    assert cells[0].accuracy > max(cell.accuracy for cell in cells[4:])
    assert len(probes) == 10  # once for each fold and layer
    assert told == [(n, 40) for n in range(1, 41)]


def test_cells_that_cannot_be_are_left_out() -> None:
    cells = sweep({"one": TRAIN}, {"one": SAE}, SETTINGS, (4, 17))
    assert {cell.k for cell in cells} == {0, 4}
    assert sweep({"one": TRAIN.take(np.array([0]))}, {"one": SAE}, SETTINGS) == ()


def test_sizes_are_maxima_of_gated_heads_and_methods_without_gated_scores_are_left_out() -> None:
    cells = sweep({"one": TRAIN}, {"one": SAE}, GATED, (4, 17), ("sparse", "stable", "random"))
    assert [(cell.method, cell.k) for cell in cells] == [("stable", 4), ("stable", 17), ("random", 4), ("random", 17)]
    whole = sweep({"one": TRAIN}, {"one": SAE}, replace(GATED, k=5), None, ("stable",))
    assert [cell.k for cell in whole] == sorted({*SIZES["gated"], 5})


def test_a_size_that_only_one_fold_is_too_poor_for_has_no_cell() -> None:
    first = TRAIN.chosen.latents
    assert first is not None
    once = np.arange(len(first.indices)) % first.d_sae < 2  # two latents everywhere, the others in one prompt's pairs alone
    once[: 2 * first.d_sae] = True
    pairs = _with_latents(TRAIN, once)
    assert {cell.k for cell in sweep({"one": pairs}, {"one": SAE}, SETTINGS, (2, 5), ("sparse",))} == {2}


def _with_latents(pairs: PairRepresentations, kept: np.ndarray) -> PairRepresentations:
    def side(latents: LatentSummary | None) -> LatentSummary:
        assert latents is not None
        counts = np.add.reduceat(kept, latents.indptr[:-1])
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return LatentSummary(indptr, latents.fired[kept], latents.d_sae)

    return replace(
        pairs,
        chosen=replace(pairs.chosen, latents=side(pairs.chosen.latents)),
        rejected=replace(pairs.rejected, latents=side(pairs.rejected.latents)),
    )


def _cell(method: str, k: int, accuracy: float) -> SweepCell:
    return SweepCell("x/layer_1", 1, k, accuracy, (accuracy - 0.02, accuracy + 0.02), method)


def test_the_simplest_within_the_interval_of_the_best_and_baselines_are_not_chosen() -> None:
    cells = (
        _cell("sparse", 32, 0.80),
        _cell("sparse", 16, 0.79),
        _cell("frequency", 16, 0.785),
        _cell("sparse", 4, 0.77),
        _cell("random", 4, 0.80),
        _cell("dense", 0, 0.9),
    )
    choice = choose(cells)
    assert choice is not None and (choice.best, choice.simplest) == cells[:2]
    assert choose(cells[4:]) is None
    assert cells_table(cells)["ci95_low"].tolist() == [cell.ci95[0] for cell in cells]
    assert list(cells_table(())) == list(cells_table(cells))


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        SparseRMError, match="'best' is unknown; expected some of stable, frequency, random, sparse, effect_size, dense"
    ):
        sweep({"one": TRAIN}, {"one": SAE}, SETTINGS, methods=("best",))


def test_cancelling_goes_through() -> None:
    def cancel(done: int, total: int, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep({"one": TRAIN}, {"one": SAE}, SETTINGS, (3,), progress=cancel)
