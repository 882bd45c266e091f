"""Tables that several pages use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from scipy.special import expit

from sparserm.explain.contributions import Contribution, Explanation, FeatureDifference
from sparserm.explain.families import has_families
from sparserm.ui.shared.firing import firing_words

if TYPE_CHECKING:  # pandas is imported where a table is made, so that the first paint does without it
    import pandas as pd


def part_rows(parts: Sequence[Contribution] | Sequence[FeatureDifference]) -> list[dict[str, Any]]:
    """The fields of each part, with ``family`` after ``label`` if a family of the head has more than one feature."""
    leave = {"feature", "label", "family"}
    family = has_families(parts)
    return [
        {
            "feature": part.feature,
            "label": part.label,
            **({"family": part.family} if family else {}),
            **{name: value for name, value in vars(part).items() if name not in leave},
        }
        for part in parts
    ]


def differences_table(parts: Sequence[FeatureDifference]) -> pd.DataFrame:
    """One row for each feature, largest difference first, and a last row with their sum, the margin."""
    import pandas as pd

    margin = {"label": "margin", "contribution": sum(part.contribution for part in parts)}
    return _whole_ids(pd.DataFrame([*part_rows(parts), margin]))


def win_probability(margin: float) -> float:
    """Bradley-Terry win probability of a response whose reward is larger by ``margin``."""
    return float(expit(margin))


def contributions_table(explanation: Explanation) -> pd.DataFrame:
    """One row for each feature, largest contribution first, then the bias and the reward.

    In each row ``weight * (score - mu) / sigma == contribution``; ``fires_at`` names the words at which the feature fires.
    """
    import pandas as pd

    parts = explanation.contributions
    rows = [{**row, "fires_at": " · ".join(firing_words(explanation, row["feature"]))} for row in part_rows(parts)]
    rows += [{"label": "bias", "contribution": explanation.bias}, {"label": "reward", "contribution": explanation.reward}]
    columns = ["feature", "label", "fires", "fires_at", "activation", "score", "mu", "sigma", "weight", "contribution"]
    if has_families(parts):
        columns.insert(2, "family")
    return _whole_ids(pd.DataFrame(rows, columns=columns))


def _whole_ids(table: pd.DataFrame) -> pd.DataFrame:
    """Feature ids as whole numbers also where rows without a feature follow."""
    return table.astype({name: "Int64" for name in ("feature", "family") if name in table})


def tokens_table(explanation: Explanation) -> pd.DataFrame:
    """One row for each token of the response, with the contribution of every feature and their sum."""
    import pandas as pd

    values = pd.DataFrame(explanation.token_contributions, columns=[f"feature_{f}" for f in explanation.features])
    values.insert(0, "sum", values.sum(axis=1))
    values.insert(0, "text", list(explanation.tokens))
    values.insert(0, "token", range(1, len(explanation.tokens) + 1))
    return values
