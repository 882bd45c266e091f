"""Parts of the Audit page: contradicted labels, other flagged rows, and the baseline of surface features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd
import streamlit as st

from sparserm import jobs
from sparserm.audit.flags import REASONS, SURE, Audit, Flag, agreement, audit, contradicted, flagged, load_audit
from sparserm.pairs.sources import DataSource, list_sources
from sparserm.types import PreferenceData, PreferencePair, SparseRMError
from sparserm.ui.audit import charts
from sparserm.ui.shared import job_panel, pairs_picker
from sparserm.ui.shared.components import download_table, figure, pairs_table
from sparserm.ui.shared.context import current
from sparserm.ui.shared.pair_breakdown import pair_texts
from sparserm.ui.shared.pairs_browser import browse_pairs, held_out
from sparserm.ui.shared.style import CONFIG

#: Up to this many pairs the audit runs on the page, which takes some ten seconds; more are audited by a job.
AT_ONCE = 20_000
#: Surface features are drawn if they differ in at least this many pairs; the CSV has all of them.
DRAWN = 10


def pick_other(source: DataSource | None) -> DataSource | None:
    """Let the user choose other data to check for shared prompts; None if no data is chosen."""
    others = {label: one for label, one in list_sources().items() if one != source}
    pairs_picker.link_is_unknown("against", others)
    picked = st.selectbox(
        "Check overlap with",
        list(others),
        index=None,
        key="against",
        bind="query-params",
        placeholder="Optional: for test pairs the training pairs, or the reverse",
        help="Prompts that are in both, exactly or nearly, are flagged as leakage.",
    )
    return others[picked] if picked else None


def audited(source: DataSource, pairs: PreferenceData, other: DataSource | None) -> Audit:
    """Audit without a head, run on the page or, for large data, by a job; stops the page until the job is done."""
    if len(pairs.pairs) > AT_ONCE:
        return _by_job(source, pairs, other)
    against = pairs_picker.load_or_stop(other) if other else None
    return _audit(hash(pairs.pairs), hash(against.pairs) if against else 0, _pairs=pairs, _other=against)


def _by_job(source: DataSource, pairs: PreferenceData, other: DataSource | None) -> Audit:
    specification = {
        "source": source.to_dict(),
        "against": other.to_dict() if other else None,
        "versions": [one.version() for one in (source, other) if one],
    }
    job = jobs.find_job("audit", specification)
    if job is None:
        st.info(f"Auditing {len(pairs.pairs):,} pairs takes about a minute. You can close the tab meanwhile.")
        if st.button("Start the audit", type="primary", key="start auditing"):
            jobs.start("audit", specification, f"Audit of {pairs.name}")
            st.rerun()
        st.stop()
    if job.state != "done":
        job_panel.show_job(job.id)
        st.stop()
    return load_audit(job.folder)


@st.cache_resource(max_entries=8, show_spinner="Auditing the pairs…")
def _audit(pairs: int, other: int, *, _pairs: PreferenceData, _other: PreferenceData | None) -> Audit:
    return audit(_pairs, against=_other)


def opposed(source: DataSource | None, surface_alone: float) -> None:
    """Labels that the head contradicts with confidence: possible label errors."""
    st.subheader(
        "Labels that the head contradicts",
        anchor=False,
        help="The head gives the rejected response a high win probability: the label may be wrong, or the head. Rows whose "
        "prompt it was trained on are scored by heads with the same settings trained without that prompt.",
    )
    context = current()
    found = pairs_picker.represented(source)
    try:
        margins = held_out(context.key, context.hash, found.data.content_hash, _context=context, _found=found)
    except SparseRMError:
        st.error("The head was trained on these prompts, and they are too few to train heads without them. Choose more pairs.")
        return
    one = agreement(margins)
    ranked, sure, against, expected = st.columns(4)
    figure(
        ranked,
        "Ranked as labelled",
        f"{one.accuracy:.1%}",
        f"surface features alone {surface_alone:.1%}",
        "Accuracy of the head on these pairs, compared with that of surface features such as length (see below).",
    )
    figure(
        sure,
        "Confident pairs",
        f"{one.n_sure:,}",
        f"of {len(margins.margins):,} pairs",
        f"Pairs in which the head gives either response a win probability of at least {SURE:.0%}.",
    )
    figure(
        against,
        "Contradicted labels",
        f"{one.n_contradicted:,}",
        f"{one.n_contradicted / max(one.n_sure, 1):.1%} of confident pairs",
        "Possible label errors, listed below with the most confident first.",
    )
    figure(
        expected,
        "Expected contradictions",
        f"{one.n_expected:.0f}",
        "for a calibrated head",
        "Labels that a calibrated head would contradict even if all labels were right. Many more suggest label errors or an "
        "overconfident head (see Evaluate).",
    )
    if one.n_trained_on:
        st.caption(
            f":material/school: {one.n_trained_on:,} of these pairs have prompts used in training. They are scored by heads "
            "with the same settings trained without these prompts."
        )
    flags = contradicted(margins)
    if not flags:
        st.success(f"No label is contradicted with {SURE:.0%} confidence or more.")
        return
    browse_pairs([flag.index for flag in flags], context, found, "contradicted")


@st.fragment
def other_flags(found: Audit, pairs: Sequence[PreferencePair]) -> None:
    """Rows flagged without a head: duplicates, reversals and leakage."""
    st.subheader("Rows to check", anchor=False)
    if not found.flags:
        st.success("No duplicate, reversed or leaked rows.")
        return
    counts = found.counts
    picked = st.pills("Show only", list(counts), selection_mode="multi", key="reasons", bind="query-params")
    reasons = picked or list(counts)
    st.caption("  \n".join(f"**{counts[reason]:,} {reason}**: {REASONS[reason]}" for reason in reasons))
    chosen = _table([flag for flag in found.flags if flag.reason in reasons], pairs, "flagged", ["reason", "detail"])
    if chosen is not None:
        st.subheader(f"Row {pairs[chosen.index].row}: {chosen.detail}", anchor=False)
        pair_texts(pairs[chosen.index])


def _table(flags: Sequence[Flag], pairs: Sequence[PreferencePair], name: str, columns: list[str]) -> Flag | None:
    """Table of flags with its download; returns the selected flag."""
    table = flagged(flags, pairs)
    place = pairs_table(table, columns, name)
    download_table(table, "Flagged rows", f"{name}.csv")
    return None if place is None else flags[place]


def surface(found: Audit) -> None:
    """Accuracy of surface features, together and one by one."""
    one = found.surface
    st.subheader(
        f"Surface features alone reach {one.accuracy:.1%} accuracy",
        anchor=False,
        help="Counts of words, refusals, list items, punctuation and so on in one Bradley-Terry model, cross-validated over "
        "prompts. The word lists are English.",
    )
    st.caption(
        f"95% interval {one.ci95[0]:.1%} to {one.ci95[1]:.1%}; 50% is chance. A head that does no better may have learned "
        "only these.",
        help="Each line is one surface feature used as a rule. In brackets: share of pairs whose responses differ in it. Grey: "
        "not distinguishable from chance.",
    )
    often = [rule for rule in one.rules if rule.n_differ >= DRAWN]
    if often:
        st.plotly_chart(charts.surface_figure(often, one.n), config=CONFIG, key="surface")
    table = pd.DataFrame([vars(rule) for rule in one.rules])
    if not table.empty:
        table[["ci95_low", "ci95_high"]] = table.pop("ci95").tolist()
        download_table(table, "Surface features", "surface.csv")


def headline(found: Audit) -> None:
    """Number of pairs, and of those flagged without a head."""
    rows = Counter(flag.index for flag in found.flags)
    st.caption(f"{found.n:,} pairs, {len(rows):,} of them flagged below by checks that need no head.")
