"""Tables that several pages use."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from scipy.special import expit

from sparserm.explain.contributions import FeatureDifference


def differences_table(parts: Sequence[FeatureDifference]) -> pd.DataFrame:
    """One row for each feature, the largest difference first, and the margin that they add up to."""
    import pandas as pd

    margin = {"label": "margin", "contribution": sum(part.contribution for part in parts)}
    return pd.DataFrame([*map(vars, parts), margin]).astype({"feature": "Int64"})


def win_probability(margin: float) -> float:
    """Bradley-Terry chance that the better by ``margin`` is preferred."""
    return float(expit(margin))
