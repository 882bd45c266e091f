"""The whole reward model: frozen backbone, head, and what the head is valid for."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Sequence
from contextlib import closing, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit

from sparserm.card import HeadCard, SavedHead, load_head, save_head
from sparserm.defaults import DEFAULT_BACKBONE
from sparserm.explain import compare_responses, explain_response, label_of
from sparserm.head import rewards
from sparserm.pairs import as_prompt, as_response, load_pairs
from sparserm.store import open_store
from sparserm.types import (
    Comparison,
    Evaluation,
    Explanation,
    HookPoint,
    Message,
    PreferenceData,
    Progress,
    Prompt,
    SparseRMError,
)

if TYPE_CHECKING:
    from sparserm.backbone import Backbone
    from sparserm.fitting import FitSettings
    from sparserm.sae import SparseAutoencoder

_load_lock = threading.Lock()


@functools.lru_cache(maxsize=2)
def _load_backbone(name: str, through_layer: int) -> Backbone:
    from sparserm.backbone import Backbone

    return Backbone.load(name, through_layer=through_layer)


def shared_backbone(name: str, through_layer: int) -> Backbone:
    """One copy in memory for all heads of one backbone and layer, also when several threads ask at once."""
    with _load_lock:
        return _load_backbone(name, through_layer)


class SparseRM:
    """A reward model whose every reward is a sum over named features.

    Args:
        saved: the head with its card.
        backbone: the language model; loaded when first needed where it is not given.

    Raises:
        SparseRMError: the backbone is not the one that the head was trained on.
    """

    def __init__(self, saved: SavedHead, backbone: Backbone | None = None) -> None:
        self.saved = saved
        self.head = saved.head
        self.card = saved.card
        self._backbone = backbone
        if backbone is not None:
            self._check_backbone(backbone)

    @classmethod
    def from_pretrained(cls, source: str | Path, *, backbone: Backbone | None = None) -> SparseRM:
        """Load a head from a folder, or a shipped one by name (``truthfulness``, ``safety``, ``redteam``, ``helpfulness``).

        Raises:
            SparseRMError: there is no such head, it is damaged, or it was trained on another backbone.
        """
        return cls(load_head(source), backbone)

    @classmethod
    def fit(
        cls,
        pairs: PreferenceData | str | Path,
        *,
        backbone: Backbone | str | Path = DEFAULT_BACKBONE,
        sae: SparseAutoencoder | str | Path | None = None,
        layer: int | None = None,
        settings: FitSettings | None = None,
        k: int | None = None,
        name: str | None = None,
        progress: Progress | None = None,
    ) -> SparseRM:
        """Train a head on preference pairs.

        Args:
            pairs: validated pairs, or anything :func:`~sparserm.pairs.load_pairs` reads.
            backbone: the language model, or its name.
            sae: the SAE, its folder or its name; the shipped SAE of ``layer`` where it is not given.
            layer: of the shipped SAE; the measured default where it is not given.
            settings: of the fit; ``k`` is short for the number of features alone.
            name: of the head.
            progress: told of downloads and of representations computed.

        Raises:
            SparseRMError: the pairs, the SAE and the backbone do not go together.
        """
        from dataclasses import replace

        from sparserm.fitting import FitSettings, fit_head
        from sparserm.representations import represent_pairs

        settings = settings or FitSettings()
        settings = replace(settings, k=k) if k is not None else settings
        data = pairs if isinstance(pairs, PreferenceData) else load_pairs(pairs)
        dictionary, model = load_parts(backbone, sae, layer, progress)
        with _store() as store:
            represented = represent_pairs(
                data.pairs, model, {dictionary.hook: dictionary}, settings.pooling, store=store, progress=progress
            )[dictionary.hook]
        fitted = fit_head(represented, dictionary, settings)
        percent = np.linspace(0, 100, 101)
        features = fitted.head.features
        saved = SavedHead(
            head=fitted.head,
            card=_card(name or data.name, data, model, dictionary, settings, fitted),
            f_chosen=fitted.stats.f_chosen[features],
            f_rejected=fitted.stats.f_rejected[features],
            quantiles_chosen=np.percentile(fitted.rewards_chosen, percent),
            quantiles_rejected=np.percentile(fitted.rewards_rejected, percent),
        )
        return cls(saved, model)

    @property
    def backbone(self) -> Backbone:
        """The language model, loaded on first use."""
        if self._backbone is None:
            backbone = shared_backbone(self.card.backbone, self.card.hook_point.layer)
            self._check_backbone(backbone)
            self._backbone = backbone
        return self._backbone

    def score(
        self,
        prompts: Sequence[Any] | str,
        responses: Sequence[Any] | str,
        *,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Rewards ``[n]`` float64 of ``n`` responses to ``n`` prompts; a prompt is a string or a list of messages.

        Raises:
            SparseRMError: unequal numbers of prompts and responses, or one that cannot be scored.
        """
        prompts = [prompts] if isinstance(prompts, str) else prompts
        responses = [responses] if isinstance(responses, str) else responses
        if len(prompts) != len(responses):
            raise SparseRMError(
                f"got {len(prompts)} prompts and {len(responses)} responses; expected as many of each; repeat the prompt "
                "for several responses to it"
            )
        return rewards(self.head, self._pooled([*map(as_prompt, prompts)], [*map(as_response, responses)], progress))

    def compare(self, prompt: str | Iterable[Any], responses: Sequence[Any]) -> Comparison:
        """Rank two or more responses to one prompt and take the margin apart.

        Raises:
            SparseRMError: fewer than two responses.
        """
        if len(responses) < 2:
            raise SparseRMError(f"got {len(responses)} responses; expected two or more to compare")
        texts = [as_response(response) for response in responses]
        h = self._pooled([as_prompt(prompt)] * len(texts), texts)
        return compare_responses(self.head, h, self.card.labels)

    def explain(self, prompt: str | Iterable[Any], response: Any) -> Explanation:
        """Take the reward of one response apart, by feature and by token."""
        text = self.backbone.tokenize(as_prompt(prompt), as_response(response))
        hook = self.card.hook_point
        ((_, states),) = self.backbone.hidden_states([text], [hook])
        tokens = self.backbone.chat.texts(text.ids[text.start : text.end])
        return explain_response(self.head, states[hook].cpu().numpy(), tokens, self.card.labels, text.n_truncated)

    def evaluate(self, data: PreferenceData, *, progress: Progress | None = None) -> Evaluation:
        """Accuracy on pairs that the head was not trained on, with its interval and the longer-is-better baseline."""
        from sparserm.evaluate import evaluate_head
        from sparserm.representations import represent_pairs

        hook = self.card.hook_point
        with _store() as store:
            pairs = represent_pairs(
                data.pairs, self.backbone, {hook: None}, self.head.pooling, store=store, progress=progress
            )[hook]
        return evaluate_head(self.head, pairs)

    def chance_to_beat(self, reward: float) -> tuple[float, float]:
        """Bradley-Terry chance that a response of this reward beats a typical (median) chosen, and rejected, one."""
        typical = self.saved.quantiles_chosen[50], self.saved.quantiles_rejected[50]
        return float(expit(reward - typical[0])), float(expit(reward - typical[1]))

    def features(self) -> list[dict[str, Any]]:
        """The head's features with their evidence, largest absolute weight first."""
        rows = [
            {
                "feature": int(feature),
                "label": label_of(self.card.labels, int(feature)),
                "f_chosen": float(self.saved.f_chosen[j]),
                "f_rejected": float(self.saved.f_rejected[j]),
                "gap": float(self.saved.f_chosen[j] - self.saved.f_rejected[j]),
                "weight": float(self.head.weights[j]),
                "mu": float(self.head.mu[j]),
                "sigma": float(self.head.sigma[j]),
            }
            for j, feature in enumerate(self.head.features)
        ]
        return sorted(rows, key=lambda row: -abs(row["weight"]))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``head.safetensors``."""
        save_head(self.saved, Path(folder))

    def _pooled(self, prompts: list[Prompt], responses: list[str], progress: Progress | None = None) -> np.ndarray:
        from sparserm.representations import represent

        texts = [self.backbone.tokenize(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
        hook = self.card.hook_point
        with _store() as store:
            pooled = represent(texts, self.backbone, {hook: None}, self.head.pooling, store=store, progress=progress)
        return pooled[hook].h

    def _check_backbone(self, backbone: Backbone) -> None:
        if backbone.fingerprint != self.card.backbone_fingerprint:
            raise SparseRMError(
                f"head {self.card.name!r} was trained on backbone {self.card.backbone} "
                f"({self.card.backbone_fingerprint}), got {backbone.name} ({backbone.fingerprint}); load that backbone, or "
                "train a head on this one"
            )


def load_parts(
    backbone: Backbone | str | Path,
    sae: SparseAutoencoder | str | Path | None,
    layer: int | None,
    progress: Progress | None = None,
) -> tuple[SparseAutoencoder, Backbone]:
    """An SAE and a backbone that go together.

    Raises:
        SparseRMError: they do not: another width, too few layers, or a layer that is not the SAE's.
    """
    from sparserm.backbone import Backbone
    from sparserm.sae import SparseAutoencoder, check_compatible, load_sae

    dictionary = sae if isinstance(sae, SparseAutoencoder) else load_sae(sae or shipped_sae_name(layer))
    if layer is not None and dictionary.hook.layer != layer:
        raise SparseRMError(
            f"SAE {dictionary.name} was trained at {dictionary.hook.name}, but layer {layer} was asked for; leave the layer "
            "out, or choose an SAE of that layer (`sparserm saes`)"
        )
    model = (
        backbone
        if isinstance(backbone, Backbone)
        else Backbone.load(backbone, through_layer=dictionary.hook.layer, progress=progress)
    )
    check_compatible(dictionary, model_name=model.name, d_model=model.d_model, n_layers=model.n_layers)
    return dictionary, model


def shipped_sae_name(layer: int | None) -> str:
    """The name of the default backbone's SAE at a layer; that of the measured default where none is given."""
    from sparserm.defaults import DEFAULT_LAYER

    return f"{DEFAULT_BACKBONE}/layer_{DEFAULT_LAYER if layer is None else layer}"


def _store():  # type: ignore[no-untyped-def]
    """The representation store for one piece of work: SQLite connections do not cross threads."""
    store = open_store()
    return closing(store) if store else nullcontext()


def _card(
    name: str, data: PreferenceData, model: Backbone, sae: SparseAutoencoder, settings: FitSettings, fitted: Any
) -> HeadCard:
    from dataclasses import asdict

    return HeadCard(
        name=name,
        backbone=model.name,
        backbone_fingerprint=model.fingerprint,
        hook=sae.hook.name,
        sae=sae.name,
        sae_fingerprint=sae.fingerprint,
        d_sae=sae.d_sae,
        training={
            "data": data.name,
            "data_hash": data.content_hash,
            "n_pairs": len(data.pairs),
            "n_prompts": len({pair.prompt for pair in data.pairs}),
            "n_skipped": data.n_skipped,
            "accuracy": fitted.accuracy,
            "settings": {**asdict(settings), "l2": fitted.l2},
        },
        versions={package: version(package) for package in ("sparserm", "torch", "transformers")},
    )


__all__ = ["HookPoint", "Message", "SparseRM", "load_parts", "shared_backbone", "shipped_sae_name"]
