"""Results of a trained head as tables, for the page and for download."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from sparserm.heads.saved import SavedHead
from sparserm.training.evidence import HeadEvidence, Measured, Stability
from sparserm.training.sweep import cells_table
from sparserm.ui.train.charts import NAMES

SHARES = ("accuracy", "95 % low", "95 % high", "ci95_low", "ci95_high", "lowest", "highest")
MEANING = {
    "head": "the head with the settings above",
    "trained": "the head trained by the job",
    "dense": "Bradley-Terry on the full representation: an upper reference for a small head",
    "random": "the same number of random latents: feature selection should beat it",
    "surface": "one model of length, refusals, lists and the like, fitted to the training pairs",
    "longer": "always prefers the longer response",
    "shuffled": "trained on shuffled labels: should be near 50%",
}


def baselines_table(measured: Iterable[Measured]) -> pd.DataFrame:
    """One row per head or baseline measured on the test pairs."""
    return pd.DataFrame(
        {
            "": NAMES[row.name],
            "accuracy": row.accuracy,
            "95 % low": row.ci95[0],
            "95 % high": row.ci95[1],
            "heads": row.heads,
            "lowest": row.lowest,
            "highest": row.highest,
            "length correlation": row.length_correlation,
            "description": MEANING[row.name],
        }
        for row in measured
    )


def evidence_tables(evidence: HeadEvidence) -> dict[str, pd.DataFrame]:
    """Learning curve, sweep and stability, one row per entry."""
    return {
        "learning curve": _rows(evidence.curve),
        "sweep": cells_table(evidence.cells),
        "stability": pd.DataFrame(vars(row) for row in evidence.stability.features),
    }


def overlap_sentence(stability: Stability) -> str:
    """The stability of a gated head as a whole; how often each of its features is selected is a figure of its own."""
    return (
        f"Whole fits to {stability.resamples} resamples of the prompts, on which other latents may pass the test: mean Jaccard "
        f"overlap {stability.jaccard:.2f} with this head's features; random latents would give {stability.chance:.3f}. How "
        "often each feature is selected once it passes stands above."
    )


def stability_sentence(stability: Stability) -> str:
    """The stability of feature selection, summarised for the page."""
    often = sum(row.selected >= 0.5 for row in stability.features)
    mean = sum(row.selected for row in stability.features) / max(1, len(stability.features))
    return (
        f"{often} of {len(stability.features)} features are selected in at least half of {stability.resamples} resamples of "
        f"the prompts, {mean:.0%} on average. Mean Jaccard overlap {stability.jaccard:.2f}; random latents would give "
        f"{stability.chance:.3f}. A feature that is rarely selected has close substitutes."
    )


def heads_table(heads: Sequence[tuple[str, SavedHead, bool]], damaged: Sequence[str] = ()) -> pd.DataFrame:
    """One row per head, given as ``(name, head, own)``, then one per name of a head that cannot be read."""
    rows: list[dict[str, object]] = [
        {
            "head": name,
            "": "yours" if own else "shipped",
            "accuracy": _percent(saved.card.metrics.get("accuracy")),
            "layer": saved.card.hook_point.layer,
            "features": len(saved.head.features),
            "pooling": saved.head.pooling,
            "SAE": saved.card.sae,
            "backbone": saved.card.backbone,
            "trained on": saved.card.training.get("data", ""),
        }
        for name, saved, own in heads
    ]
    rows += [{"head": name, "": "cannot be read"} for name in damaged]
    return pd.DataFrame(rows).astype({"layer": "Int64", "features": "Int64"})  # whole numbers beside empty cells


def percentages(table: pd.DataFrame) -> pd.DataFrame:
    """The table with shares as percentages, for the page; the download keeps the numbers."""
    shares = [name for name in SHARES if name in table]
    return table.assign(**{name: table[name].map(_percent) for name in shares})


def titles(table: pd.DataFrame) -> dict[str, str]:
    """Column titles in sentence case, for the page."""
    return {name: (name[:1].upper() + name[1:]).replace("Ci95_", "95% ").replace("95 %", "95%") for name in table if name}


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _rows(entries: Iterable[object]) -> pd.DataFrame:
    rows = pd.DataFrame(vars(entry) for entry in entries)
    if "ci95" in rows:
        rows[["ci95_low", "ci95_high"]] = rows.pop("ci95").to_list()
    return rows
