"""Parts of the Compare page: the comparison, the ranking, and the pairwise breakdown of two pinned responses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import streamlit as st

from sparserm.explain.comparison import SideBySide, check_number, word_diff
from sparserm.explain.families import by_family
from sparserm.support.files import to_csv
from sparserm.support.parsing import whole_number
from sparserm.types import Progress, SparseRMError
from sparserm.ui.compare import charts, tables
from sparserm.ui.compare.component import linked_texts
from sparserm.ui.compare.inputs import Inputs
from sparserm.ui.shared.bars import choose_bar, feature_links
from sparserm.ui.shared.charts import difference_bars
from sparserm.ui.shared.components import reference_rewards
from sparserm.ui.shared.context import Context, feature_card_link
from sparserm.ui.shared.diff import diff_text
from sparserm.ui.shared.firing import silent_in_both_line
from sparserm.ui.shared.scoring import left_out, sae_to_explain
from sparserm.ui.shared.style import CONFIG
from sparserm.ui.shared.tables import differences_table
from sparserm.ui.shared.text import counted

SHOWN = 10  # bars; the smaller contributions share one more
_A, _B = "compare_a", "compare_b"


@dataclass(frozen=True)
class Compared:
    """The inputs of a comparison, the head and version that made it, and its result."""

    head: str
    hash: str
    inputs: Inputs
    found: SideBySide


def compare(context: Context, inputs: Inputs, progress: Progress) -> Compared:
    """Compare all responses in one pass of the backbone.

    Raises:
        SparseRMError: a response is empty, or the backbone is not available or does not match the head.
    """
    check_number(len(inputs.responses))
    for number, response in enumerate(inputs.responses, 1):
        if not response.strip():
            raise SparseRMError(f"response {number} is empty; fill in the field, or remove it")
    model = context.model(progress)
    found = model.side_by_side(inputs.prompt, inputs.responses, sae=sae_to_explain(context))
    linked = _A not in st.session_state and _linked_pins(len(inputs.responses)) is not None
    if not linked and not st.session_state.get("compare_pinned"):
        pin_best(found)
    return Compared(context.key, context.hash, inputs, found)


def ranking(compared: Compared, context: Context) -> None:
    """The winner, the ranking with win probabilities, and the rewards among the reference rewards."""
    found, saved = compared.found, context.saved
    best, following = found.ranking[:2]
    table = tables.ranking_table(found, compared.inputs.responses)
    probability = f"{found.win_probability[best, following]:.0%}"
    st.subheader(
        f"Response {best + 1} wins: {probability} win probability vs. response {following + 1}",
        anchor=False,
        help="Bradley-Terry win probability: the sigmoid of the difference between the two rewards.",
    )
    left, right = st.columns([3, 2], gap="large", vertical_alignment="center")
    left.dataframe(
        tables.shown_ranking(table),
        hide_index=True,
        key="compare_ranking",
        column_config={
            "rank": st.column_config.NumberColumn("Rank", width=50),
            "response": st.column_config.NumberColumn("Response", width=70),
            "beats_best": st.column_config.TextColumn(
                "Win prob. vs. best", width=120, alignment="right", help="Bradley-Terry win probability vs. the best response."
            ),
            "behind_best": st.column_config.TextColumn("Margin vs. best", width=105, alignment="right"),
            "reward": st.column_config.NumberColumn("Reward", format="%+.2f", width=70, help=reference_rewards(saved)),
            "text": st.column_config.TextColumn("Text", width="medium"),
        },
    )
    names = [f"response {i + 1}" for i in found.ranking]
    typical = float(saved.quantiles_chosen[50]), float(saved.quantiles_rejected[50])
    right.plotly_chart(
        charts.rewards_figure(names, [float(found.rewards[i]) for i in found.ranking], *typical),
        config=CONFIG,
        key="compare_rewards",
    )
    _every_pair(found)
    for said in left_out(compared.inputs.responses):
        st.caption(said)
    if any(explanation.n_truncated for explanation in found.explanations):
        most = max(explanation.n_truncated for explanation in found.explanations)
        st.warning(f"Up to {most:,} prompt tokens were truncated on the left: the text exceeds the context length.")


def pins(found: SideBySide) -> tuple[int, int]:
    """Select the two responses of the pairwise breakdown, A and B; both are kept in the link."""
    numbers = list(range(1, len(found.rewards) + 1))
    linked = _linked_pins(len(numbers))
    if _A not in st.session_state and linked:
        st.session_state[_A], st.session_state[_B] = linked
        st.session_state.compare_pinned = True
    held = {st.session_state.get(_A), st.session_state.get(_B)}
    if len(held) < 2 or not held <= set(numbers):
        pin_best(found)
    left, right = st.columns(2)
    a = left.segmented_control(
        "A (pinned)", numbers, key=_A, required=True, on_change=_pinned, args=(numbers,), persist_state="session"
    )
    others = [number for number in numbers if number != a]
    b = right.segmented_control("B (compared with)", others, key=_B, required=True, on_change=_pinned, persist_state="session")
    assert a is not None and b is not None
    if linked != (a, b):
        st.query_params["a"], st.query_params["b"] = str(a), str(b)
    return a - 1, b - 1


def _linked_pins(n: int) -> tuple[int, int] | None:
    """The pins in the link, if they are two of the ``n`` responses."""
    a, b = (st.query_params.get(name, "") for name in ("a", "b"))
    numbers = [str(number) for number in range(1, n + 1)]
    return (int(a), int(b)) if a in numbers and b in numbers and a != b else None


def pairwise(compared: Compared, context: Context, a: int, b: int) -> None:
    """Pairwise breakdown: win probability, linked texts and features, contributions and word diff."""
    found, saved = compared.found, context.saved
    parts, margin = found.differences(a, b), found.margin(a, b)
    columns = st.columns(4)
    columns[0].metric("Win probability, A vs. B", f"{found.win_probability[a, b]:.0%}", border=True, height="stretch")
    columns[1].metric("Margin, A minus B", f"{margin:+.2f}", border=True, height="stretch")
    columns[2].metric("Reward of A", f"{found.rewards[a]:+.2f}", border=True, height="stretch", help=reference_rewards(saved))
    columns[3].metric("Reward of B", f"{found.rewards[b]:+.2f}", border=True, height="stretch", help=reference_rewards(saved))
    asked = st.query_params.get("lit", "")
    linked_texts(
        found,
        a,
        b,
        shares=saved.head.pooling == "mean",
        card=feature_card_link(),
        locked=whole_number(asked),
        on_lock=_keep_locked,
        key="compare_linked",
    )
    left, right = st.columns([3, 2], gap="large")
    with left:
        st.subheader("Margin by feature", anchor=False)
        everything = len(by_family(parts)) > SHOWN and st.toggle(
            "All features",
            key="compare_all",
            help=f"Show every feature instead of the {SHOWN} largest and the sum of the others.",
        )
        shown = len(parts) if everything else SHOWN
        caption = " ".join(line for line in (silent_in_both_line(parts), tables.sum_check(parts, margin)) if line)
        bars = difference_bars(parts, shown)
        if picked := choose_bar(bars, margin, name="margin", caption=caption, key="compare_difference"):
            feature_links(picked, context, key="compare")
    with right:
        st.subheader("Word diff", anchor=False)
        st.caption("Struck through: only in A. Underlined: only in B.")
        diff_text(word_diff(*(compared.inputs.responses[i] for i in (a, b))), key="compare_diff")
    _downloads(compared, a, b)


def _downloads(compared: Compared, a: int, b: int) -> None:
    found = compared.found
    ready = {
        "Ranking": tables.ranking_table(found, compared.inputs.responses),
        "Margin by feature": differences_table(found.differences(a, b)),
        "Scores of all responses": tables.scores_table(found),
        "Token contributions of A and B": tables.tokens_table(found, (a, b)),
    }
    with st.container(horizontal=True):
        for name, table in ready.items():
            st.download_button(
                f"Download {name[0].lower()}{name[1:]} (CSV, {counted(len(table))})",
                partial(to_csv, table),
                f"{name.lower().replace(' ', '-')}.csv",
                "text/csv",
                icon=":material/download:",
                key=f"compare {name}",
                on_click="ignore",
            )


def _every_pair(found: SideBySide) -> None:
    if len(found.rewards) < 3:
        return
    with st.expander("All pairs: win probability of the row vs. the column"):
        matrix = tables.win_matrix(found)
        st.dataframe(matrix.map("{:.0%}".format).replace("nan%", "–"), key="compare_matrix")
        st.download_button(
            f"Download all pairs (CSV, {counted(len(matrix))})",
            to_csv(matrix.reset_index(names="")),
            "every-pair.csv",
            "text/csv",
            icon=":material/download:",
            key="compare every pair",
            on_click="ignore",
        )


def pin_best(found: SideBySide) -> None:
    """Set A to the best response and B to the second best."""
    st.session_state[_A], st.session_state[_B] = found.ranking[0] + 1, found.ranking[1] + 1


def _pinned(numbers: list[int] | None = None) -> None:
    """Remember that the user chose the pins; if A took the response of B, give B another one."""
    st.session_state.compare_pinned = True
    if numbers and st.session_state[_A] == st.session_state[_B]:
        st.session_state[_B] = next(number for number in numbers if number != st.session_state[_A])


def _keep_locked(feature: int | None) -> None:
    if feature is None:
        st.query_params.pop("lit", None)
    else:
        st.query_params["lit"] = str(feature)
