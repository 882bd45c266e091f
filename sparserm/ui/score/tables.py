"""Results of the Score page as tables for download, and the sum of the contributions as a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparserm.explain.contributions import Explanation
from sparserm.heads.saved import SavedHead

if TYPE_CHECKING:  # imported where a table is made, so that the first page loads faster
    import pandas as pd


def reference_table(saved: SavedHead) -> pd.DataFrame:
    """One row for each percentile of the training responses' rewards."""
    import pandas as pd

    return pd.DataFrame({"percentile": range(101), "rejected": saved.quantiles_rejected, "chosen": saved.quantiles_chosen})


def sum_check(explanation: Explanation) -> str:
    """The sum of the contributions as a sentence, computed from the parts and not taken from the reward."""
    parts = [part.contribution for part in explanation.contributions]
    up, down = sum(p for p in parts if p > 0), sum(p for p in parts if p < 0)
    total = sum(parts) + explanation.bias
    return (
        f"{sum(p > 0 for p in parts)} features raise the reward by {up:+.3f}, "
        f"{sum(p < 0 for p in parts)} lower it by {down:+.3f}; "
        f"with the bias of {explanation.bias:+.3f} they add up to the reward of {total:+.3f}."
    )
