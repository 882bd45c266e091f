"""The list of a head's features, or of every latent, as a table to be searched, filtered and sorted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd

from sparserm.backbone.model import Backbone
from sparserm.features.table import FeatureTable
from sparserm.heads.reward import RewardHead
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.types import Pooling, Prompt

if TYPE_CHECKING:
    from sparserm.features.logit_lens import LogitLens


@dataclass(frozen=True)
class FiringText:
    """A response and the latents that fire on it.

    Attributes:
        tokens: ``[T]`` texts of the response's tokens; joined they give the response.
        features: ``[n]`` int64, the latents that fire at one token or more, largest activation first.
        activations: ``[T, n]`` float32.
        h: ``[d]`` float32, its pooled representation.
        n_truncated: tokens cut from the left of the prompt.
    """

    tokens: tuple[str, ...]
    features: np.ndarray
    activations: np.ndarray
    h: np.ndarray
    n_truncated: int

    @property
    def peaks(self) -> np.ndarray:
        """``[n]`` largest activation of each latent."""
        return self.activations.max(0, initial=0.0)

    def of(self, feature: int) -> np.ndarray:
        """``[T]`` activations of one latent, zeros where it is silent."""
        place = np.flatnonzero(self.features == feature)
        return self.activations[:, place[0]] if len(place) else np.zeros(len(self.tokens), np.float32)


Sort = Literal["relevance", "gap", "certainty", "score gap", "length", "density", "number"]

SORTS: tuple[Sort, ...] = get_args(Sort)


@dataclass(frozen=True)
class FeatureList:
    """Features to show, in order, and how many the filters hide.

    Attributes:
        rows: one for each feature, see :func:`list_features`.
        n_dense, n_begin: of those that match the search, how many are dense and begin texts, hidden or not.
        n_hidden: how many the filters hide.
    """

    rows: pd.DataFrame
    n_dense: int
    n_begin: int
    n_hidden: int


def list_features(
    table: FeatureTable,
    head: RewardHead,
    labels: Mapping[int, str],
    *,
    detected: Mapping[int, float] | None = None,
    lens: LogitLens | None = None,
    firing: FiringText | None = None,
    token: int | None = None,
    only_head: bool = False,
) -> pd.DataFrame:
    """One row for each latent of the SAE; of the head's features alone, or of those that fire on a text, where asked for.

    Args:
        detected: what the automatic labels detect.
        lens: of every latent; its first tokens are shown, and found by the search.
        firing: a text; its latents, with their largest activation on it as ``on_text`` and where that is as ``at``.
        token: one of its tokens; the latents that fire there, with their activation there.
    """
    weights = np.full(len(table.share), np.nan)
    weights[head.features] = head.weights
    features = np.arange(len(weights))
    rows = pd.DataFrame(
        {
            "feature": features,
            "label": [labels.get(feature, "") for feature in features.tolist()],
            "detects": [(detected or {}).get(feature, np.nan) for feature in features.tolist()],
            "promotes": [promoted_text(tokens) for tokens in lens.promoted[:, :4]] if lens else "",
            "weight": weights,
            "gap": table.gap,
            "f_chosen": table.f_chosen,
            "f_rejected": table.f_rejected,
            "q": table.q,
            "score_gap": table.score_gap,
            "length_correlation": table.length_correlation,
            "token_rate": table.rate,
            "mean_peak": table.mean_peak,
            "note": _notes(table),
            "dense": table.dense,
            "begin_of_text": table.begin_of_text,
        }
    )
    if firing is not None:
        rows = _on_text(rows, firing, token)
    return rows[rows["feature"].isin(head.features)] if only_head else rows


def _on_text(rows: pd.DataFrame, firing: FiringText, token: int | None) -> pd.DataFrame:
    places = firing.activations.argmax(0) if token is None else np.full(len(firing.features), token)
    values = firing.activations[places, np.arange(len(places))]
    tokens = [f"{place + 1} {visible(firing.tokens[place])}" for place in places.tolist()]
    found = rows.iloc[firing.features].assign(on_text=values, at=tokens)
    return found[values > 0]


def filter_features(
    rows: pd.DataFrame, *, query: str = "", hide_dense: bool = True, hide_begin: bool = True, sort: Sort = "relevance"
) -> FeatureList:
    """Search, filter and sort. A number finds that feature, other words labels and promoted tokens.

    ``relevance`` is the largest activation on the text where there is one, the largest absolute weight for features of the
    head, and the most certain gap for the others.
    """
    wanted = query.strip().casefold()
    if wanted.isdigit():
        rows = rows[rows["feature"] == int(wanted)]
    elif wanted:
        texts = rows["label"] + "\n" + rows["promotes"]
        rows = rows[texts.str.casefold().str.contains(wanted, regex=False)]
    hidden = rows["dense"] & hide_dense | rows["begin_of_text"] & hide_begin
    shown = _sorted(rows[~hidden], sort)
    return FeatureList(shown, int(rows["dense"].sum()), int(rows["begin_of_text"].sum()), int(hidden.sum()))


def promoted_text(tokens: np.ndarray) -> str:
    """Tokens in one line, their spaces seen."""
    return "  ".join(visible(str(token)) for token in tokens)


def visible(token: str) -> str:
    """A token with its white space drawn and what cannot be seen spelled out."""
    drawn = token.replace(" ", "·").replace("\n", "↵").replace("\t", "⇥").replace("\r", "↵")
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in drawn) or "(nothing)"


def _notes(table: FeatureTable) -> list[str]:
    flags = zip(table.dense, table.begin_of_text, table.dead, strict=True)
    names = ("dense", "begin of text", "silent here")
    return [", ".join(name for name, holds in zip(names, row, strict=True) if holds) for row in flags]


def _sorted(rows: pd.DataFrame, sort: Sort) -> pd.DataFrame:
    if sort == "relevance" and "on_text" in rows:
        return rows.sort_values("on_text", ascending=False, kind="stable")
    if sort == "relevance":
        order = rows.assign(_weight=rows["weight"].abs(), _gap=rows["gap"].abs())
        order = order.sort_values(["_weight", "q", "_gap"], ascending=[False, True, False], kind="stable")
        return order.drop(columns=["_weight", "_gap"])
    if sort == "certainty":
        return rows.sort_values("q", kind="stable")
    if sort == "number":
        return rows.sort_values("feature")
    column = {"gap": "gap", "score gap": "score_gap", "length": "length_correlation", "density": "token_rate"}[sort]
    return rows.sort_values(column, key=np.abs, ascending=False, kind="stable")


def fire_on_text(prompt: Prompt, response: str, backbone: Backbone, sae: SparseAutoencoder, pooling: Pooling) -> FiringText:
    """Read a response to a prompt as the heads read it, and list the latents that fire in it.

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
    return FiringText(backbone.chat.texts(text.ids[text.start : text.end]), features, z[:, features], h, text.n_truncated)
