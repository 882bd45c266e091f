"""Columns that the feature tables of several pages share: firing rates, their gap, and how stable the features are."""

from __future__ import annotations

import pandas as pd
import streamlit as st
from streamlit.elements.lib.column_types import ColumnConfig

from sparserm.heads.gated_selection import SPLITS
from sparserm.sae.seeds import SAME_DIRECTION, SAME_FIRING

ABOUT_SELECTED = (
    f"Share of {2 * SPLITS} halves of the training prompts on which it was chosen again, from the latents that passed the test "
    "on all prompts. Near 100%: no close substitute takes its place."
)
ABOUT_FAMILIES = "Features with the same number here fire together and have one sign. The number is of the one that leads."
ABOUT_SEEDS = (
    f"SAEs trained with other seeds that have this latent: by direction, with a decoder direction of cosine {SAME_DIRECTION} "
    f"or more; by firing, with activations that correlate {SAME_FIRING} or more. One that the others lack may be chance."
)


def in_percent(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the columns of :func:`shared_columns` in percent, for the page; downloads have shares."""
    return table.assign(**{name: 100 * table[name].astype(float) for name in shared_columns() if name in table})


def shared_columns() -> dict[str, ColumnConfig]:
    """Titles, formats and help of the columns, in percent."""
    number = st.column_config.NumberColumn
    return {
        "gap": number(
            "Gap (points)", format="%+.1f", help="Firing rate in chosen minus rejected responses, in percentage points."
        ),
        "f_chosen": number("In chosen", format="%.1f%%", help="Share of chosen responses in which it fires."),
        "f_rejected": number("In rejected", format="%.1f%%", help="Share of rejected responses in which it fires."),
        "selected": number("Selected", format="%.0f%%", help=ABOUT_SELECTED),
        "seeds_direction": number("Seeds: direction", format="%.0f%%", help=f"Share of {ABOUT_SEEDS}"),
        "seeds_firing": number("Seeds: firing", format="%.0f%%", help=f"Share of {ABOUT_SEEDS}"),
    }
