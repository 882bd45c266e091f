"""Results as text: files to take away and the sentence that shows that the sum is right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparserm.explain.contributions import Explanation
from sparserm.heads.saved import SavedHead

if TYPE_CHECKING:  # pandas is imported where a table is made: the first paint has none
    import pandas as pd


def contributions_table(explanation: Explanation) -> pd.DataFrame:
    """One row for each feature, largest contribution first, then the bias and the reward."""
    import pandas as pd

    rows = [vars(part) for part in explanation.contributions]
    rows += [{"label": "bias", "contribution": explanation.bias}, {"label": "reward", "contribution": explanation.reward}]
    columns = ["feature", "label", "score", "weight", "contribution"]
    return pd.DataFrame(rows, columns=columns).astype({"feature": "Int64"})


def tokens_table(explanation: Explanation) -> pd.DataFrame:
    """One row for each token of the response: the contribution of every feature at it, and their sum."""
    import pandas as pd

    values = pd.DataFrame(explanation.token_contributions, columns=[f"feature_{f}" for f in explanation.features])
    values.insert(0, "sum", values.sum(axis=1))
    values.insert(0, "text", list(explanation.tokens))
    values.insert(0, "token", range(1, len(explanation.tokens) + 1))
    return values


def reference_table(saved: SavedHead) -> pd.DataFrame:
    """One row for each percentile of the training responses' rewards."""
    import pandas as pd

    return pd.DataFrame({"percentile": range(101), "rejected": saved.quantiles_rejected, "chosen": saved.quantiles_chosen})


def sum_check(explanation: Explanation) -> str:
    """The sum, computed here from the parts shown and not taken from the reward."""
    parts = [part.contribution for part in explanation.contributions]
    up, down = sum(p for p in parts if p > 0), sum(p for p in parts if p < 0)
    total = sum(parts) + explanation.bias
    return (
        f"{sum(p > 0 for p in parts)} features raise the reward by {up:+.3f}, "
        f"{sum(p < 0 for p in parts)} lower it by {down:+.3f}; "
        f"with the bias of {explanation.bias:+.3f} they add up to {total:+.3f}, the reward."
    )
