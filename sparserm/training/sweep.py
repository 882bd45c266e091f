"""Sweeps over layers, numbers of features and selection methods, cross-validated over the training prompts.

The accuracy of a cell equals that of ``cross_validate`` with its settings. Whatever depends only on fold and layer, above all
the dense probe, is computed once for all sizes and methods, so a sweep costs little more than its cells of one size. Choosing a
cell uses no test pairs, but the accuracy of the best of many cells is slightly optimistic.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sparserm.evaluation.accuracy import evaluate_margins
from sparserm.heads.bradley_terry import fit_probe, prompt_folds
from sparserm.heads.fitting import SELECTIONS, CompleteSettings, FitSettings, fit_statistics, select_and_fit
from sparserm.heads.gated_selection import GatedStatistics
from sparserm.heads.reward import reward_margins
from sparserm.representations.values import PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.support.defaults import MAX_FEATURES, MAX_GATED_FEATURES
from sparserm.support.threads import in_threads
from sparserm.types import Progress, Score, SparseRMError

if TYPE_CHECKING:
    import pandas as pd

#: Called after every fit.
Step = Callable[[], None]

#: Default numbers of features; with gated scores the largest number, of which the data choose as many as are stable.
SIZES: dict[Score, tuple[int, ...]] = {"gated": (4, 8, 16, 32, MAX_GATED_FEATURES), "projection": (4, 8, 16, 24, MAX_FEATURES)}
#: Bradley-Terry probe on the whole representation; it has no features, so its ``k`` is 0.
DENSE = "dense"
METHODS = (*dict.fromkeys(name for names in SELECTIONS.values() for name in names), DENSE)
#: Methods that are shown for comparison and never chosen.
BASELINES = ("random", DENSE)


@dataclass(frozen=True)
class SweepCell:
    """Accuracy of one method with ``k`` features of one SAE, cross-validated over the training prompts.

    Attributes:
        k: number of features, 0 for the dense probe.
        ci95: bootstrap over prompts.
    """

    sae: str
    layer: int
    k: int
    accuracy: float
    ci95: tuple[float, float]
    method: str


@dataclass(frozen=True)
class Choice:
    """The best cells of a sweep; baselines are left out.

    Attributes:
        best: the cell with the highest accuracy.
        simplest: of the cells within the confidence interval of the best, the one with the fewest features; ties are broken
            by accuracy.
    """

    best: SweepCell
    simplest: SweepCell


def sweep(
    train: Mapping[str, PairRepresentations],
    saes: Mapping[str, SparseAutoencoder],
    settings: FitSettings,
    sizes: Collection[int] | None = None,
    methods: Sequence[str] = METHODS,
    progress: Progress | None = None,
) -> tuple[SweepCell, ...]:
    """Cross-validate every SAE (layer), method and size.

    Args:
        train: representations of the training pairs, by the SAE's name.
        settings: settings shared by all cells; ``k`` and ``selection`` are replaced in each.
        sizes: numbers of features; those of :data:`SIZES` and the settings' own if None.
        methods: methods; those that an SAE's scores do not have are left out for it.

    Returns:
        The cells; combinations with more features than latents that fire are left out.

    Raises:
        SparseRMError: a method is unknown, or none exists for the scores.
    """
    known = check_methods(methods)
    wanted = {name: _wanted(settings.for_sae(saes[name]), known, sizes) for name in train}
    if train and not any(wanted.values()):
        score = settings.for_sae(saes[next(iter(train))]).score
        raise SparseRMError(
            f"{', '.join(known)}: not a method for {score} scores; expected some of {', '.join(SELECTIONS[score])}, {DENSE}; "
            "choose some of these, or the other score"
        )
    total = sum(len(prompt_folds(one.groups)) * len(wanted[name]) for name, one in train.items() if len(one.groups) > 1)
    step = counter(total, progress, "Head (layers, sizes and methods)")
    cells = []
    for name, pairs in train.items():
        for (method, k), margins in sweep_margins(pairs, saes[name], settings, wanted[name], step=step).items():
            found = evaluate_margins(margins, pairs)
            cells.append(SweepCell(name, saes[name].hook.layer, k, found.accuracy, found.ci95, method))
    return tuple(cells)


def _wanted(settings: CompleteSettings, methods: Sequence[str], sizes: Collection[int] | None) -> list[tuple[str, int]]:
    """Methods and sizes to try with these complete settings."""
    several = sorted(set(SIZES[settings.score]) | {settings.k} if sizes is None else set(sizes))
    own = [method for method in methods if method == DENSE or method in SELECTIONS[settings.score]]
    return [(method, k) for method in own for k in ((0,) if method == DENSE else several)]


def check_methods(methods: Sequence[str]) -> tuple[str, ...]:
    """Check the names of methods and drop duplicates.

    Raises:
        SparseRMError: a method is unknown.
    """
    if unknown := [method for method in methods if method not in METHODS]:
        raise SparseRMError(f"method {unknown[0]!r} is unknown; expected some of {', '.join(METHODS)}")
    return tuple(dict.fromkeys(methods))


def sweep_margins(
    pairs: PairRepresentations,
    sae: SparseAutoencoder,
    settings: FitSettings,
    wanted: Sequence[tuple[str, int]],
    seed: int | None = None,
    step: Step = lambda: None,
) -> dict[tuple[str, int], np.ndarray]:
    """Out-of-fold margins for each method and size: every pair is scored by a head that was not trained on its prompt.

    Args:
        seed: seed of the folds; None uses those of :func:`~sparserm.evaluation.accuracy.cross_validate`.

    Returns:
        ``[n]`` margins by ``(method, k)``. A size with more features than fire in one of the folds is left out; empty for
        fewer than two pairs.
    """
    if len(pairs.groups) < 2:
        return {}
    folds = prompt_folds(pairs.groups, seed)
    settings = replace(settings, score=settings.for_sae(sae).score)  # the same for all methods, whatever scores they have

    def of_fold(rows: tuple[np.ndarray, np.ndarray]) -> dict[tuple[str, int], np.ndarray]:
        return _fold_margins(pairs.take(rows[0]), pairs.take(rows[1]), sae, settings, wanted, step)

    found = list(in_threads(of_fold, folds))
    margins = {one: np.zeros(len(pairs.groups)) for one in wanted if all(one in fold for fold in found)}
    for one, whole in margins.items():
        for (_, held_out), fold in zip(folds, found, strict=True):
            whole[held_out] = fold[one]
    return margins


def _fold_margins(
    train: PairRepresentations,
    rest: PairRepresentations,
    sae: SparseAutoencoder,
    settings: FitSettings,
    wanted: Sequence[tuple[str, int]],
    step: Step,
) -> dict[tuple[str, int], np.ndarray]:
    """Margins of ``rest`` for each method and size that can be fitted on ``train``."""
    statistics = fit_statistics(train, sae, settings)
    margins = {}
    for method, k in wanted:
        if method == DENSE:
            known = None if isinstance(statistics, GatedStatistics) else statistics.probe
            margins[method, k] = rest.differences @ (known or fit_probe(train.differences, train.groups)).weights
        else:
            with suppress(SparseRMError):
                head = select_and_fit(train, statistics, sae, replace(settings, selection=method, k=k)).head
                margins[method, k] = reward_margins(head, rest)
        step()
    return margins


def choose(cells: Sequence[SweepCell]) -> Choice | None:
    """The best cell, and the simplest one that is not distinguishable from it; None if there are only baselines."""
    selected = [cell for cell in cells if cell.method not in BASELINES]
    if not selected:
        return None
    best = max(selected, key=lambda cell: cell.accuracy)
    near = [cell for cell in selected if cell.accuracy >= best.ci95[0]]
    return Choice(best, min(near, key=lambda cell: (cell.k, -cell.accuracy)))


def describe(cell: SweepCell) -> str:
    """A cell as text, e.g. ``sparse, layer 15, K = 16: 83.1% (81.2% to 85.0%)``."""
    low, high = cell.ci95
    size = f", K = {cell.k}" if cell.k else ""
    return f"{cell.method}, layer {cell.layer}{size}: {cell.accuracy:.1%} ({low:.1%} to {high:.1%})"


def cells_table(cells: Sequence[SweepCell]) -> pd.DataFrame:
    """A table with one row per cell."""
    import pandas as pd

    columns = ["sae", "layer", "method", "k", "accuracy", "ci95_low", "ci95_high"]
    rows = [{**vars(cell), "ci95_low": cell.ci95[0], "ci95_high": cell.ci95[1]} for cell in cells]
    return pd.DataFrame(rows, columns=columns)


def counter(total: int, progress: Progress | None, what: str) -> Step:
    """A thread-safe callback that counts its calls and reports them to ``progress``."""
    done = 0
    lock = threading.Lock()

    def step() -> None:
        nonlocal done
        with lock:
            done += 1
            if progress is not None:
                progress(min(done, total), total, what)

    return step
