"""Parts of the Features page around its list: filters, table, the text to search on, and the jobs."""

from __future__ import annotations

import textwrap

import pandas as pd
import streamlit as st
from streamlit.elements.lib.column_types import ColumnConfig

from sparserm import jobs
from sparserm.features.auto_labels import LEAST_DETECTION
from sparserm.features.cards import neuronpedia_list_url
from sparserm.features.listing import FeatureList, FiringText, family_texts, visible
from sparserm.features.llm_labels import configured_endpoint
from sparserm.features.logit_lens import LogitLens
from sparserm.features.table import DENSE_RATE, OPENING_SHARE, FeatureTable
from sparserm.heads.labels import auto_labels
from sparserm.model import SparseRM
from sparserm.pairs.sources import DataSource
from sparserm.types import SparseRMError
from sparserm.ui.features import state
from sparserm.ui.features.scope import Scope
from sparserm.ui.shared import job_panel, pairs_picker
from sparserm.ui.shared.components import download_table
from sparserm.ui.shared.context import Context
from sparserm.ui.shared.feature_columns import in_percent, shared_columns
from sparserm.ui.shared.links import too_long
from sparserm.ui.shared.pairs_picker import Represented
from sparserm.ui.shared.style import text_colour
from sparserm.ui.shared.text import plain

HEAD, ALL, TEXT = state.HEAD, state.ALL, state.TEXT
#: Longer lists are drawn without colours, which are sent cell by cell.
COLOURED = 1_000
_ABOUT_LABELS = (
    "The word rule looks for words and punctuation that are frequent in responses where the feature fires and rare in others "
    "of similar length. Labels are found on half of the prompts and tested on the other half: the number after a label is its "
    f"detection accuracy there, 0.5 being chance. Labels not reliably above {LEAST_DETECTION:.1f} are not shown. Your own "
    "labels take precedence."
)
ABOUT_SEARCH = (
    "Name: in the label. Fires on: known words, or it fires on the query in most of five neutral sentences. Promotes: its "
    "direction raises the logit. Meaning: a word of the label or evidence is close to the query."
)
_SHOWN = [
    "feature",
    "label",
    "match",
    "fires_on",
    "detects",
    "promotes",
    "on_text",
    "at",
    "family",
    "weight",
    "selected",
    "gap",
    "f_chosen",
    "f_rejected",
    "q",
    "score_gap",
    "length_correlation",
    "seeds_direction",
    "seeds_firing",
    "token_rate",
    "mean_peak",
    "note",
]


def listed_choice(scope: Scope) -> str:
    """Which features to list; the head's own to begin with, where there is a head."""
    options, key = [HEAD, ALL, TEXT] if scope.head else [ALL, TEXT], "list"
    if st.session_state.get(key, st.query_params.get(key)) not in options:
        st.session_state[key] = options[0]  # not a default: clicks on tokens set the value, too
    return str(st.segmented_control("Show", options, key=key, required=True, bind="query-params", persist_state="session"))


def filters(listed: str) -> tuple[bool, bool]:
    """Whether to hide dense and begin-of-text latents; the head's own features, which make up its reward, never are."""
    if listed == HEAD:
        return False, False
    dense, begin = st.columns(2)
    hide_dense = dense.toggle(
        "Hide dense latents",
        value=True,
        key="hide_dense",
        bind="query-params",
        persist_state="session",
        help=f"They fire on more than {DENSE_RATE:.0%} of the response tokens and rarely have a single meaning.",
    )
    hide_begin = begin.toggle(
        "Hide begin-of-text latents",
        value=True,
        key="hide_begin",
        bind="query-params",
        persist_state="session",
        help=f"At least {OPENING_SHARE:.0%} of their activations are on a response's first token: they only mark its start.",
    )
    return hide_dense, hide_begin


def hidden_line(shown: FeatureList, listed: str) -> str:
    """How many features are listed and how many the filters hide."""
    kinds = f"{shown.n_dense:,} dense, {shown.n_begin:,} begin-of-text"
    if listed == HEAD:
        return f"{len(shown.rows):,} features, none hidden ({kinds})"
    return f"{len(shown.rows):,} latents shown, **{shown.n_hidden:,} hidden** ({kinds})"


