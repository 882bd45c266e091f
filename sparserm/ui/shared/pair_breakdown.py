"""One preference pair in detail: both texts, the margin by feature, and a link to the Compare page."""

from __future__ import annotations

from typing import Any

import numpy as np
import streamlit as st

from sparserm.explain.contributions import compare_responses
from sparserm.heads.labels import labels_of
from sparserm.heads.reward import head_scores
from sparserm.types import PreferencePair
from sparserm.ui.shared.charts import difference_figure
from sparserm.ui.shared.components import download_table
from sparserm.ui.shared.context import Context
from sparserm.ui.shared.links import open_in_compare
from sparserm.ui.shared.pairs_picker import Represented
from sparserm.ui.shared.style import CONFIG
from sparserm.ui.shared.tables import differences_table


def pair_breakdown(index: int, context: Context, found: Represented) -> None:
    """Breakdown of one pair: both texts and the margin by feature."""
    pair = found.data.pairs[index]
    head, one = context.saved.head, found.pairs.take(np.array([index]))
    scores = np.concatenate([head_scores(head, one.chosen), head_scores(head, one.rejected)])
    comparison = compare_responses(head, scores, labels_of(context.card))
    st.subheader(f"Row {pair.row}: pairwise breakdown", anchor=False)
    pair_texts(pair)
    st.plotly_chart(difference_figure(comparison.contributions, comparison.margin), config=CONFIG, key=f"apart {index}")
    download_table(differences_table(comparison.contributions), "Difference", f"row-{pair.row}-difference.csv")
    open_in_compare(pair.prompt, (pair.chosen, pair.rejected))


def pair_texts(pair: PreferencePair) -> None:
    """Texts of a pair: the prompt, and both responses side by side."""
    for turn in pair.prompt:
        st.caption(turn.role.capitalize())
        st.text(turn.content)
    left, right = st.columns(2, gap="large")
    lines = max(len(text) / 60 + text.count("\n") for text in (pair.chosen, pair.rejected))
    height: Any = 300 if lines > 12 else "stretch"  # long ones scroll
    for place, name, text in ((left, "chosen", pair.chosen), (right, "rejected", pair.rejected)):
        with place, st.container(border=True, height=height):
            st.caption(name.capitalize())
            st.text(text)
