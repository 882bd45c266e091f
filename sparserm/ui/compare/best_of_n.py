"""Best of N on the Compare page: candidates pasted or uploaded, their ranking, and what can be taken away."""

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
from sparserm.scoring.best_of_n import RankedSet, best_rows, count_missing_tokens, preference_rows, rank, rank_by, ranking_rows
from sparserm.support.files import to_csv, to_jsonl
from sparserm.types import SparseRMError
from sparserm.ui.compare import charts, inputs
from sparserm.ui.shared import job_panel, pairs_picker
from sparserm.ui.shared.context import Context
from sparserm.ui.shared.style import CONFIG
from sparserm.ui.shared.text import counted, sentence

PASTE, UPLOAD = "Paste", "Upload a file"
#: Characters of candidates that are looked up in the store on the page; more of them go to a job straight away.
LOOKED_UP = 1_000_000

_TEXT, _FILE, _IDENTITY = "best_of_n_text", "best_of_n_file", "candidates"


@dataclass(frozen=True)
class Ranking:
    """A ranking and its tables: one row for each prompt, and one for each candidate."""

    ranked: tuple[RankedSet, ...]
    best: pd.DataFrame
    full: pd.DataFrame


def draw(context: Context) -> None:
    """The whole of it."""
    st.caption("Many candidates for each of many prompts: which is the best, and which pairs do they make for training?")
    read = _inputs(context)
    if st.button("Rank", type="primary", width=220, key="best_of_n_rank"):
        _take(read)
    identity = st.query_params.get(_IDENTITY) or st.session_state.get(_IDENTITY)
    if identity is None:
        st.info("Press **Rank** to order the candidates of each prompt.", icon=":material/format_list_numbered:")
        return
    st.session_state[_IDENTITY] = st.query_params[_IDENTITY] = identity
    if st.session_state.get("best_of_n_read", _signature()) != _signature():
        st.warning(
            "The candidates have changed since they were ranked. Press **Rank** to bring it up to date.",
            icon=":material/history:",
        )
    try:
        ranking = _ranked(identity, context)
    except SparseRMError as error:
        st.error(sentence(error))
        return
    _results(ranking, context)


def _inputs(context: Context) -> Callable[[], Candidates]:
    """The field or the uploader, and how what stands there is read."""
    way = st.segmented_control("Candidates", [PASTE, UPLOAD], default=PASTE, required=True, key="best_of_n_way")
    if way == UPLOAD:
        file = st.file_uploader(
            "Candidates as a file",
            type=["jsonl", "json", "csv", "tsv", "parquet", "gz"],
            key=_FILE,
            max_upload_size=pairs_picker.MAX_UPLOAD_MB,
            help="A row is a prompt with the list of its responses, or with one response; rows of a prompt belong together.",
        )
        if file is None:
            st.caption("Columns: `prompt` and `responses` (a list; in CSV as JSON), or `prompt` and `response`, one a row.")
            return _nothing
        return lambda: read_candidates(file.getvalue(), file.name, skip_bad=True)
    if _TEXT not in st.session_state:
        st.session_state[_TEXT] = _example(context)
    text = st.text_area(
        "Prompts and candidates",
        key=_TEXT,
        height=260,
        persist_state="session",
        help=f"Parts of a prompt's block are parted by lines of {PART}, blocks by lines of {BLOCK}. JSON lines are read too.",
    )
    st.caption(
        "A prompt, then its candidates, with a line of three dashes between them; a line of three equals signs ends them."
    )
    return lambda: parse_candidates(text, skip_bad=True)


def _nothing() -> Candidates:
    raise SparseRMError("no file was uploaded; choose one, or paste the candidates")


def _example(context: Context) -> str:
    """Three starter prompts with their responses, those of one turn."""
    pairs = [pair for pair in inputs.starter_pairs(context.card.name) if len(pair.prompt) == 1][:3]
    return f"\n{BLOCK}\n".join(f"\n{PART}\n".join((pair.prompt[0].content, *pair.responses)) for pair in pairs)


def _signature() -> object:
    """Changes with what stands in the field or the uploader."""
    file = st.session_state.get(_FILE)
    return st.session_state.get("best_of_n_way"), st.session_state.get(_TEXT), getattr(file, "file_id", None)


def _take(read: Callable[[], Candidates]) -> None:
    """Read what was handed in, keep it, and put it into the link."""
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
    """The ranking: computed here where it is little, by a job where it is much; until that has ended the page ends here.

    Raises:
        SparseRMError: the candidates are not there, or one cannot be scored.
    """
    spec = {"candidates": identity, "head": context.key, "hash": context.hash}
    job = next((one for one in jobs.list_jobs() if one.kind == "best_of_n" and jobs.spec(one.id) == spec), None)
    if job is not None and job.state != "done":
        job_panel.show_job(job.id)
        st.stop()
    if job is None and not _is_little(identity, context.key, context.hash, _context=context):
        candidates = _candidates(identity)
        st.info(
            f"The language model has to read {candidates.n_responses:,} candidates of {len(candidates.sets):,} prompts at "
            f"{context.place}. You may close the tab meanwhile.",
            icon=":material/memory:",
        )
        if st.button("Start", type="primary", key="best_of_n_start"):
            jobs.start("best_of_n", spec, f"Best of N: {candidates.n_responses:,} candidates")
            st.rerun()
        st.stop()
    return _rank(identity, context.key, context.hash, str(job.folder) if job else "", _context=context)


