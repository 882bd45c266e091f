"""The card of one feature: statistics, histogram, promoted tokens, similar features, examples and the user's own text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import streamlit as st

from sparserm.features.cards import SIDES, FeatureCard, Side, neuronpedia_url, pooled_scores
from sparserm.features.firing import describe_firings
from sparserm.features.listing import FiringText
from sparserm.features.logit_lens import LogitLens
from sparserm.features.table import FeatureTable
from sparserm.heads.labels import RULE, AutoLabel, auto_labels
from sparserm.heads.reward import alignment_scores
from sparserm.representations.values import Representations
from sparserm.sae.seeds import SeedStability
from sparserm.types import Score, SparseRMError
from sparserm.ui.features import state
from sparserm.ui.features.charts import density_figure
from sparserm.ui.features.list_view import columns
from sparserm.ui.features.scope import Scope
from sparserm.ui.features.state import ShownExample
from sparserm.ui.shared.components import download_table, figure
from sparserm.ui.shared.examples import ColouredText, ExampleRow, show_chips, show_examples
from sparserm.ui.shared.feature_columns import ABOUT_SEEDS, ABOUT_SELECTED
from sparserm.ui.shared.links import edit_link, pairs_link
from sparserm.ui.shared.place import Place
from sparserm.ui.shared.rename import rename_button
from sparserm.ui.shared.style import CONFIG
from sparserm.ui.shared.text import plain, sentence
from sparserm.ui.shared.tokens import coloured_tokens

STRONGEST, QUARTILES, MISLEADING = "Strongest", "By activation quartile", "Misleading"
_DETECTION = (
    "Detection: accuracy at telling responses in which the feature fires strongly from an equal number in which it does not, "
    "by the label or by similarity to the top examples, with a 95% interval over prompts; 0.5 is chance. Measured on prompts "
    "that were not used to find the label, with both groups of similar length."
)
SCORE, ACTIVATION = "Alignment score", "Peak activation"


@dataclass(frozen=True)
class Lean:
    """Whether a feature raises (+1) or lowers (-1) the reward, with a sentence that says so."""

    sign: int
    text: str


def lean(scope: Scope, table: FeatureTable, feature: int) -> Lean:
    """Direction by the feature's weight; for a latent outside the head, by its mean score gap."""
    weight = weight_of(scope, feature)
    if weight is not None:
        return Lean(1 if weight > 0 else -1, f"a high score {'raises' if weight > 0 else 'lowers'} the reward")
    raises = bool(table.score_gap[feature] > 0)
    side = "chosen" if raises else "rejected"
    return Lean(1 if raises else -1, f"{'not in the head; ' * bool(scope.head)}scores are higher in {side} responses")


def weight_of(scope: Scope, feature: int) -> float | None:
    """Weight of a feature in the head, or None if it is not one of the head's features."""
    return None if scope.head is None else _of(scope.head.features, scope.head.weights, feature)


def _selected_of(scope: Scope, feature: int) -> float | None:
    """Share of the halves of the training prompts in which a feature was selected; None if unknown."""
    saved = scope.context.saved if scope.context else None
    return None if saved is None or saved.selected is None else _of(saved.head.features, saved.selected, feature)


def _of(features: np.ndarray, values: np.ndarray, feature: int) -> float | None:
    place = np.flatnonzero(features == feature)
    return float(values[place[0]]) if len(place) else None


def where_it_fires(read: Mapping[tuple[int, Side], ShownExample]) -> None:
    """The words at which the feature fires in the card's examples, with what comes before and after them."""
    found = describe_firings([(i, one.tokens, one.reading.activations) for i, one in enumerate(read.values())])
    if not found.words:
        return
    parts = [f"**{plain(found.evidence[:1].upper() + found.evidence[1:])}**"]
    for what, words in (("after", found.before), ("before", found.after)):
        common = [word for word, share in words if share >= 0.2 and word]
        if common:
            parts.append(f"often {what} {plain(', '.join(f'“{word}”' for word in common[:3]))}")
    for share, place in ((found.first, "first"), (found.last, "last")):
        if share >= 0.5:
            parts.append(f"{share:.0%} at the {place} word of the response")
    st.markdown(" · ".join(parts), help=f"In {found.n_texts} of the examples below, weighted by activation.")


