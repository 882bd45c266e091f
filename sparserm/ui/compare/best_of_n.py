"""Best of N on the Compare page: candidates pasted or uploaded, their ranking, and downloads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from sparserm import jobs
from sparserm.explain.comparison import MOST
from sparserm.pairs.candidates import (
    BLOCK,
    PART,
    Candidates,
    keep_candidates,
    kept_candidates,
    parse_candidates,
    read_candidates,
)
from sparserm.pairs.parsing import PairsError
from sparserm.pairs.streams import PACKED
from sparserm.scoring.best_of_n import (
    RankedSet,
    best_rows,
    count_missing_tokens,
    count_truncated,
    preference_rows,
    rank,
    rank_by,
    ranking_rows,
)
from sparserm.support.files import to_csv, to_jsonl
from sparserm.types import SparseRMError
from sparserm.ui.compare import charts, inputs
from sparserm.ui.shared import job_panel, pairs_picker
from sparserm.ui.shared.context import Context
from sparserm.ui.shared.style import CONFIG
from sparserm.ui.shared.text import counted, sentence

PASTE, UPLOAD = "Paste", "Upload a file"
#: Maximum characters of candidates to look up in the store on the page; more are ranked by a job.
LOOKED_UP = 1_000_000
#: Maximum characters of kept candidates to write into the field.
FIELD = 20_000

_TEXT, _FILE, _IDENTITY = "best_of_n_text", "best_of_n_file", "candidates"


@dataclass(frozen=True)
class Ranking:
    """A ranking and its tables: ``best`` with a row for each prompt, ``full`` with a row for each candidate."""

    ranked: tuple[RankedSet, ...]
    best: pd.DataFrame
    full: pd.DataFrame


def draw(context: Context) -> None:
    """Draw the view."""
    st.caption("Rank many candidates for each of many prompts, and export the best against the worst as training pairs.")
    read = _inputs(context)
    if st.button("Rank", type="primary", width=220, key="best_of_n_rank"):
        _take(read)
    identity = st.query_params.get(_IDENTITY) or st.session_state.get(_IDENTITY)
    if identity is None:
        st.info("Press **Rank** to rank the candidates of each prompt.", icon=":material/format_list_numbered:")
        return
    st.session_state[_IDENTITY] = st.query_params[_IDENTITY] = identity
    if st.session_state.get("best_of_n_read", _signature()) != _signature():
        st.warning(
            "The candidates have changed since they were ranked. Press **Rank** to update the ranking.",
            icon=":material/history:",
        )
    try:
        ranking = _ranked(identity, context)
    except SparseRMError as error:
        st.error(sentence(error))
        return
    _results(ranking, context)


def _inputs(context: Context) -> Callable[[], Candidates]:
    """Draw the text field or the uploader; returns a function that reads the candidates from it."""
    way = st.segmented_control("Candidates", [PASTE, UPLOAD], default=PASTE, required=True, key="best_of_n_way")
    if way == UPLOAD:
        file = st.file_uploader(
            "File with candidates",
            type=["jsonl", "json", "csv", "tsv", "parquet", *(ending[1:] for ending in PACKED)],
            key=_FILE,
            max_upload_size=pairs_picker.MAX_UPLOAD_MB,
            help="Each row has a prompt with a list of responses or with one response; rows with equal prompts are grouped.",
        )
        if file is None:
            st.caption("Columns: `prompt` and `responses` (a list; in CSV as JSON), or `prompt` and `response` (one per row).")
            return _nothing
        return lambda: read_candidates(file.getvalue(), file.name, skip_bad=True)
    if _TEXT not in st.session_state:
        identity = st.query_params.get(_IDENTITY)
        st.session_state[_TEXT] = _example(context) if identity is None else _kept_text(identity)
    text = st.text_area(
        "Prompts and candidates",
        key=_TEXT,
        height=260,
        persist_state="session",
        help=f"Lines of {PART} separate a prompt and its candidates; lines of {BLOCK} separate prompts. JSONL works too.",
    )
    st.caption(
        f"Write each prompt, then its candidates, separated by lines of `{PART}`. Separate prompts by lines of `{BLOCK}`."
    )
    if not text and st.query_params.get(_IDENTITY):
        st.caption("The ranking below is of candidates that are not shown here: they are too long, or have several turns.")
    return lambda: parse_candidates(text, skip_bad=True)


def _kept_text(identity: str) -> str:
    """The candidates that a link or a reload names, as they are pasted; empty if they are long or cannot be written so."""
    try:
        candidates = _candidates(identity)
    except SparseRMError:
        return ""  # the page says so below
    blocks = [f"\n{PART}\n".join((one.prompt[-1].content, *one.responses)) for one in candidates.sets]
    text = f"\n{BLOCK}\n".join(blocks)
    if len(text) > FIELD:
        return ""
    try:
        read = parse_candidates(text)
    except SparseRMError:
        return ""
    own, there = ([(one.prompt, one.responses) for one in found.sets] for found in (candidates, read))
    return text if own == there else ""


def _nothing() -> Candidates:
    raise SparseRMError("no file was uploaded; upload one, or paste the candidates")


def _example(context: Context) -> str:
    """The first three single-turn starter prompts with their responses."""
    pairs = [pair for pair in inputs.starter_pairs(context.card.name) if len(pair.prompt) == 1][:3]
    return f"\n{BLOCK}\n".join(f"\n{PART}\n".join((pair.prompt[0].content, *pair.responses)) for pair in pairs)


def _signature() -> object:
    """A value that changes with the contents of the field or the uploader."""
    file = st.session_state.get(_FILE)
    return st.session_state.get("best_of_n_way"), st.session_state.get(_TEXT), getattr(file, "file_id", None)


def _take(read: Callable[[], Candidates]) -> None:
    """Read the candidates, store them, and put their hash into the link."""
    try:
        candidates = read()
    except PairsError as error:
        st.error(sentence(error))
        pairs_picker.show_issues(error.issues, key="candidates")
    except SparseRMError as error:
        st.error(sentence(error))
    else:
        st.session_state.best_of_n_issues = candidates.issues
        st.query_params[_IDENTITY] = keep_candidates(candidates)
        st.session_state.best_of_n_read = _signature()


def _ranked(identity: str, context: Context) -> Ranking:
    """The ranking, computed on the page if it is fast; otherwise offers a job and stops the page until it has finished.

    Raises:
        SparseRMError: the candidates are not available, or one cannot be scored.
    """
    spec = {"candidates": identity, "head": context.key, "hash": context.hash}
    job = jobs.find_job("best_of_n", spec)
    if job is not None and job.state != "done":
        job_panel.show_job(job.id)
        st.stop()
    if job is None and not _is_little(identity, context.key, context.hash, _context=context):
        candidates = _candidates(identity)
        st.info(
            f"{candidates.n_responses:,} candidates of {len(candidates.sets):,} prompts have to be scored with "
            f"{context.place.title}. You can close the tab meanwhile.",
            icon=":material/memory:",
        )
        if st.button("Start scoring", type="primary", key="best_of_n_start"):
            jobs.start("best_of_n", spec, f"Best of N: {candidates.n_responses:,} candidates")
            st.rerun()
        st.stop()
    return _rank(identity, context.key, context.hash, str(job.folder) if job else "", _context=context)


@st.cache_resource(show_spinner="Reading the candidates…", max_entries=4)
def _candidates(identity: str) -> Candidates:
    return kept_candidates(identity)


@st.cache_data(show_spinner="Reading the candidates…", max_entries=64)
def _is_little(identity: str, head: str, version: str, *, _context: Context) -> bool:
    """Whether to compute the ranking on the page; stored representations cost nothing."""
    candidates = _candidates(identity)
    characters = sum(len(response) for one in candidates.sets for response in one.responses)
    return characters < LOOKED_UP and count_missing_tokens(_context.model(), candidates) <= pairs_picker.INLINE_TOKENS


@st.cache_resource(show_spinner="Ranking…", max_entries=4)
def _rank(identity: str, head: str, version: str, job: str, *, _context: Context) -> Ranking:
    """Rank by the rewards of a finished job, or by those of the model."""
    candidates = _candidates(identity)
    ranked = _ranked_by_job(candidates, Path(job)) if job else rank(_context.model(), candidates)
    return Ranking(ranked, pd.DataFrame(best_rows(ranked)), pd.DataFrame(ranking_rows(ranked)))


def _ranked_by_job(candidates: Candidates, job: Path) -> tuple[RankedSet, ...]:
    cut = job / "n_truncated.npy"  # jobs of earlier versions have none
    return rank_by(candidates, np.load(job / "rewards.npy"), np.load(cut) if cut.is_file() else None)


def _results(ranking: Ranking, context: Context) -> None:
    if issues := st.session_state.get("best_of_n_issues"):
        with st.expander(f"{len(issues):,} findings in the candidates", icon=":material/report:"):
            pairs_picker.show_issues(issues, key="candidates")
    best = ranking.best
    columns = st.columns(4)
    columns[0].metric("Prompts", f"{len(best):,}", border=True, height="stretch")
    columns[1].metric("Candidates", f"{len(ranking.full):,}", border=True, height="stretch")
    columns[2].metric(
        "Win probability, best vs. next",
        "–" if best["beats_next"].isna().all() else f"{best['beats_next'].median():.0%}",
        border=True,
        height="stretch",
        help="Bradley-Terry win probability of the best candidate vs. the second best; median over prompts.",
    )
    columns[3].metric(
        "Margin, best minus worst",
        f"{best['spread'].median():+.2f}",
        border=True,
        height="stretch",
        help="Reward of the best candidate minus the reward of the worst; median over prompts.",
    )
    if n_truncated := count_truncated(ranking.ranked):
        st.warning(f"{n_truncated:,} candidates exceed the context length; prompts were truncated on the left.")
    by_prompt, everything, pairs = st.tabs(["Best of each prompt", "Full ranking", "Training pairs"])
    with by_prompt:
        _best(ranking)
    with everything:
        _ranking(ranking.full)
    with pairs:
        _pairs(ranking.ranked, context)


_COLUMNS = {
    "prompt_number": st.column_config.NumberColumn("#", width=45),
    "rank": st.column_config.NumberColumn("Rank", width=50),
    "n": st.column_config.NumberColumn("N", width=45, help="Number of candidates for the prompt."),
    "prompt": st.column_config.TextColumn("Prompt", width="medium"),
    "best": st.column_config.TextColumn("Best candidate", width=310),
    "response": st.column_config.TextColumn("Candidate", width="large"),
    "beats_next": st.column_config.NumberColumn("Win prob. vs. next", format="%.0f%%", width=125),
    "beats_best": st.column_config.NumberColumn("Win prob. vs. best", format="%.0f%%", width=125),
    "spread": st.column_config.NumberColumn("Best minus worst", format="%+.2f", width=115),
    "reward": st.column_config.NumberColumn("Reward", format="%+.2f", width=75),
}


def _best(ranking: Ranking) -> None:
    best = ranking.best
    event = st.dataframe(
        best.assign(beats_next=100 * best["beats_next"].astype(float), prompt=best["prompt"].map(_as_text)),
        hide_index=True,
        key="best_of_n_best",
        column_config=_COLUMNS,
        on_select="rerun",
        selection_mode="single-row",
        column_order=["prompt_number", "prompt", "n", "best", "beats_next", "spread", "reward"],
    )
    rows = event["selection"]["rows"]
    picked = ranking.ranked[rows[0]] if rows else None
    with st.container(horizontal=True):
        st.button(
            "Compare side by side",
            icon=":material/compare_arrows:",
            key="best_of_n_open",
            on_click=_open,
            args=(picked,),
            disabled=picked is None or len(picked.ranking) < 2,
            help=f"Compare the candidates of the selected row, at most the best {MOST}.",
        )
        _download("Download best of each prompt", "CSV", lambda: to_csv(_records(best)), len(best), "best.csv", "text/csv")


def _open(one: RankedSet | None) -> None:
    """Open the candidates of a prompt, best first, in the side-by-side view."""
    if one is not None:
        inputs.put(one.candidates.prompt, [one.candidates.responses[i] for i in one.ranking[:MOST]])
        st.session_state.compare_mode = inputs.SIDE_BY_SIDE


def _ranking(table: pd.DataFrame) -> None:
    against_best = (100 * table["beats_best"]).where(table["rank"] > 1)  # the best has no comparison
    st.dataframe(
        table.assign(beats_best=against_best, prompt=table["prompt"].map(_as_text)),
        hide_index=True,
        key="best_of_n_ranking",
        column_config=_COLUMNS,
        column_order=["prompt_number", "rank", "response", "beats_best", "reward", "prompt"],
    )
    with st.container(horizontal=True):
        _download("Download ranking", "CSV", lambda: to_csv(_records(table)), len(table), "ranking.csv", "text/csv")
        _download(
            "Download ranking", "JSONL", lambda: to_jsonl(_records(table)), len(table), "ranking.jsonl", "application/jsonl"
        )


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _pairs(ranked: tuple[RankedSet, ...], context: Context) -> None:
    st.caption(
        "The best candidate of each prompt is chosen, the worst rejected. Format: TRL preference data with explicit prompt."
    )
    left, right = st.columns([1, 2], gap="large", vertical_alignment="center")
    least = left.number_input(
        "Minimum reward margin",
        min_value=0.0,
        value=0.0,
        step=0.25,
        key="best_of_n_margin",
        bind="query-params",
        help="Minimum difference in reward between best and worst. At 1, the best has a win probability of 73%.",
    )
    made = preference_rows(ranked, least)
    left.metric(f"Pairs from {len(ranked):,} prompts", f"{len(made):,}", border=True)
    right.plotly_chart(charts.spreads_figure([one.spread for one in ranked], least), config=CONFIG, key="best_of_n_spreads")
    _download(
        "Download pairs", "JSONL", lambda: to_jsonl(made), len(made), f"pairs-by-{context.card.name}.jsonl", "application/jsonl"
    )


def _as_text(prompt: str | list[dict[str, str]]) -> str:
    """The last turn of a prompt, for a table cell."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def _download(name: str, kind: str, content: Callable[[], str], rows: int, filename: str, mime: str) -> None:
    st.download_button(
        f"{name} ({kind}, {counted(rows)})",
        content,
        filename,
        mime,
        key=f"best_of_n {filename.split('-', maxsplit=1)[0]} {mime}",
        icon=":material/download:",
        on_click="ignore",
        disabled=not rows,
    )
