"""Parts of the Evaluate page: figures of a head on a dataset, slices, mistakes and benchmark scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from sparserm.evaluation.report import EvaluationReport, Slice, evaluation_report
from sparserm.evaluation.reward_benchmarks import BenchmarkScore, score_benchmark
from sparserm.ui.evaluate import charts
from sparserm.ui.shared.components import correlation, download_table, figure
from sparserm.ui.shared.context import Context
from sparserm.ui.shared.pairs_browser import browse_pairs
from sparserm.ui.shared.pairs_picker import Represented
from sparserm.ui.shared.style import CONFIG

BY = {
    "category": "Category",
    "length": "Length of the responses",
    "margin": "Size of the margin",
    "training": "Seen in training",
}


def measured(context: Context, found: Represented) -> EvaluationReport:
    """Evaluation report of the head in view on these pairs; cached by both."""
    return _measure(context.key, context.hash, hash(found.data.pairs), _context=context, _found=found)


@st.cache_resource(max_entries=8, show_spinner="Evaluating…")
def _measure(key: str, digest: str, pairs: int, *, _context: Context, _found: Represented) -> EvaluationReport:
    """``pairs`` is a hash of whole pairs: the content hash of the data leaves out categories."""
    return evaluation_report(_context.saved, _found.data, _found.pairs)


def figures(report: EvaluationReport) -> None:
    """Accuracy, AUROC and calibration, and how they depend on length."""
    one, found = report.evaluation, report.calibration
    accuracy, auroc, error = st.columns(3)
    figure(
        accuracy,
        "Accuracy",
        f"{one.accuracy:.1%}",
        f"{_interval(one.ci95)}, n = {one.n:,}",
        "Share of pairs whose chosen response has the higher reward; a tie counts as wrong. 95% interval over prompts.",
    )
    figure(
        auroc,
        "AUROC",
        f"{report.auroc:.3f}",
        "0.5 is chance",
        "Probability that a random chosen response has a higher reward than a random rejected one, across prompts.",
    )
    figure(
        error,
        "Calibration error",
        f"{found.expected_error:.1%}",
        f"Brier score {found.brier:.3f}",
        "Expected calibration error (ECE): mean distance between the head's confidence and its accuracy. Chance has a Brier "
        f"score of 0.25 and a log loss of 0.693; the head's log loss is {found.log_loss:.3f}.",
    )
    _length_figures(report)


def _length_figures(report: EvaluationReport) -> None:
    """The longer-response baseline, accuracy on length-matched pairs, and how the margins correlate with length."""
    matched, balanced = report.length_matched, report.length_balanced
    longer, even, follows = st.columns(3)
    figure(
        longer,
        "Longer-response baseline",
        f"{report.evaluation.length_baseline:.1%}",
        "on the same pairs",
        "Accuracy of always preferring the response with more tokens. A useful head beats it.",
    )
    figure(
        even,
        "Length-matched accuracy",
        f"{matched.accuracy:.1%}" if matched else "–",
        f"{_interval(matched.ci95)}, n = {matched.n:,}" if matched else "no such pairs",
        "Accuracy on pairs in which neither response has more than 1.25 times the tokens of the other.",
    )
    figure(
        follows,
        "Length correlation",
        correlation(report.length.margin_spearman),
        f"balanced accuracy {balanced.accuracy:.1%}" if balanced else "no balanced accuracy",
        "Spearman correlation of margins with differences in log length. Balanced accuracy: mean of the accuracies on pairs "
        "whose chosen response is longer and on the other pairs"
        + (f" ({_interval(balanced.ci95)})." if balanced else "; one of these groups is empty."),
    )


def _interval(ci95: tuple[float, float]) -> str:
    return f"{ci95[0]:.1%} to {ci95[1]:.1%}"


def what_was_seen(report: EvaluationReport) -> None:
    """Warn about pairs used in training and about truncated prompts."""
    seen, n = report.n_seen_in_training, report.evaluation.n
    if seen == n:
        st.warning(
            f"The head was trained on the prompts of all {n:,} pairs: these figures measure fit, not generalisation. "
            "Choose pairs of other prompts.",
            icon=":material/school:",
        )
    elif seen:
        st.warning(
            f"The head was trained on the prompts of {seen:,} of {n:,} pairs; the slices “{BY['training']}” separate them.",
            icon=":material/school:",
        )
    if report.evaluation.n_truncated:
        st.warning(f"{report.evaluation.n_truncated:,} pairs exceed the context length; prompts were truncated on the left.")


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
            help="Confidence is the win probability of the response that the head prefers. Above the line the head is "
            "underconfident, below it overconfident.",
        )
        st.plotly_chart(charts.reliability_figure(report.calibration), config=CONFIG, key="reliability")
        download_table(_frame(report.calibration.bins), "Calibration", "calibration.csv")


@st.fragment
def slices(report: EvaluationReport) -> None:
    """Accuracy by slice."""
    offered = [by for by in BY if any(one.by == by for one in report.slices)]
    if st.session_state.get("by") not in offered:  # chosen for other pairs that had this kind of slice
        st.session_state.pop("by", None)
    by = st.segmented_control(
        "Slice by", offered, format_func=BY.__getitem__, key="by", default=offered[0], required=True, bind="query-params"
    )
    shown = [one for one in report.slices if one.by == by]
    st.plotly_chart(charts.slices_figure(shown, report.evaluation.accuracy), config=CONFIG, key=f"slices {by}")
    note = f"The {charts.MOST} largest of {len(shown)} slices are drawn. " if len(shown) > charts.MOST else ""
    st.caption(
        f"{note}Dashed line: accuracy on all pairs, {report.evaluation.accuracy:.1%}. Slices whose interval excludes it are "
        "coloured; among many slices, some are by chance."
    )
    download_table(slices_table(report.slices), "All slices", "slices.csv")


def slices_table(found: Sequence[Slice]) -> pd.DataFrame:
    """One row per slice."""
    table = _frame(found)
    table[["ci95_low", "ci95_high"]] = table.pop("ci95").tolist()
    return table


def pairs(report: EvaluationReport, context: Context, found: Represented) -> None:
    """The pairs with their figures, the largest wrong margins first: those ranked against their label, or all."""
    order = report.margins.argsort(kind="stable")
    wrong = order[report.margins[order] <= 0]
    names = {f"Mistakes ({len(wrong):,})": wrong, f"All pairs ({len(order):,})": order}
    if not len(wrong):
        st.success("Every pair is ranked as labelled.")
    which = st.segmented_control(
        "Show",
        list(names),
        default=list(names)[not len(wrong) or _linked_is_right(found, wrong)],
        key=f"pairs {len(wrong)} of {len(order)}",  # of other pairs the options are others
        required=True,
        help="Mistakes are errors of the head or of the label.",
    )
    browse_pairs(names[which].tolist(), context, found, "mistake")


def _linked_is_right(found: Represented, wrong: np.ndarray) -> bool:
    """Whether the opened link names a pair that is no mistake."""
    rows = [str(pair.row) for pair in found.data.pairs]
    asked = st.query_params.get("mistake")
    return asked in rows and asked not in {rows[i] for i in wrong.tolist()}


def benchmark(report: EvaluationReport, found: Represented) -> None:
    """If the pairs are a reward benchmark, its score by its own rules."""
    score = score_benchmark(found.data, report.rewards_chosen, report.rewards_rejected)
    if score is None:
        return
    st.subheader(f"{score.name}: {score.overall:.1%} overall", anchor=False, help="Scored by the benchmark's published rules.")
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
    """One row per subset or domain."""
    return pd.DataFrame([{"name": row.name, "section": row.section, "n": row.n, **row.scores} for row in score.rows])


def _frame(rows: Sequence[Any]) -> pd.DataFrame:
    return pd.DataFrame([vars(row) for row in rows])