def full_colour(read: Mapping[tuple[int, Side], ShownExample]) -> float:
    """Activation drawn in full colour: the largest one among the examples."""
    return max((one.peak for one in read.values()), default=1.0) or 1.0


def header(scope: Scope, feature: int, listed: Sequence[int]) -> None:
    """The name as title, buttons to rename it and for its neighbours in the list, and what the name is based on."""
    fingerprint = scope.place.sae_fingerprint
    own, automatic = scope.given().get(feature), auto_labels(fingerprint).get(feature)
    name = own or (automatic.text if automatic else None)
    title, buttons = st.columns([7, 5], vertical_alignment="bottom")
    title.subheader(plain(name) if name else scope.feature_title(feature), anchor=False)
    with buttons.container(horizontal=True, horizontal_alignment="right"):
        label = "Rename" if name else "Name this feature"
        rename_button(fingerprint, feature, scope.labels_of_head, key="card", label=label)
        place = listed.index(feature) if feature in listed else None
        for step, icon, what in ((-1, "chevron_left", "Previous"), (1, "chevron_right", "Next")):
            to = None if place is None or not 0 <= place + step < len(listed) else listed[place + step]
            st.button(
                what,
                key=f"{what} feature",
                icon=f":material/{icon}:",
                disabled=to is None,
                help=f"{what} feature in the list",
                on_click=state.choose,
                args=(feature if to is None else to,),
            )
        if url := neuronpedia_url(scope.place.sae(), feature):
            st.link_button("Neuronpedia", url, icon=":material/open_in_new:")
    if name:
        st.caption(f"{plain(scope.feature_title(feature))}{' · your name for it' if own else ''}")
    if problem := state.label_problem(scope.place):
        st.error(problem)
    if automatic is not None:
        _automatic(automatic, titled=own is None)
    with st.container(horizontal=True):
        pairs_link(feature)
        if weight_of(scope, feature) is not None:
            edit_link(feature)


def _automatic(label: AutoLabel, *, titled: bool) -> None:
    """The automatic label, or why there is none, with its detection score and its source.

    Args:
        titled: whether the label is the title of the card.
    """
    if label.text:
        parts = ["Automatic label" if titled else f"Automatic label: **{plain(label.text)}**"]
    else:
        parts = [f"No reliable label: {plain(label.reason)}"]
    if label.text and label.detection:
        parts.append(f"detection {label.detection}")
    if label.examples:
        parts.append(f"detection by top examples {label.examples}")
    if label.promoted:
        parts.append(f"also promoted: {plain(', '.join(label.promoted))}")
    parts.append(f"fires in {label.n_firing:,} of {label.n_texts:,} responses in {plain(label.data)}")
    if label.evidence:
        parts.append(plain(label.evidence))
    parts.append("generated by the word rule" if label.source == RULE else f"written by {plain(label.source)}")
    if label.judge:
        parts.append(f"judged by {plain(label.judge)}")
    st.caption(" · ".join(parts), help=_DETECTION)
    if label.prompt:
        with st.popover("Show the prompt", icon=":material/chat:"):
            st.code(label.prompt, language=None, wrap_lines=True)