def nothing_found(asked: str, shown: FeatureList, listed: str, n_latents: int, *, lens: bool) -> None:
    """Say what was searched for a query without results, and what to try."""
    where = {HEAD: "the head's features", ALL: f"the {n_latents:,} latents", TEXT: "the latents that fire on the text"}[listed]
    what = "names, words they fire on, promoted tokens" if lens else "names, words they fire on"
    said = f"Nothing found for “{plain(asked)}” in {where}. Searched: {what} and words of similar meaning."
    if shown.n_hidden:
        said += f" {shown.n_hidden:,} that match are hidden by the filters above."
    st.info(said if listed == HEAD else f"{said} Try another word, or a shorter one.", icon=":material/search_off:")
    if listed == HEAD:
        st.button(f"Search all {n_latents:,} latents", icon=":material/search:", on_click=state.search_all)


def list_link(scope: Scope) -> None:
    """A link to the head's features as a list on Neuronpedia, where its SAE is there."""
    if scope.head and (url := neuronpedia_list_url(scope.place.sae(), scope.head.features.tolist(), scope.name)):
        st.link_button("These features on Neuronpedia", url, icon=":material/open_in_new:")


def feature_table(shown: FeatureList, feature: int) -> None:
    """Table of the listed features; clicking a row opens one."""
    rows = shown.rows
    features = [int(one) for one in rows["feature"]]
    state.select_row(state.LIST, features, feature)
    empty = {name for name in ("promotes", "fires_on", "label", "note") if not any(rows[name])}
    empty |= {name for name in ("detects", "selected") if name in rows and not rows[name].notna().any()}
    empty |= {name for name in ("family",) if name in rows and not any(rows[name])}
    names = [name for name in _SHOWN if name in rows and name not in empty]
    signed = [name for name in ("weight", "gap", "score_gap") if name in names]
    drawn = in_percent(rows[names])
    style = drawn.style.map(_text_colour, subset=signed) if len(rows) <= COLOURED else drawn
    st.dataframe(
        style,
        key=state.LIST,
        hide_index=True,
        height=min(318, 38 + 35 * max(len(rows), 1)),
        on_select=lambda: state.choose_row(state.LIST, features),
        selection_mode="single-row",
        column_config=columns(),
        placeholder="–",
    )


def _text_colour(value: float) -> str:
    return "" if pd.isna(value) else f"color: {text_colour(value, st.context.theme.type or 'light')}"


def columns() -> dict[str, ColumnConfig | str | None]:
    """Titles, formats and help of the columns of feature tables."""
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    return {
        **shared_columns(),
        "feature": number("Feature", format="%d", width=70, pinned=True),
        "label": text("Label", width="medium"),
        "detects": number(
            "Detection",
            format="%.2f",
            help="Accuracy of the automatic label at predicting whether the feature fires in a response, on prompts that were "
            "not used to find the label. 0.5 is chance.",
        ),
        "match": text("Match", width="small", help=ABOUT_SEARCH),
        "fires_on": text("Fires on", width="medium", help="Words that make up most of its strong activations."),
        "promotes": text("Promoted tokens", width="medium", help="Tokens whose logits its direction raises most (logit lens)."),
        "on_text": number("Activation", format="%.2f", help="Peak activation on the text, or that on the chosen token."),
        "at": text("At token", width="small", help="Number and text of the token with that activation."),
        "family": text(
            "Family",
            width=125,
            help="Features of the head that fire together. On the other pages they share a bar, named after the first.",
        ),
        "weight": number("Weight", format="%+.3f", help="Weight of the standardised alignment score in the head."),
        "q": number(
            "q",
            format="%.2g",
            help="McNemar's mid-p test of the gap over prompts, corrected for the number of latents (Benjamini-Hochberg).",
        ),
        "score_gap": number(
            "Score gap (SD)",
            format="%+.2f",
            help="Mean alignment score of chosen minus rejected, in standard deviations. The weight multiplies this score.",
        ),
        "length_correlation": number(
            "Length corr.", format="%+.2f", help="Correlation of the alignment score with the log of the response length."
        ),
        "token_rate": number("Density", format="percent", help="Share of response tokens on which it fires."),
        "mean_peak": number("Mean peak", format="%.2f", help="Peak activation, averaged over the responses in which it fires."),
        "note": text(
            "Note",
            help=f"Dense: fires on more than {DENSE_RATE:.0%} of the tokens. Begin of text: at least "
            f"{OPENING_SHARE:.0%} of its activations are on the first token of a response.",
        ),
    }


def text_fields() -> tuple[str, str]:
    """Text fields for the prompt and response to search on; what the user wrote is kept in the link."""
    left, right = st.columns([1, 2])
    left.text_area("Prompt (optional)", key="text_prompt", height=110, persist_state="session")
    right.text_area(
        "Text", key="text", height=110, persist_state="session", placeholder="Paste a response to see which latents fire on it"
    )
    if not state.keep_text_in_link():
        too_long()
    return state.own_text()


