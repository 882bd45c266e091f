"""Parts of the Evaluate page: the figures of a head on a dataset, its slices, its mistakes, and a benchmark's score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from sparserm.evaluation.report import EvaluationReport, Slice, evaluation_report, mistakes_table
from sparserm.evaluation.reward_benchmarks import BenchmarkScore, score_benchmark
from sparserm.explain.contributions import compare_responses
from sparserm.heads.labels import labels_of
from sparserm.types import PreferencePair
from sparserm.ui.compare import inputs
from sparserm.ui.evaluate import charts
from sparserm.ui.score.charts import difference_figure
from sparserm.ui.shared.components import correlation, download_table, figure, pairs_table
from sparserm.ui.shared.context import Context
from sparserm.ui.shared.pairs_picker import Represented
from sparserm.ui.shared.style import CONFIG
from sparserm.ui.shared.tables import differences_table

BY = {
    "category": "Category",
    "length": "Length of the responses",
    "margin": "Size of the margin",
    "training": "Trained on or not",
}


def measured(context: Context, found: Represented) -> EvaluationReport:
    """The report of the head in view on these pairs, kept as long as both are the same."""
    return _measure(context.key, context.hash, hash(found.data.pairs), _context=context, _found=found)


@st.cache_resource(max_entries=8, show_spinner="Measuring…")
def _measure(key: str, digest: str, pairs: int, *, _context: Context, _found: Represented) -> EvaluationReport:
    """Cached by everything that a pair holds: the content's hash leaves out categories."""
    return evaluation_report(_context.saved, _found.data, _found.pairs)


def figures(report: EvaluationReport) -> None:
    """Accuracy first, what it has to beat beside it, and how far the chances can be believed."""
    one, found = report.evaluation, report.calibration
    accuracy, auroc, error = st.columns(3)
    figure(
        accuracy,
        "Accuracy",
        f"{one.accuracy:.1%}",
        f"{_interval(one.ci95)}, n = {one.n:,}",
        "Share of pairs in which the chosen response has the higher reward; a tie counts as wrong. Interval over prompts.",
    )
    figure(
        auroc,
        "AUROC",
        f"{report.auroc:.3f}",
        "0.5 is a coin",
        "Chance that a chosen response has a higher reward than a rejected one, whatever their prompts.",
    )
    figure(
        error,
        "Calibration error",
        f"{found.expected_error:.1%}",
        f"Brier score {found.brier:.3f}",
        "Mean distance between the head's confidence and how often it is right (ECE). A coin has a Brier score of 0.25 and a "
        f"log loss of 0.693; the head's log loss is {found.log_loss:.3f}.",
    )
    _length_figures(report)


def _length_figures(report: EvaluationReport) -> None:
    """How far length alone goes, how far the head follows it, and how good it is where that helps nothing."""
    matched, balanced = report.length_matched, report.length_balanced
    longer, even, follows = st.columns(3)
    figure(
        longer,
        "Longer is better",
        f"{report.evaluation.length_baseline:.1%}",
        "on the same pairs",
        "Accuracy of preferring the response with more tokens: what a head has to beat.",
    )
    figure(
        even,
        "Length-matched",
        f"{matched.accuracy:.1%}" if matched else "–",
        f"{_interval(matched.ci95)}, n = {matched.n:,}" if matched else "no such pairs",
        "Accuracy where neither response has more than 1.25 times the other's tokens, so that length decides little.",
    )
    figure(
        follows,
        "Length correlation",
        correlation(report.length.margin_spearman),
        f"balanced accuracy {balanced.accuracy:.1%}" if balanced else "no balance: length always or never helps",
        "Spearman correlation of margins with differences of log length. Balanced accuracy: the mean of that on pairs whose "
        "chosen response is longer and of that on the others, so that preferring either gains nothing"
        + (f" ({_interval(balanced.ci95)})." if balanced else "."),
    )


def _interval(ci95: tuple[float, float]) -> str:
    return f"{ci95[0]:.1%} to {ci95[1]:.1%}"


def what_was_seen(report: EvaluationReport) -> None:
    """Say where the figures are no test."""
    seen, n = report.n_seen_in_training, report.evaluation.n
    if seen == n:
        st.warning(
            f"The head was trained on the prompts of all {n:,} pairs: these figures say how well it fits, not how good it is. "
            "Pick pairs of other prompts.",
            icon=":material/school:",
        )
    elif seen:
        st.warning(
            f"The head was trained on the prompts of {seen:,} of {n:,} pairs; “Trained on or not” below tells them apart.",
            icon=":material/school:",
        )
    if report.evaluation.n_truncated:
        st.warning(f"{report.evaluation.n_truncated:,} pairs exceed the context: the left of their prompts was cut.")


def distributions(report: EvaluationReport) -> None:
    """Margins and calibration side by side."""
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("Margins", anchor=False)
        st.plotly_chart(charts.margins_figure(report.margins), config=CONFIG, key="margins")
        table = pd.DataFrame(
            {"margin": report.margins, "reward_chosen": report.rewards_chosen, "reward_rejected": report.rewards_rejected}
        )
        download_table(table, "Margins", "margins.csv")
    with right:
        st.subheader(
            "Calibration",
            anchor=False,
            help="Each pair is read from both sides, so that a forecast can fail. Above the line the head is more often right "
            "than it says; below, it is too sure of itself.",
        )
        st.plotly_chart(charts.reliability_figure(report.calibration), config=CONFIG, key="reliability")
        download_table(_frame(report.calibration.bins), "Calibration", "calibration.csv")


