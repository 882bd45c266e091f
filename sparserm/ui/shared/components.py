"""Widgets that several pages use: metrics, downloads, the table of pairs and progress bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from sparserm.heads import model_card
from sparserm.heads.saved import SavedHead
from sparserm.support.files import to_csv
from sparserm.types import Progress
from sparserm.ui.shared.text import counted, plain

if TYPE_CHECKING:
    import pandas as pd


def figure(place: DeltaGenerator, label: str, value: str, note: str, text: str) -> None:
    """A metric with a reference value below it and its definition as a tooltip."""
    place.metric(label, value, note, delta_color="off", delta_arrow="off", help=text, border=True, height="stretch")


def download_table(table: pd.DataFrame, what: str, filename: str) -> None:
    """A button that downloads a table as CSV; the CSV is written when it is pressed."""
    st.download_button(
        f"Download {what[:1].lower()}{what[1:]} (CSV, {counted(len(table))})",
        lambda: to_csv(table),
        filename,
        "text/csv",
        key=filename,
        icon=":material/download:",
        on_click="ignore",
    )


def pairs_table(table: pd.DataFrame, columns: Sequence[str], link: str) -> int | None:
    """Table of preference pairs: ``columns``, then their texts. Returns the position of the selected row.

    Args:
        table: with ``row``, ``id``, ``category``, ``prompt``, ``chosen``, ``rejected`` and ``columns``.
        link: the query parameter that holds the row of the selected pair.
    """
    asked = table.index[table["row"].astype(str) == st.query_params.get(link, "")].tolist()[:1]
    marks = [name for name in ("row", "id", "category") if table[name].astype(bool).any()]
    drawn = table.assign(doubt=100 * table["doubt"]) if "doubt" in table else table
    event: Any = st.dataframe(
        drawn,
        hide_index=True,
        height=min(330, 38 + 35 * len(table)),
        on_select="rerun",
        selection_mode="single-row",
        # Other rows get another key: a selection must not point at a different pair.
        key=f"{link} {hash(tuple(table['row']))}",
        selection_default={"selection": {"rows": asked}},
        column_order=[*marks, *columns, "prompt", "chosen", "rejected"],
        column_config={
            "row": st.column_config.NumberColumn("Row", width=60),
            "id": st.column_config.TextColumn("Id", width=80),
            "category": st.column_config.TextColumn("Category", width=120),
            "reason": st.column_config.TextColumn("Reason", width=120),
            "detail": st.column_config.TextColumn("Finding", width=230),
            "margin": st.column_config.NumberColumn("Margin", format="%+.2f", width=75),
            "contribution": st.column_config.NumberColumn(
                "Contribution", format="%+.2f", width=95, help="What the feature chosen above adds to the margin."
            ),
            "gap": st.column_config.NumberColumn(
                "Longer by", format="%+d", width=80, help="Tokens of the chosen response minus those of the rejected one."
            ),
            "doubt": st.column_config.NumberColumn(
                "Label doubt",
                format="%.0f%%",
                width=90,
                help="Win probability of the rejected response, by heads that were not trained on the prompt.",
            ),
            "prompt": st.column_config.TextColumn("Prompt", width="medium"),
            "chosen": st.column_config.TextColumn("Chosen", width="medium"),
            "rejected": st.column_config.TextColumn("Rejected", width="medium"),
        },
    )
    rows: list[int] = event["selection"]["rows"]
    if rows:
        st.query_params[link] = str(table["row"].iloc[rows[0]])
    else:
        st.query_params.pop(link, None)
    return rows[0] if rows else None


def reference_rewards(saved: SavedHead) -> str:
    """Help text: the reference rewards of a head."""
    return plain(f"Zero is the mean of the training responses; {model_card.reference_rewards(saved)}.")


def correlation(value: float) -> str:
    """A correlation with its sign; NaN is shown as not defined."""
    return "not defined" if math.isnan(value) else f"{value:+.2f}"


def progress_bar() -> tuple[Progress, Callable[[], None]]:
    """A progress callback that draws a bar on its first call, and a function that removes the bar."""
    place = st.empty()

    def progress(n: int, total: int, what: str) -> None:
        share = min(1.0, n / max(total, 1))
        place.progress(share, text=f"{what.split(' (', maxsplit=1)[0]}: {share:.0%}")

    def done() -> None:
        place.empty()

    return progress, done