def token_choice(firing: FiringText | None) -> int | None:
    """Index of the token to list latents for, or None for the whole text."""
    tokens = firing.tokens if firing else ()
    return st.selectbox(
        "Latents that fire on",
        range(len(tokens)),
        index=None,
        key=state.TOKEN,
        format_func=lambda place: f"{place + 1} {visible(tokens[place])}" if place < len(tokens) else "",
        placeholder="any token; choose one to list the latents that fire on it",
    )


def offer_job(source: DataSource, scope: Scope, lens: LogitLens | None) -> None:
    """Button for the job that computes promoted tokens of all latents and the examples of the head's features."""
    wanted = state.job_specification(source, scope)
    if (job := state.running_job("features", wanted)) is not None:
        job_panel.show_job(job.id)
    elif lens is None:
        left, right = st.columns([4, 1], vertical_alignment="center")
        too = ", together with the examples of the head's features" if scope.head else ""
        left.caption(
            f"Promoted tokens of the {scope.place.d_sae:,} latents, and the words that unlabelled ones fire on, are not "
            f"computed yet. A job computes them once{too}."
        )
        if right.button("Compute tokens", key="prepare", icon=":material/memory:", width="stretch"):
            jobs.start("features", wanted, f"Features of {scope.name}")
            st.rerun()


def offer_labels(source: DataSource, context: Context) -> None:
    """Number of the head's features with an automatic label, and the job that generates labels from the chosen pairs."""
    try:
        endpoint = configured_endpoint()
    except SparseRMError as error:
        st.warning(plain(f"The labelling model cannot be used: {error}. Then restart the app."))
        endpoint = None
    left, right = st.columns([4, 1], vertical_alignment="center")
    left.caption(_labelled_line(context), help=_ABOUT_LABELS)
    ask = endpoint is not None and left.checkbox(
        f"Ask {plain(endpoint.model)} instead of the word rule: responses of these pairs are sent to {plain(endpoint.server)}",
        key="ask endpoint",
        persist_state="session",
    )
    wanted = state.label_specification(source, context, endpoint=ask)
    job = state.running_job("labels", wanted)
    pressed = right.button(
        "Label features",
        key="label features",
        icon=":material/label:",
        width="stretch",
        disabled=job is not None,
        help="Generates automatic labels for the head's features from the pairs chosen above.",
    )
    if job is not None:
        job_panel.show_job(job.id)
    elif pressed:
        jobs.start("labels", wanted, f"Labels of {context.key}")
        st.rerun()


def _labelled_line(context: Context) -> str:
    automatic = auto_labels(context.card.sae_fingerprint)
    own = [automatic[feature] for feature in context.saved.head.features.tolist() if feature in automatic]
    if not own:
        return "No feature of this head has an automatic label yet."
    named = [one for one in own if one.text is not None]
    data = plain(textwrap.shorten(", ".join(sorted({one.data for one in own})), 80))
    return f"**{len(named)} of {len(own)}** features have a reliable automatic label (from {data})."


def source_line(name: str, table: FeatureTable) -> str:
    """Names the pairs that the figures come from."""
    return f"{table.n_pairs:,} pairs of {table.n_prompts:,} prompts from {plain(textwrap.shorten(name, 80))}"


def measured(source: DataSource | None, scope: Scope) -> tuple[Represented, FeatureTable]:
    """Representations of the pairs and statistics of every latent; a head's own figures are shown until they are ready.

    Raises:
        SparseRMError: the backbone or the SAE cannot be used.
    """
    place, wanted = st.empty(), (source, scope.place, scope.hash)
    if scope.context is not None and st.session_state.get("features read") != wanted:
        with place.container():
            _head_meanwhile(scope.context)
    found = pairs_picker.represented(source)
    table = state.table(found, scope)
    st.session_state["features read"] = wanted
    place.empty()
    return found, table


def _head_meanwhile(context: Context) -> None:
    rows = pd.DataFrame(SparseRM(context.saved).features()).drop(columns=["mu", "sigma", "family"])
    if families := family_texts(context.saved.head):
        rows["family"] = [families.get(feature, "") for feature in rows["feature"]]
    st.subheader(f"The head's {len(rows)} features", anchor=False)
    st.caption("Figures from its training pairs. Examples and all other latents appear once the pairs are processed.")
    rows = rows.dropna(axis="columns", how="all")  # what is not known
    drawn = in_percent(rows).style.map(_text_colour, subset=["weight", "gap"])
    st.dataframe(drawn, hide_index=True, column_config=columns())
    download_table(rows, "Features", f"head-{context.key}.csv")
