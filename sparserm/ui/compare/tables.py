"""Results of a comparison as tables, to show and to download."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from sparserm.explain.comparison import SideBySide
from sparserm.explain.contributions import FeatureDifference
from sparserm.ui.shared import tables


def ranking_table(found: SideBySide, responses: Sequence[str]) -> pd.DataFrame:
    """One row for each response, best first; ``beats_best`` is its win probability vs. the best, None for the best itself."""
    best = found.ranking[0]
    rows = [
        {
            "rank": rank,
            "response": i + 1,
            "text": responses[i],
            "beats_best": float(found.win_probability[i, best]) if i != best else None,
            "behind_best": found.margin(i, best) if i != best else None,
            "reward": float(found.rewards[i]),
            "tokens": len(found.explanations[i].tokens),
        }
        for rank, i in enumerate(found.ranking, 1)
    ]
    return pd.DataFrame(rows)


def shown_ranking(table: pd.DataFrame) -> pd.DataFrame:
    """The ranking formatted for display; the best has no comparison."""
    shown = table[["rank", "response", "reward", "text"]].copy()
    shown.insert(2, "beats_best", ["–" if pd.isna(one) else f"{one:.0%}" for one in table["beats_best"]])
    shown.insert(3, "behind_best", ["–" if pd.isna(one) else f"{one:+.2f}" for one in table["behind_best"]])
    return shown


def win_matrix(found: SideBySide) -> pd.DataFrame:
    """``[n, n]`` win probability of the row vs. the column, best first; NaN on the diagonal."""
    order = list(found.ranking)
    names = [f"response {i + 1}" for i in order]
    table = pd.DataFrame(found.win_probability[order][:, order], index=names, columns=names)
    return table.mask([[i == j for j in order] for i in order])


def scores_table(found: SideBySide) -> pd.DataFrame:
    """One row for each response and feature: score, weight and contribution."""
    rows = [
        {"response": i + 1, **row}
        for i, explanation in enumerate(found.explanations)
        for row in tables.part_rows(explanation.contributions)
    ]
    return pd.DataFrame(rows)


def tokens_table(found: SideBySide, shown: Sequence[int]) -> pd.DataFrame:
    """One row for each token of the responses ``shown``, with the contribution of every feature and their sum."""
    parts = []
    for i in shown:
        values = tables.tokens_table(found.explanations[i])
        values.insert(0, "response", i + 1)
        parts.append(values)
    return pd.concat(parts, ignore_index=True)


def sum_check(parts: Sequence[FeatureDifference], margin: float) -> str:
    """The sum of the contributions as a sentence, computed from the parts and not taken from the margin."""
    up, down = (
        [p.contribution for p in parts if (p.contribution > 0) is raises and p.contribution] for raises in (True, False)
    )
    return (
        f"{len(up)} features favour A by {sum(up):+.3f}, {len(down)} favour B by {sum(down):+.3f}; together "
        f"{sum(up) + sum(down):+.3f}, the margin of {margin:+.3f}."
    )