def evidence(scope: Scope, table: FeatureTable, feature: int, seeds: SeedStability | None = None) -> None:
    """Firing rates with intervals, their gap with its test, and the weight in the head.

    Args:
        seeds: in how many SAEs of other seeds each latent was found.
    """
    chosen, rejected, gap, last = st.columns(4)
    rates = (
        (chosen, "Fires in chosen", table.f_chosen, table.chosen_low, table.chosen_high),
        (rejected, "Fires in rejected", table.f_rejected, table.rejected_low, table.rejected_high),
    )
    for place, name, rate, low, high in rates:
        figure(
            place,
            name,
            f"{rate[feature]:.1%}",
            f"{low[feature]:.1%} to {high[feature]:.1%}",
            "Share of responses in which it fires on at least one token, with a 95% Wilson interval; responses to the same "
            "prompt are not treated as independent.",
        )
    q = table.q[feature]
    figure(
        gap,
        "Firing-rate gap",
        f"{100 * table.gap[feature]:+.1f} points",
        f"q = {q:.2g}" + (", not significant" if q > 0.05 else ""),
        f"Firing rate in chosen minus rejected responses. q: McNemar's mid-p test over {table.n_prompts:,} prompts, corrected "
        "for all latents that fire (Benjamini-Hochberg).",
    )
    score_gap, about = f"{table.score_gap[feature]:+.2f} SD", "The mean score of chosen minus rejected responses."
    if scope.head is None:
        figure(last, "Score gap", score_gap, "", about)
    else:
        weight = weight_of(scope, feature)
        said = "none" if weight is None else f"{weight:+.3f}"
        about = f"The weight multiplies the standardised alignment score. The gap: {about[0].lower()}{about[1:]}"
        figure(last, "Weight in the head", said, f"mean score gap {score_gap}", about)
    _notes(table, feature, _selected_of(scope, feature), seeds)


def _notes(table: FeatureTable, feature: int, selected: float | None, seeds: SeedStability | None) -> None:
    """Smaller figures on one line."""
    notes = [f"Correlation with length {table.length_correlation[feature]:+.2f}"]
    notes.append(f"fires on {table.rate[feature]:.2%} of tokens and in {table.share[feature]:.1%} of responses")
    notes.append(f"mean peak activation {table.mean_peak[feature]:.2f}")
    if selected is not None:
        notes.append(f"selected in {selected:.0%} of the halves of the training prompts")
    if seeds is not None:
        notes.append(f"found {seeds.of(feature)}")
    if table.dense[feature]:
        notes.append("**dense**")
    if table.begin_of_text[feature]:
        notes.append(f"**begin of text** ({table.opening[feature]:.0%} of activations on the first token)")
    about = [f"Selected: {ABOUT_SELECTED}"] * (selected is not None) + [f"Found: {ABOUT_SEEDS}"] * (seeds is not None)
    st.caption(" · ".join(notes), help="  \n".join(about) or None)


def density(card: FeatureCard, scope: Scope, firing: FiringText | None, rows: Sequence[int]) -> None:
    """Histograms of chosen and rejected responses, with the user's text marked.

    Args:
        rows: row of each pair in its source.
    """
    gated = scope.score == "gated"
    what = st.segmented_control(
        "Histogram of",
        [SCORE, ACTIVATION],
        key="density",
        default=SCORE,
        required=True,
        help=f"{'The head weights the' if scope.head else 'A head would weight the'} alignment score"
        + (", which is counted only where the feature fires" if gated else "")
        + ". The peak activation is the latent's largest one in the response, zero where it does not fire.",
    )
    scores = what == SCORE
    chosen, rejected = (card.scores_chosen, card.scores_rejected) if scores else (card.peaks_chosen, card.peaks_rejected)
    mark = None if firing is None else (_own_score(scope, card, firing) if scores else float(firing.of(card.feature).max()))
    drawn = density_figure(chosen, rejected, str(what).lower(), None if mark is None else (mark, "your text"))
    st.plotly_chart(drawn, config=CONFIG, key="density figure")
    values = pd.DataFrame(
        {
            "row": [*rows, *rows],
            "side": ["chosen"] * len(rows) + ["rejected"] * len(rows),
            "alignment_score": np.concatenate([card.scores_chosen, card.scores_rejected]),
            "peak_activation": np.concatenate([card.peaks_chosen, card.peaks_rejected]),
        }
    )
    download_table(values, "Responses", f"feature-{card.feature}-responses.csv")