@st.fragment
def slices(report: EvaluationReport) -> None:
    """Where it does well and where it does not."""
    offered = [by for by in BY if any(one.by == by for one in report.slices)]
    if st.session_state.get("by") not in offered:  # chosen for other pairs, which had categories
        st.session_state.pop("by", None)
    by = st.segmented_control(
        "Sort the pairs by",
        offered,
        format_func=BY.__getitem__,
        key="by",
        default=offered[0],
        required=True,
        bind="query-params",
    )
    shown = [one for one in report.slices if one.by == by]
    st.plotly_chart(charts.slices_figure(shown, report.evaluation.accuracy), config=CONFIG, key=f"slices {by}")
    note = f"The {charts.MOST} largest of {len(shown)} are drawn. " if len(shown) > charts.MOST else ""
    st.caption(
        f"{note}The dashed line is the accuracy on all pairs, {report.evaluation.accuracy:.1%}; a slice whose interval leaves "
        "it out is in colour. With many slices, some are in colour by chance."
    )
    download_table(slices_table(report.slices), "All slices", "slices.csv")


def slices_table(found: Sequence[Slice]) -> pd.DataFrame:
    """One row for each slice."""
    table = _frame(found)
    table[["ci95_low", "ci95_high"]] = table.pop("ci95").tolist()
    return table


@st.fragment
def mistakes(report: EvaluationReport, context: Context, found: Represented) -> None:
    """What it ranks the other way round, the worst first; a row that is chosen is taken apart."""
    table = mistakes_table(report, found.data.pairs)
    if table.empty:
        st.success("Every pair is ranked as labelled.")
        return
    st.caption("The largest wrong margins first: errors of the head, or of the labels. Choose a row to take it apart.")
    place = pairs_table(table, ["chance", "margin"], "mistake")
    download_table(table, "All mistakes", "mistakes.csv")
    if place is not None:
        pair_apart(int(report.margins.argsort(kind="stable")[place]), context, found)


def pair_apart(index: int, context: Context, found: Represented) -> None:
    """One pair: both texts, and the margin feature by feature."""
    pair = found.data.pairs[index]
    both = np.stack([found.pairs.chosen.h[index], found.pairs.rejected.h[index]])
    comparison = compare_responses(context.saved.head, both, labels_of(context.card))
    st.subheader(f"Row {pair.row}, taken apart", anchor=False)
    pair_texts(pair)
    st.plotly_chart(difference_figure(comparison.contributions, comparison.margin), config=CONFIG, key=f"apart {index}")
    download_table(differences_table(comparison.contributions), "Difference", f"row-{pair.row}-difference.csv")
    inputs.offer(pair.prompt, (pair.chosen, pair.rejected))


def pair_texts(pair: PreferencePair) -> None:
    """A pair as it is: the prompt, and both responses side by side."""
    for turn in pair.prompt:
        st.caption(turn.role)
        st.text(turn.content)
    left, right = st.columns(2, gap="large")
    lines = max(len(text) / 60 + text.count("\n") for text in (pair.chosen, pair.rejected))
    height: Any = 300 if lines > 12 else "stretch"  # long ones scroll
    for place, name, text in ((left, "chosen", pair.chosen), (right, "rejected", pair.rejected)):
        with place, st.container(border=True, height=height):
            st.caption(name)
            st.text(text)


def benchmark(report: EvaluationReport, found: Represented) -> None:
    """Where the pairs are a reward benchmark's: its own score, by its own rules."""
    score = score_benchmark(found.data, report.rewards_chosen, report.rewards_rejected)
    if score is None:
        return
    st.subheader(
        f"{score.name}: {score.overall:.1%} overall", anchor=False, help="Scored by the benchmark's own published rules."
    )
    left, right = st.columns(2, gap="large")
    with left:
        st.plotly_chart(charts.sections_figure(score.sections, score.overall), config=CONFIG, key="sections")
        for note in score.notes:
            st.caption(f":material/info: {note[0].upper()}{note[1:]}.")
        download_table(benchmark_table(score), "Scores", "benchmark.csv")
    with right:
        if score.matrix:
            st.plotly_chart(charts.styles_figure(score.matrix), config=CONFIG, key="styles")
        if score.details:
            st.dataframe(
                pd.DataFrame({"figure": list(score.details), "value": list(score.details.values())}),
                hide_index=True,
                column_config={"value": st.column_config.NumberColumn(format="%.3f")},
            )


def benchmark_table(score: BenchmarkScore) -> pd.DataFrame:
    """One row for each subset or domain."""
    return pd.DataFrame([{"name": row.name, "section": row.section, "n": row.n, **row.scores} for row in score.rows])


def _frame(rows: Sequence[Any]) -> pd.DataFrame:
    return pd.DataFrame([vars(row) for row in rows])