@st.cache_resource(show_spinner="Reading the candidates…", max_entries=4)
def _candidates(identity: str) -> Candidates:
    return kept_candidates(identity)


@st.cache_data(show_spinner="Reading the candidates…", max_entries=64)
def _is_little(identity: str, head: str, version: str, *, _context: Context) -> bool:
    """Whether the page may compute it; what the store holds costs nothing."""
    candidates = _candidates(identity)
    characters = sum(len(response) for one in candidates.sets for response in one.responses)
    return characters < LOOKED_UP and count_missing_tokens(_context.model(), candidates) <= pairs_picker.INLINE_TOKENS


@st.cache_resource(show_spinner="Ranking…", max_entries=4)
def _rank(identity: str, head: str, version: str, job: str, *, _context: Context) -> Ranking:
    """By the rewards that a job has left, or by those of the model."""
    candidates = _candidates(identity)
    ranked = rank_by(candidates, np.load(Path(job) / "rewards.npy")) if job else rank(_context.model(), candidates)
    return Ranking(ranked, pd.DataFrame(best_rows(ranked)), pd.DataFrame(ranking_rows(ranked)))


def _results(ranking: Ranking, context: Context) -> None:
    if issues := st.session_state.get("best_of_n_issues"):
        with st.expander(f"{len(issues):,} findings about the candidates", icon=":material/report:"):
            pairs_picker.show_issues(issues, key="candidates")
    best = ranking.best
    columns = st.columns(4)
    columns[0].metric("Prompts", f"{len(best):,}", border=True)
    columns[1].metric("Candidates", f"{len(ranking.full):,}", border=True)
    columns[2].metric(
        "Best beats next",
        "–" if best["beats_next"].isna().all() else f"{best['beats_next'].median():.0%}",
        border=True,
        help="Bradley-Terry win probability of the best candidate against the next, the median over the prompts.",
    )
    columns[3].metric(
        "Best over worst",
        f"{best['spread'].median():+.2f}",
        border=True,
        help="Reward of a prompt's best candidate minus that of its worst, the median over the prompts.",
    )
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
    "n": st.column_config.NumberColumn("N", width=45, help="Candidates of the prompt."),
    "prompt": st.column_config.TextColumn("Prompt", width="medium"),
    "best": st.column_config.TextColumn("Best candidate", width=360),
    "response": st.column_config.TextColumn("Candidate", width="large"),
    "beats_next": st.column_config.NumberColumn("Beats next", format="%.0f %%", width=85),
    "beats_best": st.column_config.NumberColumn("Beats best", format="%.0f %%", width=85),
    "spread": st.column_config.NumberColumn("Best over worst", format="%+.2f", width=110),
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
            help=f"The candidates of the row that is picked in the table, the best {MOST} where there are more.",
        )
        _download("Best of each prompt", lambda: to_csv(_records(best)), len(best), "best.csv", "text/csv")


def _open(one: RankedSet | None) -> None:
    """The prompt's candidates, best first, into the fields of the other view."""
    if one is not None:
        inputs.put(one.candidates.prompt, [one.candidates.responses[i] for i in one.ranking[:MOST]])
        st.session_state.compare_mode = inputs.SIDE_BY_SIDE


def _ranking(table: pd.DataFrame) -> None:
    against_best = (100 * table["beats_best"]).where(table["rank"] > 1)  # the best is held against nothing
    st.dataframe(
        table.assign(beats_best=against_best, prompt=table["prompt"].map(_as_text)),
        hide_index=True,
        key="best_of_n_ranking",
        column_config=_COLUMNS,
        column_order=["prompt_number", "rank", "response", "beats_best", "reward", "prompt"],
    )
    with st.container(horizontal=True):
        _download("Ranking as CSV", lambda: to_csv(_records(table)), len(table), "ranking.csv", "text/csv")
        _download("Ranking as JSONL", lambda: to_jsonl(_records(table)), len(table), "ranking.jsonl", "application/jsonl")


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _pairs(ranked: tuple[RankedSet, ...], context: Context) -> None:
    st.caption("The best candidate of each prompt as chosen, the worst as rejected, in TRL's format with an explicit prompt.")
    left, right = st.columns([1, 2], gap="large", vertical_alignment="center")
    least = left.number_input(
        "Minimum margin",
        min_value=0.0,
        value=0.0,
        step=0.25,
        key="best_of_n_margin",
        bind="query-params",
        help="Least difference in reward between best and worst. At 1 the best is preferred with a chance of 73 %.",
    )
    made = preference_rows(ranked, least)
    left.metric(f"Pairs from {len(ranked):,} prompts", f"{len(made):,}", border=True)
    right.plotly_chart(charts.spreads_figure([one.spread for one in ranked], least), config=CONFIG, key="best_of_n_spreads")
    _download("Pairs as JSONL", lambda: to_jsonl(made), len(made), f"pairs-by-{context.card.name}.jsonl", "application/jsonl")


def _as_text(prompt: str | list[dict[str, str]]) -> str:
    """A prompt in a cell: its last turn."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def _download(name: str, content: Callable[[], str], rows: int, filename: str, mime: str) -> None:
    st.download_button(
        f"{name} ({counted(rows)})",
        content,
        filename,
        mime,
        key=f"best_of_n {filename.split('-', maxsplit=1)[0]} {mime}",
        icon=":material/download:",
        on_click="ignore",
        disabled=not rows,
    )