def _own_score(scope: Scope, card: FeatureCard, firing: FiringText) -> float:
    """The alignment score of the user's text."""
    pooling, sae = scope.place.pooling, scope.place.sae()
    direction = sae.directions([card.feature]).numpy()
    if scope.score == "gated" and pooling == "mean" and firing.states is not None:
        projections = alignment_scores(firing.states, direction, sae.b_dec.numpy())[:, 0]
        return float((projections * (firing.of(card.feature) > 0)).mean())
    whole = Representations(pooling, firing.h[None], np.array([len(firing.tokens)]), np.array([firing.n_truncated]))
    return float(pooled_scores(whole, card.feature, sae, scope.score)[0])


def logits(here: Place, feature: int, every: LogitLens | None) -> None:
    """The tokens that the decoder direction promotes and suppresses."""
    st.markdown(
        "**Promoted and suppressed tokens**",
        help="Logit lens: the tokens whose logits the decoder direction raises and lowers most when it is applied directly to "
        "the unembedding. Later layers may use it differently.",
    )
    try:
        lens = state.lens_of(here, feature, every)
    except SparseRMError as error:
        st.caption(sentence(error))
        return
    st.caption("Raises the logits of")
    show_chips(lens.promoted[0], lens.promoted_logits[0].tolist(), up=True, key="promoted")
    st.caption("Lowers the logits of")
    show_chips(lens.suppressed[0], lens.suppressed_logits[0].tolist(), up=False, key="suppressed")
    rows = pd.DataFrame(
        {
            "end": ["promoted"] * lens.promoted.shape[1] + ["suppressed"] * lens.suppressed.shape[1],
            "token": np.concatenate([lens.promoted[0], lens.suppressed[0]]),
            "logit": np.concatenate([lens.promoted_logits[0], lens.suppressed_logits[0]]),
        }
    )
    download_table(rows, "Tokens", f"feature-{feature}-tokens.csv")


def similar(card: FeatureCard, table: FeatureTable, labels: Mapping[int, str]) -> None:
    """Table of the latents with the nearest decoder directions; clicking a row opens one."""
    st.markdown("**Most similar features**", help="By cosine of the decoder directions. Click a row to open that feature.")
    rows = pd.DataFrame(
        [{"feature": j, "cosine": cosine, "gap": 100 * table.gap[j], "label": labels.get(j, "")} for j, cosine in card.similar]
    )
    features = [j for j, _ in card.similar]
    key = f"similar to {card.feature}"
    st.dataframe(
        rows,
        key=key,
        hide_index=True,
        height=213,
        selection_mode="single-row",
        on_select=lambda: state.choose_row(key, features),
        column_config={name: config for name, config in columns().items() if name in rows}
        | {"cosine": st.column_config.NumberColumn("Cosine", format="%.3f")},
    )
    download_table(rows, "Similar features", f"feature-{card.feature}-similar.csv")


def example_lists(card: FeatureCard, read: Mapping[tuple[int, Side], ShownExample], leaning: Lean, score: Score) -> None:
    """Responses with coloured tokens: the strongest, those of each activation quartile, or misleading pairs."""
    st.subheader("Examples", anchor=False)
    which = st.segmented_control(
        "Examples",
        [STRONGEST, QUARTILES, MISLEADING],
        key="examples",
        default=STRONGEST,
        required=True,
        bind="query-params",
        persist_state="session",
        label_visibility="collapsed",
    )
    if which == MISLEADING:
        rows = _misleading(card, read, leaning.sign, score)
    else:
        rows = {STRONGEST: _strongest, QUARTILES: _quartiles}[str(which)](card, read, leaning.sign)
    if not rows:
        st.info("None of these pairs is misleading." if which == MISLEADING else "It fires in none of these responses.")
        return
    if which == MISLEADING:
        values = [np.abs(one.values) for row in rows for one in (row.chosen, row.rejected) if one is not None]
        full = float(np.quantile(np.concatenate(values), 0.98))
        unit = "score" if score == "gated" else "score relative to the mean"
        st.caption(
            "Pairs in which this feature pushes the margin furthest toward the rejected response. Teal tokens raise the "
            "reward of their response, orange ones lower it.",
            help=f"Tokens are coloured by their alignment {unit}; full colour at {full:.1f}.",
        )
    else:
        full, unit = full_colour(read), "activation"
        st.caption(f"Tokens are coloured by activation, full colour at {full:.1f}; {leaning.text}.")
    none = "" if which == QUARTILES else "No further example."
    show_examples(rows, full=full, unit=unit, none=none, key=f"examples {which}")
    download_table(state.examples_csv(read), "Examples", f"feature-{card.feature}-examples.csv")


