"""Tables of features to search, filter and sort, and the latents that fire on a given text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd

from sparserm.backbone.model import Backbone
from sparserm.features.search import QueryResults, match_rows
from sparserm.features.table import FeatureTable
from sparserm.heads.reward import RewardHead
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.sae.seeds import SeedStability
from sparserm.types import Pooling, Prompt

if TYPE_CHECKING:
    from sparserm.features.logit_lens import LogitLens

Sort = Literal["relevance", "gap", "certainty", "score gap", "length", "density", "number"]

SORTS: tuple[Sort, ...] = get_args(Sort)


@dataclass(frozen=True)
class FiringText:
    """A response and the latents that fire on it.

    Attributes:
        tokens: ``[T]`` the response's tokens as text; joined they give the response.
        features: ``[n]`` int64 ids of the latents that fire at one token or more, highest peak first.
        activations: ``[T, n]`` float32 activations of these latents.
        h: ``[d]`` float32 pooled representation.
        n_truncated: tokens cut from the left of the prompt.
        states: ``[T, d]`` float32 representation at every token, of which gated scores are made.
    """

    tokens: tuple[str, ...]
    features: np.ndarray
    activations: np.ndarray
    h: np.ndarray
    n_truncated: int
    states: np.ndarray | None = None

    @property
    def peaks(self) -> np.ndarray:
        """``[n]`` peak activation of each latent."""
        return self.activations.max(0, initial=0.0)

    def of(self, feature: int) -> np.ndarray:
        """``[T]`` activations of one latent, zeros if it does not fire."""
        place = np.flatnonzero(self.features == feature)
        return self.activations[:, place[0]] if len(place) else np.zeros(len(self.tokens), np.float32)


@dataclass(frozen=True)
class FeatureList:
    """Search results: the features to show, in order, and how many are hidden by the filters.

    Attributes:
        rows: one row per feature, see :func:`list_features`.
        n_dense, n_begin: number of features that match the search and are dense / begin-of-text, hidden or not.
        n_hidden: number of features that match the search and are hidden by the filters.
    """

    rows: pd.DataFrame
    n_dense: int
    n_begin: int
    n_hidden: int


def list_features(
    table: FeatureTable,
    head: RewardHead | None,
    labels: Mapping[int, str],
    *,
    detected: Mapping[int, float] | None = None,
    fires_on: Mapping[int, str] | None = None,
    lens: LogitLens | None = None,
    firing: FiringText | None = None,
    token: int | None = None,
    only_head: bool = False,
    selected: np.ndarray | None = None,
    seeds: SeedStability | None = None,
) -> pd.DataFrame:
    """A table with one row per latent of the SAE.

    Args:
        head: gives the weights; without one there is no column ``weight``.
        labels: labels by feature id.
        detected: detection scores of the automatic labels by feature id.
        fires_on: the words at which each latent fires, by feature id.
        lens: logit lens of every latent; the top promoted tokens are shown and searched.
        firing: keep only the latents that fire on this text, with their peak activation as ``on_text`` and its token as ``at``.
        token: index of a token of this text; keep only the latents that fire there, with their activation there.
        only_head: keep only the head's features.
        selected: ``[K]`` share of the halves of the training prompts in which each feature of the head was selected.
        seeds: in how many SAEs of other seeds each latent was found.

    Returns:
        With a column ``family``, see :func:`family_texts`, if the head has families of several features.
    """
    features = np.arange(len(table.share))
    rows = pd.DataFrame(
        {
            "feature": features,
            "label": [labels.get(feature, "") for feature in features.tolist()],
            "detects": [(detected or {}).get(feature, np.nan) for feature in features.tolist()],
            "fires_on": [(fires_on or {}).get(feature, "") for feature in features.tolist()],
            "promotes": [promoted_text(tokens) for tokens in lens.promoted[:, :4]] if lens else "",
            "gap": table.gap,
            "f_chosen": table.f_chosen,
            "f_rejected": table.f_rejected,
            "q": table.q,
            "score_gap": table.score_gap,
            "length_correlation": table.length_correlation,
            "token_rate": table.rate,
            "mean_peak": table.mean_peak,
            **({} if seeds is None else {"seeds_direction": seeds.direction, "seeds_firing": seeds.firing}),
            "note": _notes(table),
            "dense": table.dense,
            "begin_of_text": table.begin_of_text,
        }
    )
    if head is not None:
        _add_head(rows, head, selected)
    if firing is not None:
        rows = _on_text(rows, firing, token)
    return rows[rows["feature"].isin(head.features)] if only_head and head is not None else rows


def family_texts(head: RewardHead) -> dict[int, str]:
    """For each feature of the head that fires together with others the ids of all of them, the leader first: ``579 · 600``."""
    families = {feature: head.family(feature) for feature in head.features.tolist()}
    return {feature: " · ".join(map(str, family)) for feature, family in families.items() if len(family) > 1}


def filter_features(
    rows: pd.DataFrame,
    *,
    query: str = "",
    results: QueryResults | None = None,
    hide_dense: bool = True,
    hide_begin: bool = True,
    sort: Sort = "relevance",
) -> FeatureList:
    """Search, filter and sort a table of :func:`list_features`.

    Args:
        query: a feature id, or text to find, see :func:`~sparserm.features.search.match_rows`.
        results: what the backbone knows of the query.
        hide_dense, hide_begin: hide dense / begin-of-text latents.
        sort: ``relevance`` sorts by how well the query matches, else by activation on the text if there is one, else by
            absolute weight, and latents outside the head by the q-value of their gap.
    """
    wanted = query.strip().casefold()
    if sort == "relevance":
        rows = _sorted(rows, sort)  # equal matches stay in this order
    if wanted:
        rows = match_rows(rows, wanted, results or QueryResults())
    hidden = rows["dense"] & hide_dense | rows["begin_of_text"] & hide_begin
    shown = rows[~hidden] if sort == "relevance" else _sorted(rows[~hidden], sort)
    return FeatureList(shown, int(rows["dense"].sum()), int(rows["begin_of_text"].sum()), int(hidden.sum()))


def fire_on_text(prompt: Prompt, response: str, backbone: Backbone, sae: SparseAutoencoder, pooling: Pooling) -> FiringText:
    """Run the backbone on a response to a prompt and find the latents that fire in it.

    Raises:
        SparseRMError: the response is empty.
    """
    text = backbone.tokenize(prompt, response)
    ((_, states),) = backbone.hidden_states([text], [sae.hook])
    state = states[sae.hook]
    own = state[: text.end - text.start]
    z = sae.to(backbone.device).encode(own).cpu().numpy()
    peaks = z.max(0)
    features = np.argsort(-peaks, kind="stable")[: int((peaks > 0).sum())]
    h = (own.mean(0) if pooling == "mean" else state[-1]).cpu().numpy()
    tokens = backbone.chat.texts(text.ids[text.start : text.end])
    return FiringText(tokens, features, z[:, features], h, text.n_truncated, own.cpu().numpy())


def promoted_text(tokens: np.ndarray) -> str:
    """Tokens on one line, with visible white space."""
    return "  ".join(visible(str(token)) for token in tokens)


def visible(token: str) -> str:
    """A token with visible white space and escaped unprintable characters."""
    drawn = token.replace(" ", "·").replace("\n", "↵").replace("\t", "⇥").replace("\r", "↵")
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in drawn) or "(empty)"


def _add_head(rows: pd.DataFrame, head: RewardHead, selected: np.ndarray | None) -> None:
    """Insert the columns of the head before the gaps: families, weights, and how often each feature was selected."""
    columns: dict[str, object] = {}
    if families := family_texts(head):
        columns["family"] = [families.get(feature, "") for feature in rows["feature"].tolist()]
    columns["weight"] = _of_head(head, head.weights, len(rows))
    if selected is not None:
        columns["selected"] = _of_head(head, selected, len(rows))
    for name, values in columns.items():
        rows.insert(rows.columns.get_loc("gap"), name, values)


def _of_head(head: RewardHead, values: np.ndarray, d_sae: int) -> np.ndarray:
    """``[d_sae]`` values of the head's features, NaN for other latents."""
    found = np.full(d_sae, np.nan)
    found[head.features] = values
    return found


