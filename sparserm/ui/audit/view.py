"""Parts of the Audit page: labels that the head contradicts, other flagged rows, and what the surface gives away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd
import streamlit as st

from sparserm import jobs
from sparserm.audit.flags import (
    REASONS,
    SURE,
    Audit,
    Flag,
    HeldOutMargins,
    agreement,
    audit,
    contradicted,
    flagged,
    held_out_margins,
    load_audit,
)
from sparserm.pairs.sources import DataSource, list_sources
from sparserm.types import PreferenceData, PreferencePair
from sparserm.ui.audit import charts
from sparserm.ui.evaluate.view import pair_apart, pair_texts
from sparserm.ui.shared import job_panel, pairs_picker
from sparserm.ui.shared.components import download_table, figure, pairs_table
from sparserm.ui.shared.context import Context
from sparserm.ui.shared.pairs_picker import Represented
from sparserm.ui.shared.style import CONFIG

#: Pairs up to which the audit is made on the page: some ten seconds.
AT_ONCE = 20_000
#: Marks are drawn that tell at least this many pairs apart; the table holds all of them.
DRAWN = 10


def pick_other(source: DataSource | None) -> DataSource | None:
    """The data that should share no prompt with the pairs, if any."""
    others = {label: one for label, one in list_sources().items() if one != source}
    picked = st.selectbox(
        "Should share no prompt with",
        list(others),
        index=None,
        key="against",
        bind="query-params",
        placeholder="Optional: the training pairs of a test set, or the other way round",
        help="Prompts that are in both, or nearly, are flagged as leakage.",
    )
    return others[picked] if picked else None


def audited(source: DataSource, pairs: PreferenceData, other: DataSource | None) -> Audit:
    """The audit without a head: at once, or for large data by a job, until whose end the page ends here."""
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
    job = next((one for one in jobs.list_jobs() if one.kind == "audit" and jobs.spec(one.id) == specification), None)
    if job is None:
        st.info(f"Looking through {len(pairs.pairs):,} pairs takes about a minute; you may close the tab meanwhile.")
        if st.button("Look through them", type="primary", key="start auditing"):
            jobs.start("audit", specification, f"Audit of {pairs.name}")
            st.rerun()
        st.stop()
    if job.state != "done":
        job_panel.show_job(job.id)
        st.stop()
    return load_audit(job.folder)


@st.cache_resource(max_entries=8, show_spinner="Looking through the pairs…")
def _audit(pairs: int, other: int, *, _pairs: PreferenceData, _other: PreferenceData | None) -> Audit:
    return audit(_pairs, against=_other)


@st.cache_resource(max_entries=8, show_spinner="Asking the head about every pair…")
def _held_out(key: str, digest: str, content: str, *, _context: Context, _found: Represented) -> HeldOutMargins:
    return held_out_margins(_context.saved, _found.data, _found.pairs, _context.sae())


def opposed(context: Context, source: DataSource | None, surface_alone: float) -> None:
    """Labels that the head contradicts with confidence: candidates for mislabels."""
    st.subheader(
        "Labels that the head contradicts",
        anchor=False,
        help="The head gives the rejected response a high chance: the label may be wrong, or the head. Rows whose prompt it "
        "was trained on are judged by heads of the same settings trained without that prompt.",
    )
    found = pairs_picker.represented(source)
    held_out = _held_out(context.key, context.hash, found.data.content_hash, _context=context, _found=found)
    one = agreement(held_out)
    ranked, sure, against, expected = st.columns(4)
    figure(
        ranked,
        "Ranked as labelled",
        f"{one.accuracy:.1%}",
        f"surface alone {surface_alone:.1%}",
        "Accuracy of the head on these pairs, beside that of length, lists, punctuation and the like (see below).",
    )
    figure(sure, f"At least {SURE:.0%} sure of", f"{one.n_sure:,}", f"of {len(held_out.margins):,} pairs", "Either way.")
    figure(
        against,
        "Label says otherwise",
        f"{one.n_contradicted:,}",
        f"{one.n_contradicted / max(one.n_sure, 1):.1%} of those",
        "Candidates for wrong labels, the surest first below.",
    )
    figure(
        expected,
        "Expected",
        f"{one.n_expected:.0f}",
        "if its chances were right",
        "How many a calibrated head would contradict. Many more: wrong labels, or a head too sure of itself (see Evaluate).",
    )
    if one.n_trained_on:
        st.caption(
            f":material/school: {one.n_trained_on:,} of these pairs have prompts that the head was trained on; each was "
            "judged by a head of the same settings that was trained without its prompt."
        )
    flags = contradicted(held_out)
    if not flags:
        st.success("No label is contradicted with that confidence.")
        return
    _contradicted_table(flags, found, context)


@st.fragment
def _contradicted_table(flags: Sequence[Flag], found: Represented, context: Context) -> None:
    chosen = _table(flags, found.data.pairs, "contradicted", ["score"])
    if chosen is not None:
        pair_apart(chosen.index, context, found)


@st.fragment
def other_flags(found: Audit, pairs: Sequence[PreferencePair]) -> None:
    """Rows flagged for reasons that need no head."""
    st.subheader("Rows to look at", anchor=False)
    if not found.flags:
        st.success("No repeated, reversed or leaked rows.")
        return
    counts = found.counts
    picked = st.pills("Only", list(counts), selection_mode="multi", key="reasons", bind="query-params")
    reasons = picked or list(counts)
    st.caption("  \n".join(f"**{counts[reason]:,} {reason}**: {REASONS[reason]}" for reason in reasons))
    chosen = _table([flag for flag in found.flags if flag.reason in reasons], pairs, "flagged", ["reason", "detail"])
    if chosen is not None:
        st.subheader(f"Row {pairs[chosen.index].row}: {chosen.detail}", anchor=False)
        pair_texts(pairs[chosen.index])


def _table(flags: Sequence[Flag], pairs: Sequence[PreferencePair], name: str, columns: list[str]) -> Flag | None:
    """Flags as a table with its file; returns the one that was chosen."""
    table = flagged(flags, pairs)
    place = pairs_table(table, columns, name)
    download_table(table, "Flagged rows", f"{name}.csv")
    return None if place is None else flags[place]


def surface(found: Audit) -> None:
    """What separates chosen from rejected responses apart from content."""
    one = found.surface
    st.subheader(
        f"The surface alone ranks {one.accuracy:.1%} as labelled",
        anchor=False,
        help="Length, refusals, lists, punctuation and the like, counted and put into one Bradley-Terry model, cross-validated "
        "over prompts. The words looked for are English.",
    )
    st.caption(
        f"95 % interval {one.ci95[0]:.1%} to {one.ci95[1]:.1%}; 50 % is a coin. A head that does no better may have learned "
        "nothing but this. Each line is one mark as a rule, with the share of pairs in which the two responses differ in it; "
        "grey where it may be a coin."
    )
    often = [rule for rule in one.rules if rule.n_differ >= DRAWN]
    if often:
        st.plotly_chart(charts.surface_figure(often, one.n), config=CONFIG, key="surface")
    table = pd.DataFrame([vars(rule) for rule in one.rules])
    if not table.empty:
        table[["ci95_low", "ci95_high"]] = table.pop("ci95").tolist()
        download_table(table, "Marks", "surface.csv")


def headline(found: Audit) -> None:
    """How many pairs, and how many of them are flagged without asking a head."""
    rows = Counter(flag.index for flag in found.flags)
    st.caption(f"{found.n:,} pairs, {len(rows):,} of them flagged below without asking a head.")
