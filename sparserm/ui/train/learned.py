"""What a head learned, on the page: the verdict, the features by family, and where to go from here."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from sparserm.heads.learned import Learned
from sparserm.pairs.sources import DataSource, list_sources
from sparserm.ui.shared.components import download_table
from sparserm.ui.shared.feature_columns import ABOUT_FAMILIES, in_percent, shared_columns
from sparserm.ui.shared.pairs_picker import link_to_insights
from sparserm.ui.shared.text import plain


def verdict(learned: Learned) -> None:
    """What the head learned in sentences, after the reasons not to rely on it."""
    for warning in learned.warnings:
        st.warning(plain(warning), icon=":material/warning:")
    with st.container(border=True):
        for line in learned.verdict:
            how, told, rest = line.partition(": ")
            effect = told and how.endswith("the reward")
            st.markdown(f"**{how}**: {plain(rest)}" if effect else plain(line))


def insights_link(source: DataSource) -> None:
    """A link to what the training pairs reward, if they are still in the list of sources."""
    where = source.where()
    label = next((label for label, one in list_sources().items() if one.name == where), None)
    if label is not None:
        link_to_insights(label)


def learned_table(learned: Learned, labels: Mapping[int, str]) -> pd.DataFrame:
    """One row for each feature by family, the largest absolute weight first, of families and within each."""
    head, families = learned.head, learned.families
    order = [place for members in families for place in members]
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
    ).iloc[order]
    if len(families) < len(order):  # a feature that stands alone needs no number
        rows["family"] = pd.array(
            [int(head.features[members[0]]) if len(members) > 1 else None for members in families for _ in members], "Int64"
        )
    return rows.reset_index(drop=True)


def features(learned: Learned, labels: Mapping[int, str]) -> None:
    """The list of the features."""
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
            "family": number("Family", format="%d", width=65, help=ABOUT_FAMILIES),
            "feature": number("Feature", format="%d", width=70),
            "label": st.column_config.TextColumn("Label", width="large"),
            "weight": number("Weight", format="%+.3f", help="Above zero: raises the reward."),
            **shared_columns(),
        },
    )
    download_table(table, "Features", "learned-features.csv")