def _strongest(card: FeatureCard, read: Mapping[tuple[int, Side], ShownExample], sign: int) -> list[ExampleRow]:
    sides = [[_coloured(read[one.pair, side], sign) for one in card.top if one.side == side] for side in SIDES]
    return _side_by_side(sides[0], sides[1])


def _quartiles(card: FeatureCard, read: Mapping[tuple[int, Side], ShownExample], sign: int) -> list[ExampleRow]:
    rows = []
    names = ("Highest quartile", "Third quartile", "Second quartile", "Lowest quartile")
    for name, band in zip(names, card.bands, strict=False):
        sides = [[_coloured(read[one.pair, side], sign) for one in band.examples if one.side == side] for side in SIDES]
        rows += _side_by_side(sides[0], sides[1], f"{name}: peak activation {band.low:.2f} to {band.high:.2f}")
    return rows


def _misleading(card: FeatureCard, read: Mapping[tuple[int, Side], ShownExample], sign: int, score: Score) -> list[ExampleRow]:
    """Tokens are coloured by score, not activation: a projection also contributes where the feature does not fire."""
    mean = 0.0 if score == "gated" else float(np.concatenate([card.scores_chosen, card.scores_rejected]).mean())

    def coloured(one: ShownExample, pooled: float) -> ColouredText:
        return ColouredText(f"Score {pooled:+.2f}", one.prompt, one.tokens, sign * (one.reading.scores_of(score) - mean))

    return [
        ExampleRow(
            coloured(read[one.pair, "chosen"], one.score_chosen),
            coloured(read[one.pair, "rejected"], one.score_rejected),
            f"Row {read[one.pair, 'chosen'].row:,}: contributes {one.contribution:+.3f} to the margin",
        )
        for one in card.wrong
    ]


def _coloured(one: ShownExample, sign: int) -> ColouredText:
    return ColouredText(f"Row {one.row:,} · peak {one.peak:.2f}", one.prompt, one.tokens, sign * one.reading.activations)


def _side_by_side(chosen: Sequence[ColouredText], rejected: Sequence[ColouredText], title: str = "") -> list[ExampleRow]:
    n = max(len(chosen), len(rejected))
    padded = [[*side, *[None] * (n - len(side))] for side in (chosen, rejected)]
    return [ExampleRow(a, b, title if i == 0 else "") for i, (a, b) in enumerate(zip(*padded, strict=True))]


def on_text(feature: int, firing: FiringText, full: float, leaning: Lean) -> None:
    """The user's text, its tokens coloured by the feature's activation."""
    values = firing.of(feature)
    caption = f"Coloured by the activation of feature {feature}, full colour at {full:.1f}."
    caption = caption if values.any() else f"Feature {feature} does not fire on this text."
    st.caption(f"{caption} Click a token to list the latents that fire on it.")
    coloured_tokens(
        firing.tokens,
        (leaning.sign * values).tolist(),
        [f"activation {value:.2f}" for value in values.tolist()],
        full=max(full, float(values.max())),
        key="text tokens",
        on_pick=state.pick_token,
        picked=state.picked_token(),
    )
    rows = pd.DataFrame({"token": firing.tokens, "activation": values})
    download_table(rows, "Tokens", f"feature-{feature}-on-text.csv")