def _on_text(rows: pd.DataFrame, firing: FiringText, token: int | None) -> pd.DataFrame:
    """The rows of the latents that fire on a text, with the columns ``on_text`` and ``at``."""
    places = firing.activations.argmax(0) if token is None else np.full(len(firing.features), token)
    values = firing.activations[places, np.arange(len(places))]
    tokens = [f"{place + 1} {visible(firing.tokens[place])}" for place in places.tolist()]
    found = rows.iloc[firing.features].assign(on_text=values, at=tokens)
    return found[values > 0]


def _notes(table: FeatureTable) -> list[str]:
    flags = zip(table.dense, table.begin_of_text, table.dead, strict=True)
    names = ("dense", "begin of text", "does not fire here")
    return [", ".join(name for name, holds in zip(names, row, strict=True) if holds) for row in flags]


def _sorted(rows: pd.DataFrame, sort: Sort) -> pd.DataFrame:
    if sort == "relevance" and "on_text" in rows:
        return rows.sort_values("on_text", ascending=False, kind="stable")
    if sort == "relevance":
        order = rows.assign(_weight=rows["weight"].abs() if "weight" in rows else 0.0, _gap=rows["gap"].abs())
        order = order.sort_values(["_weight", "q", "_gap"], ascending=[False, True, False], kind="stable")
        return order.drop(columns=["_weight", "_gap"])
    if sort == "certainty":
        return rows.sort_values("q", kind="stable")
    if sort == "number":
        return rows.sort_values("feature")
    column = {"gap": "gap", "score gap": "score_gap", "length": "length_correlation", "density": "token_rate"}[sort]
    return rows.sort_values(column, key=np.abs, ascending=False, kind="stable")
