"""Faithfulness and stability of explanations: ``python -m benchmarks.faithfulness [STAGE ...] [--tasks TASK ...]``.

Stage ``faithfulness`` measures the shipped heads on test responses (``benchmarks/results/faithfulness.json``). Stage
``stability`` compares them on test responses with heads of the same settings, trained on resampled training prompts and, if
there are any, with SAEs of the same recipe and another seed in ``SPARSERM_HOME/benchmarks/saes/seed_<n>/layer_<l>``
(``sparserm train-sae --seed``); results go to ``benchmarks/results/stability.json``. Results of other tasks are kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from benchmarks.common import read_results, task_pairs, write_results
from sparserm.explain.faithfulness import measure_faithfulness
from sparserm.heads.fitting import FitSettings, fit_head
from sparserm.heads.reward import RewardHead, rewards
from sparserm.model import SparseRM
from sparserm.representations.represent import represent_pairs
from sparserm.representations.store import stored
from sparserm.representations.values import PairRepresentations, Representations
from sparserm.sae.autoencoder import SparseAutoencoder, load_sae
from sparserm.support.defaults import TASKS, home
from sparserm.training.evidence import resample
from sparserm.types import Text

#: Numbers of explained responses, of features to steer the backbone along, and of resamples of the training prompts.
TEXTS, FEATURES, DRAWS = 100, 4, 10


def faithfulness(tasks: Sequence[str]) -> None:
    """Measure the errors of the shipped heads' explanations."""
    found = read_results("faithfulness")
    for task in tasks:
        model = SparseRM.from_pretrained(task)
        pairs = task_pairs(task, "test").pairs[: TEXTS // 2]
        texts = [Text(pair.prompt, text) for pair in pairs for text in (pair.chosen, pair.rejected)]
        measured = measure_faithfulness(model.head, model.card.hook_point, texts, model.backbone, features=FEATURES)
        found[task] = asdict(measured)
        write_results("faithfulness", found)
        print(task, measured, flush=True)


def stability(tasks: Sequence[str]) -> None:
    """Measure the agreement of the shipped heads with other heads of the same settings."""
    found = read_results("stability")
    for task in tasks:
        model = SparseRM.from_pretrained(task)
        known = model.card.training["settings"]
        wanted = {name: known[name] for name in ("k", "pooling", "selection", "l2")}
        settings = FitSettings(**wanted, score=model.head.score, named=known.get("named", False))
        sae = model.load_sae()
        train, test = (_represent(model, task, split, sae) for split in ("train", "test"))
        again = [fit_head(train.take(resample(train.groups, seed)), sae, settings).head for seed in range(DRAWS)]
        same = [head_agreement(model.head, head, _both(test), _both(test)) for head in again]
        found[task] = {f"training prompts, {DRAWS} times": _summary(model.head, same, sae)}
        others = sorted((home() / "benchmarks" / "saes").glob(f"seed_*/layer_{sae.hook.layer}"))
        if others:
            agreements = []
            for folder in others:
                other = load_sae(folder)
                its_train, its_test = (_represent(model, task, split, other) for split in ("train", "test"))
                head = fit_head(its_train, other, replace(settings, named=False)).head  # its latents have no labels
                agreements.append(head_agreement(model.head, head, _both(test), _both(its_test), same_sae=False))
            what = "an SAE of another seed" if len(others) == 1 else f"{len(others)} SAEs of other seeds"
            found[task][what] = _summary(model.head, agreements, sae, same_sae=False)
        write_results("stability", found)
        print(task, found[task], flush=True)


@dataclass(frozen=True)
class HeadAgreement:
    """Agreement of two heads.

    Attributes:
        jaccard: Jaccard index of their features; None if their SAEs differ, because feature ids are then not comparable.
        nearest: mean over the first head's features of the largest absolute cosine with a direction of the second.
        correlation: Pearson correlation of their rewards for the same texts.
    """

    jaccard: float | None
    nearest: float
    correlation: float


def head_agreement(
    head: RewardHead,
    other: RewardHead,
    sides: Sequence[Representations],
    other_sides: Sequence[Representations] | None = None,
    same_sae: bool = True,
) -> HeadAgreement:
    """Compare two heads on the responses of all ``sides``, preferably of texts that neither was trained on.

    Args:
        other_sides: the same responses as the second head needs them: with the latents of its own SAE if it is gated.
    """
    both = len(np.intersect1d(head.features, other.features))
    ours = np.concatenate([rewards(head, side) for side in sides])
    theirs = np.concatenate([rewards(other, side) for side in other_sides or sides])
    return HeadAgreement(
        jaccard=both / len(np.union1d(head.features, other.features)) if same_sae else None,
        nearest=float(np.abs(head.directions @ other.directions.T).max(1).mean()),
        correlation=float(np.corrcoef(ours, theirs)[0, 1]),
    )


def _represent(model: SparseRM, task: str, split: str, sae: SparseAutoencoder) -> PairRepresentations:
    with stored() as store:
        represented = represent_pairs(
            task_pairs(task, split).pairs,
            model.backbone,
            {sae.hook: sae},
            model.head.pooling,
            strengths=model.head.score == "gated",
            store=store,
        )
    return represented[sae.hook]


def _both(pairs: PairRepresentations) -> tuple[Representations, Representations]:
    return pairs.chosen, pairs.rejected


def _summary(
    head: RewardHead, found: Sequence[HeadAgreement], sae: SparseAutoencoder, same_sae: bool = True
) -> dict[str, float | None]:
    """Mean agreement with other heads, and the agreement expected from randomly drawn features."""
    drawn = np.random.default_rng(0).choice(sae.d_sae, (20, len(head.features)))
    directions = sae.directions().cpu().numpy()
    by_chance = [np.abs(head.directions @ directions[row].T).max(1).mean() for row in drawn]
    k = len(head.features)

    def mean(name: str) -> float | None:
        values = [getattr(one, name) for one in found]
        return None if values[0] is None else float(np.mean(values))

    return {
        **{name: mean(name) for name in HeadAgreement.__dataclass_fields__},
        "jaccard_chance": k / (2 * sae.d_sae - k) if same_sae else None,
        "nearest_chance": float(np.mean(by_chance)),
    }


STAGES: dict[str, Callable[[Sequence[str]], None]] = {"faithfulness": faithfulness, "stability": stability}


def main() -> None:
    """Run the stages given on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="*", default=list(STAGES), metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    given = parser.parse_args()
    if unknown := set(given.stages) - set(STAGES):
        parser.error(f"unknown stage {', '.join(sorted(unknown))}; expected some of {', '.join(STAGES)}")
    for stage in given.stages:
        STAGES[stage](given.tasks)


if __name__ == "__main__":
    main()
