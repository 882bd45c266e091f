"""Results as text: files to take away and the sentence that shows that the sum is right."""

from __future__ import annotations

from scipy.special import expit

from sparserm.types import Explanation


def contributions_csv(explanation: Explanation) -> str:
    """One row for each feature, largest contribution first, then the bias and the reward."""
    import pandas as pd  # not for the first paint

    rows = [vars(part) for part in explanation.contributions]
    rows += [{"label": "bias", "contribution": explanation.bias}, {"label": "reward", "contribution": explanation.reward}]
    columns = ["feature", "label", "score", "weight", "contribution"]
    return pd.DataFrame(rows, columns=columns).astype({"feature": "Int64"}).to_csv(index=False)


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


def win_probability(margin: float) -> float:
    """Bradley-Terry chance that the better by ``margin`` is preferred."""
    return float(expit(margin))
