"""The evidence of a head as tables, for the page and to take away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from sparserm.heads.saved import SavedHead
from sparserm.training.evidence import HeadEvidence, Measured, Stability
from sparserm.training.sweep import cells_table
from sparserm.ui.train.charts import NAMES

SHARES = ("accuracy", "95 % low", "95 % high", "ci95_low", "ci95_high", "lowest", "highest")
MEANING = {
    "head": "the head of the settings above",
    "trained": "the head that the job trained",
    "dense": "Bradley-Terry on the whole representation: what a small head can hope for",
    "random": "as many latents drawn at random: what selection has to beat",
    "longer": "prefers the longer response",
    "shuffled": "trained on shuffled labels: has to be near one half",
}


def baselines_table(measured: Iterable[Measured]) -> pd.DataFrame:
    """One row for each thing measured on the test pairs."""
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
            "what it is": MEANING[row.name],
        }
        for row in measured
    )


def evidence_tables(evidence: HeadEvidence) -> dict[str, pd.DataFrame]:
    """The learning curve, the cells and the stability, one row for each entry."""
    return {
        "learning curve": _rows(evidence.curve),
        "sweep": cells_table(evidence.cells),
        "stability": pd.DataFrame(vars(row) for row in evidence.stability.features),
    }


def stability_sentence(stability: Stability) -> str:
    """What the stability comes to."""
    kept = sum(row.selected >= 0.5 for row in stability.features)
    again = sum(row.selected for row in stability.features) / max(1, len(stability.features))
    return (
        f"Prompts drawn anew {stability.resamples} times: {kept} of {len(stability.features)} features are selected again at "
        f"least every second time, {again:.0%} on average. Mean Jaccard overlap {stability.jaccard:.2f}; features drawn at "
        f"random would come to {stability.chance:.3f}. A feature that is seldom selected again is one of several that would do."
    )


def heads_table(heads: Sequence[tuple[str, SavedHead, bool]]) -> pd.DataFrame:
    """One row for each head: ``(name, head, own)``."""
    return pd.DataFrame(
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
    )


def percentages(table: pd.DataFrame) -> pd.DataFrame:
    """The table for the page, its shares as text; the file keeps the numbers."""
    shares = [name for name in SHARES if name in table]
    return table.assign(**{name: table[name].map(_percent) for name in shares})


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _rows(entries: Iterable[object]) -> pd.DataFrame:
    rows = pd.DataFrame(vars(entry) for entry in entries)
    if "ci95" in rows:
        rows[["ci95_low", "ci95_high"]] = rows.pop("ci95").to_list()
    return rows
