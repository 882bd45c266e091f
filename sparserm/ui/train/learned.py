"""What a head learned: its features, how surely they differ and how often they are selected, with a verdict in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import streamlit as st

from sparserm.heads.fitting import FittedHead
from sparserm.heads.reward import RewardHead
from sparserm.heads.saved import SavedHead
from sparserm.heads.screening import FALSE_DISCOVERIES, few_sure
from sparserm.ui.shared.components import download_table
from sparserm.ui.shared.feature_columns import in_percent, shared_columns

#: A feature selected in a smaller share of the halves of the prompts has close substitutes.
SELDOM = 0.5


@dataclass(frozen=True)
class Learned:
    """The features of a head with the evidence for them.

    Attributes:
        f_chosen, f_rejected: ``[K]`` share of chosen / rejected training responses in which each feature is active.
        selected: ``[K]`` share of the halves of the prompts in which each was selected; None for projections.
        n_sure: number of features that surely differ; None for projections.
    """

    head: RewardHead
    f_chosen: np.ndarray
    f_rejected: np.ndarray
    selected: np.ndarray | None
    n_sure: int | None

    @classmethod
    def of_saved(cls, saved: SavedHead) -> Learned:
        """Of a head that was trained by a job."""
        return cls(saved.head, saved.f_chosen, saved.f_rejected, saved.selected, saved.n_sure)

    @classmethod
    def of_fitted(cls, fitted: FittedHead) -> Learned:
        """Of a head that was refitted just now."""
        own, stats = fitted.head.features, fitted.stats
        return cls(fitted.head, stats.f_chosen[own], stats.f_rejected[own], fitted.selected, fitted.n_sure)


def learned_table(learned: Learned, labels: Mapping[int, str]) -> pd.DataFrame:
    """One row for each feature, the largest absolute weight first."""
    head = learned.head
    shares = {} if learned.selected is None else {"selected": learned.selected}
    rows = pd.DataFrame(
        {
            "feature": head.features,
            "label": [labels.get(feature, "") for feature in head.features.tolist()],
            "weight": head.weights,
            **shares,
            "gap": learned.f_chosen - learned.f_rejected,
            "f_chosen": learned.f_chosen,
            "f_rejected": learned.f_rejected,
        }
    )
    return rows.iloc[np.argsort(-np.abs(head.weights), kind="stable")].reset_index(drop=True)


def verdict(learned: Learned) -> tuple[str, str]:
    """How many features the head has and how surely they differ, and a warning; the warning is empty where there is none."""
    n = len(learned.head.features)
    features = f"{n} feature{'s' * (n != 1)}"
    if learned.n_sure is None:
        return (
            f"The head weights {features} by their projections, which are never zero: a bar may belong to a feature that the "
            "text does not have. How stable their selection is, is shown below."
        ), ""
    sure = learned.n_sure
    said = (
        f"The head has {features}; {_how_many(sure, n)} between chosen and rejected responses "
        f"(at most {FALSE_DISCOVERIES:.0%} of such findings are expected to be wrong)."
    )
    if learned.selected is not None:
        seldom = int((learned.selected < SELDOM).sum())
        if seldom:
            said += (
                f" {seldom} {'was' if seldom == 1 else 'were'} selected in fewer than half of the halves of the prompts: other "
                "pairs of this kind may bring others in their place."
            )
    return said, _warning(n, sure)


def _how_many(sure: int, n: int) -> str:
    if sure == n:
        return "all of them surely differ" if n > 1 else "it surely differs"
    return f"{sure or 'none'} of them surely differ{'s' * (sure < 2)}"


def _warning(n: int, sure: int) -> str:
    if sure == 0:
        return (
            "None of these features surely differs between chosen and rejected responses. Do not read a meaning into them: the "
            "pairs may be too few, or what decides between them is nothing that this autoencoder has a feature for. Give more "
            "pairs, or try another layer."
        )
    if few_sure(sure, n):
        return (
            f"Only {sure} of {n} features surely differ{'s' * (sure == 1)} between chosen and rejected responses. Rely on "
            f"{'this one' if sure == 1 else 'these'} alone; give more pairs, or try another layer."
        )
    return ""


def draw(learned: Learned, labels: Mapping[int, str]) -> None:
    """The verdict and the list of the features."""
    said, warning = verdict(learned)
    if warning:
        st.warning(warning, icon=":material/warning:")
    st.markdown(said)
    table = learned_table(learned, labels)
    number = st.column_config.NumberColumn
    st.dataframe(
        in_percent(table),
        hide_index=True,
        key="learned",
        height=min(388, 38 + 35 * len(table)),
        placeholder="–",
        column_order=[name for name in table if name != "label" or table["label"].any()],
        column_config={
            "feature": number("Feature", format="%d", width=70),
            "label": st.column_config.TextColumn("Label", width="large"),
            "weight": number("Weight", format="%+.3f", help="Above zero: raises the reward."),
            **shared_columns(),
        },
    )
    download_table(table, "Features", "learned-features.csv")
