"""Tables that several pages use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from scipy.special import expit

from sparserm.explain.contributions import Explanation, FeatureDifference
from sparserm.ui.shared.firing import firing_words

if TYPE_CHECKING:  # pandas is imported where a table is made, so that the first paint does without it
    import pandas as pd


def differences_table(parts: Sequence[FeatureDifference]) -> pd.DataFrame:
    """One row for each feature, largest difference first, and a last row with their sum, the margin."""
    import pandas as pd

    margin = {"label": "margin", "contribution": sum(part.contribution for part in parts)}
    return pd.DataFrame([*map(vars, parts), margin]).astype({"feature": "Int64"})


def win_probability(margin: float) -> float:
    """Bradley-Terry win probability of a response whose reward is larger by ``margin``."""
    return float(expit(margin))


def contributions_table(explanation: Explanation) -> pd.DataFrame:
    """One row for each feature, largest contribution first, then the bias and the reward.

    In each row ``weight * (score - mu) / sigma == contribution``; ``fires_at`` names the words at which the feature fires.
    """
    import pandas as pd

    rows = [
        {**vars(part), "fires_at": " · ".join(firing_words(explanation, part.feature))} for part in explanation.contributions
    ]
    rows += [{"label": "bias", "contribution": explanation.bias}, {"label": "reward", "contribution": explanation.reward}]
    columns = ["feature", "label", "fires", "fires_at", "activation", "score", "mu", "sigma", "weight", "contribution"]
    return pd.DataFrame(rows, columns=columns).astype({"feature": "Int64"})


def tokens_table(explanation: Explanation) -> pd.DataFrame:
    """One row for each token of the response, with the contribution of every feature and their sum."""
    import pandas as pd

    values = pd.DataFrame(explanation.token_contributions, columns=[f"feature_{f}" for f in explanation.features])
    values.insert(0, "sum", values.sum(axis=1))
    values.insert(0, "text", list(explanation.tokens))
    values.insert(0, "token", range(1, len(explanation.tokens) + 1))
    return values
