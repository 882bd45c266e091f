"""The whole reward model: frozen backbone, head, and what the head is valid for."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit

from sparserm.explain.comparison import SideBySide, check_number
from sparserm.explain.contributions import (
    Comparison,
    Explanation,
    InspectedInput,
    compare_responses,
    explain_response,
    label_of,
)
from sparserm.heads.labels import labels_of
from sparserm.heads.reward import rewards
from sparserm.heads.saved import SavedHead, load_head, save_head
from sparserm.pairs.load import load_pairs
from sparserm.pairs.messages import as_prompt, as_response
from sparserm.representations.store import stored
from sparserm.representations.values import PairRepresentations
from sparserm.support.defaults import DEFAULT_BACKBONE, default_device
from sparserm.types import PairIssue, PreferenceData, Progress, Prompt, SparseRMError, Text

if TYPE_CHECKING:
    from sparserm.backbone.model import Backbone
    from sparserm.evaluation.accuracy import Evaluation
    from sparserm.sae.autoencoder import SparseAutoencoder


_load_lock = threading.Lock()


#: Loaded language models by folder and device, the one used last at the end; two at most.
_loaded: dict[str, Backbone] = {}


def shared_backbone(name: str, through_layer: int, progress: Progress | None = None) -> Backbone:
    """One copy in memory for all heads of one backbone, deep enough for each, also when several threads ask at once."""
    from sparserm.backbone.model import Backbone, resolve

    with _load_lock:
        folder, _ = resolve(name, progress)  # a first use's download, here where it can be told of
        key = f"{folder.resolve()} {default_device()}"  # however it was named
        found = _loaded.pop(key, None)
        if found is None or found.through_layer < min(through_layer, found.n_layers - 1):
            found = Backbone.load(name, through_layer=through_layer)
        _loaded[key] = found
        while len(_loaded) > 2:
            _loaded.pop(next(iter(_loaded)))
        return found


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
        name: str | None = None,
        progress: Progress | None = None,
        **settings: Any,
    ) -> SparseRM:
        """Train a head on preference pairs.

        Args:
            pairs: validated pairs, or anything :func:`~sparserm.pairs.load.load_pairs` reads.
            backbone: the language model, or its name.
            sae: the SAE, its folder or its name; the shipped SAE of ``layer`` where it is not given.
            layer: of the shipped SAE; the measured default where it is not given.
            name: of the head.
            progress: told of downloads and of representations computed.
            settings: ``k``, ``pooling``, ``selection``, ``l2``: see :class:`~sparserm.heads.fitting.FitSettings`.

        Raises:
            SparseRMError: the pairs, the SAE and the backbone do not go together.
        """
        from sparserm.heads.fitting import fit_head, fit_settings, make_saved_head
        from sparserm.heads.inputs import load_parts, represent_for_fit

        data = pairs if isinstance(pairs, PreferenceData) else load_pairs(pairs)
        chosen = fit_settings(**settings)
        dictionary, model = load_parts(backbone, sae, layer, progress)
        fitted = fit_head(represent_for_fit(data, model, dictionary, chosen, progress), dictionary, chosen)
        return cls(make_saved_head(fitted, data, model, dictionary, chosen, name=name or data.name), model)

    @property
    def labels(self) -> Mapping[int, str]:
        """Of features by id: the head's own, and over them those that the user gave."""
        return labels_of(self.card)

    @property
    def backbone(self) -> Backbone:
        """The language model, loaded on first use."""
        return self._backbone or self.load_backbone()

    def load_backbone(self, progress: Progress | None = None) -> Backbone:
        """Load the language model now, telling of a first use's download.

        Raises:
            SparseRMError: it cannot be had, or is not the one that the head was trained on.
        """
        if self._backbone is None:
            backbone = shared_backbone(self.card.backbone_source, self.card.hook_point.layer, progress)
            self._check_backbone(backbone)
            self._backbone = backbone
        return self._backbone

    def load_sae(self) -> SparseAutoencoder:
        """The SAE that the head's features come from.

        Raises:
            SparseRMError: it is not there, or is not the one that the head was trained with.
        """
        from sparserm.sae.autoencoder import load_sae

        sae = load_sae(self.card.sae)
        if sae.fingerprint != self.card.sae_fingerprint:
            raise SparseRMError(
                f"SAE {self.card.sae} is {sae.fingerprint}, but head {self.card.name} was trained with "
                f"{self.card.sae_fingerprint}; put that SAE back, or train the head again"
            )
        return sae

    def seen_in_training(self, data: PreferenceData) -> tuple[PairIssue, ...]:
        """Rows whose prompt the head was trained on: they are no test of it."""
        return tuple(
            PairIssue(pair.row, "prompt", "is also a prompt of the head's training pairs", "warning")
            for pair, known in zip(data.pairs, self.saved.trained_on(data.pairs), strict=True)
            if known
        )

    def score(
        self, prompts: Sequence[Any] | str, responses: Sequence[Any] | str, *, progress: Progress | None = None
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

    def compare(self, prompt: str | Sequence[Any], responses: Sequence[Any]) -> Comparison:
        """Rank two or more responses to one prompt and take the margin apart.

        Raises:
            SparseRMError: fewer than two responses.
        """
        if len(responses) < 2:
            raise SparseRMError(f"got {len(responses)} responses; expected two or more to compare")
        texts = [as_response(response) for response in responses]
        h = self._pooled([as_prompt(prompt)] * len(texts), texts)
        return compare_responses(self.head, h, self.labels)

    def explain(self, prompt: str | Sequence[Any], response: Any, *, sae: SparseAutoencoder | None = None) -> Explanation:
        """Take the reward of one response apart, by feature and by token.

        Args:
            sae: the head's SAE, where the activations of its latents are wanted too.
        """
        return self._explain(as_prompt(prompt), [as_response(response)], sae)[0]

    def side_by_side(
        self, prompt: str | Sequence[Any], responses: Sequence[Any], *, sae: SparseAutoencoder | None = None
    ) -> SideBySide:
        """Take the rewards of two to eight responses to one prompt apart, in one pass of the backbone.

        Args:
            sae: as for :meth:`explain`.

        Raises:
            SparseRMError: fewer or more responses.
        """
        check_number(len(responses))
        return SideBySide(self._explain(as_prompt(prompt), [as_response(response) for response in responses], sae))

    def inspect(self, prompt: str | Sequence[Any], response: Any) -> InspectedInput:
        """The templated tokens that the language model reads, and where the head reads its representation."""
        text = self.backbone.tokenize(as_prompt(prompt), as_response(response))
        n = len(text.ids)
        read = range(text.start, text.end) if self.head.pooling == "mean" else range(n - 1, n)
        return InspectedInput(self.backbone.chat.texts(text.ids), tuple(i in read for i in range(n)), text.n_truncated)

    def represent(
        self,
        data: PreferenceData,
        *,
        sae: SparseAutoencoder | None = None,
        strengths: bool = False,
        progress: Progress | None = None,
    ) -> PairRepresentations:
        """The pooled representations that the head reads, from the store where they are there.

        Args:
            sae: the head's, where it is needed in which responses its latents are active.
            strengths: and how strongly they fire.
        """
        from sparserm.representations.represent import represent_pairs

        hook = self.card.hook_point
        with stored() as store:
            found = represent_pairs(
                data.pairs, self.backbone, {hook: sae}, self.head.pooling, strengths=strengths, store=store, progress=progress
            )
        return found[hook]

    def evaluate(self, data: PreferenceData, *, progress: Progress | None = None) -> Evaluation:
        """Accuracy on pairs that the head was not trained on, with its interval and the longer-is-better baseline."""
        from sparserm.evaluation.accuracy import evaluate_head

        return evaluate_head(self.head, self.represent(data, progress=progress))

    def chance_to_beat(self, reward: float) -> tuple[float, float]:
        """Bradley-Terry chance that a response of this reward beats a typical (median) chosen, and rejected, one."""
        typical = self.saved.quantiles_chosen[50], self.saved.quantiles_rejected[50]
        return float(expit(reward - typical[0])), float(expit(reward - typical[1]))

    def percentile(self, reward: float) -> float:
        """Share of the training responses, chosen and rejected alike, with a lower reward; from their percentiles."""
        shares = np.linspace(0, 1, 101)
        both = (self.saved.quantiles_chosen, self.saved.quantiles_rejected)
        return float(np.mean([np.interp(reward, quantiles, shares) for quantiles in both]))

    def features(self) -> list[dict[str, Any]]:
        """The head's features with their evidence, largest absolute weight first."""
        labels = self.labels
        rows = [
            {
                "feature": int(feature),
                "label": label_of(labels, int(feature)),
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

    def _explain(self, prompt: Prompt, responses: Sequence[str], sae: SparseAutoencoder | None) -> tuple[Explanation, ...]:
        texts = [self.backbone.tokenize(prompt, response) for response in responses]
        hook = self.card.hook_point
        found = {}
        for i, states in self.backbone.hidden_states(texts, [hook]):
            text, h = texts[i], states[hook].cpu()
            tokens = self.backbone.chat.texts(text.ids[text.start : text.end])
            activations = sae.encode(h[: len(tokens)])[:, self.head.features].numpy() if sae else None
            found[i] = explain_response(self.head, h.numpy(), tokens, self.labels, text.n_truncated, activations)
        return tuple(found[i] for i in range(len(texts)))

    def _pooled(self, prompts: list[Prompt], responses: list[str], progress: Progress | None = None) -> np.ndarray:
        from sparserm.representations.represent import represent

        texts = [Text(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
        hook = self.card.hook_point
        with stored() as store:
            pooled = represent(texts, self.backbone, {hook: None}, self.head.pooling, store=store, progress=progress)
        return pooled[hook].h

    def _check_backbone(self, backbone: Backbone) -> None:
        if backbone.fingerprint != self.card.backbone_fingerprint:
            raise SparseRMError(
                f"head {self.card.name!r} was trained on backbone {self.card.backbone} "
                f"({self.card.backbone_fingerprint}), got {backbone.name} ({backbone.fingerprint}); load that backbone, or "
                "train a head on this one"
            )
