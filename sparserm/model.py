"""``SparseRM``: the reward model, a frozen backbone with a saved head, and its public Python API."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
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
from sparserm.heads.labels import detections_of, labels_of
from sparserm.heads.reward import head_scores, rewards
from sparserm.heads.saved import SavedHead, load_head, save_head
from sparserm.pairs.load import load_pairs
from sparserm.pairs.messages import as_prompt, as_response
from sparserm.pairs.parsing import parse_pairs
from sparserm.representations.store import stored
from sparserm.representations.values import PairRepresentations, Representations
from sparserm.support.defaults import DEFAULT_BACKBONE, default_device
from sparserm.types import PairIssue, PreferenceData, Progress, Prompt, SparseRMError, Text

if TYPE_CHECKING:
    from sparserm.backbone.model import Backbone
    from sparserm.evaluation.accuracy import Evaluation
    from sparserm.sae.autoencoder import SparseAutoencoder


_load_lock = threading.Lock()


#: Cache of loaded backbones by folder and device: at most two, the most recently used last.
_loaded: dict[str, Backbone] = {}


def shared_backbone(name: str, through_layer: int, progress: Progress | None = None) -> Backbone:
    """Load the backbone that a head names, once per process, and share it between heads; thread-safe.

    Apart from the default backbone nothing is downloaded: the head may come from a stranger.

    Args:
        through_layer: the deepest layer needed; a cached backbone with fewer layers is loaded again.
    """
    from sparserm.backbone.model import Backbone, resolve

    with _load_lock:
        folder, _ = resolve(name, progress, may_download=False)
        key = f"{folder.resolve()} {default_device()}"
        found = _loaded.pop(key, None)
        if found is None or found.through_layer < min(through_layer, found.n_layers - 1):
            found = Backbone.load(name, through_layer=through_layer, may_download=False)
        _loaded[key] = found
        while len(_loaded) > 2:
            _loaded.pop(next(iter(_loaded)))
        return found


class SparseRM:
    """A reward model whose rewards are sums over named features.

    Args:
        saved: the head with its card.
        backbone: the language model; loaded on first use if not given.

    Raises:
        SparseRMError: the backbone is not the one that the head was trained on.
    """

    def __init__(self, saved: SavedHead, backbone: Backbone | None = None) -> None:
        self.saved = saved
        self.head = saved.head
        self.card = saved.card
        self._backbone = backbone
        if backbone is not None:
            self._require(backbone)

    @classmethod
    def from_pretrained(cls, source: str | Path, *, backbone: Backbone | None = None) -> SparseRM:
        """Load a head from a folder, or by name: a saved head, ``truthfulness``, ``safety``, ``redteam`` or ``helpfulness``, or
        ``USER/NAME`` of the Hugging Face Hub.

        Raises:
            SparseRMError: the head does not exist, is damaged, or was trained on another backbone.
        """
        return cls(load_head(source), backbone)

    @classmethod
    def fit(
        cls,
        pairs: PreferenceData | str | Path | Iterable[Any] | Mapping[str, Any],
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
            pairs: validated pairs, any source that :func:`~sparserm.pairs.load.load_pairs` reads, or rows in memory, as for
                :func:`~sparserm.pairs.parsing.parse_pairs`.
            backbone: the language model, or its name.
            sae: the SAE, its folder or its name; defaults to the shipped SAE of ``layer``.
            layer: layer of the shipped SAE; defaults to :data:`~sparserm.support.defaults.DEFAULT_LAYER`.
            name: name of the head; defaults to the name of the pairs.
            progress: called during downloads and while representations are computed.
            settings: fields of :class:`~sparserm.heads.fitting.FitSettings`, such as ``k``, ``pooling`` and ``l2``.

        Raises:
            SparseRMError: the pairs cannot be used, or the SAE, the backbone and the settings do not match.
        """
        from sparserm.heads.fitting import fit_head, fit_settings, make_saved_head
        from sparserm.heads.inputs import load_parts, represent_for_fit

        data = load_pairs(pairs) if isinstance(pairs, (str, Path)) else pairs
        data = data if isinstance(data, PreferenceData) else parse_pairs(data)
        chosen = fit_settings(**settings)
        dictionary, model = load_parts(backbone, sae, layer, progress)
        fitted = fit_head(represent_for_fit(data, model, dictionary, chosen, progress), dictionary, chosen)
        return cls(make_saved_head(fitted, data, model, dictionary, chosen, name=name or data.name), model)

    @property
    def labels(self) -> Mapping[int, str]:
        """Labels by feature id: the user's, else the head's own, else automatic ones."""
        return labels_of(self.card)

    @property
    def detections(self) -> Mapping[int, float]:
        """Detection scores of the automatic ones among :attr:`labels`, by feature id."""
        return detections_of(self.card)

    @property
    def backbone(self) -> Backbone:
        """The language model, loaded on first use."""
        return self._backbone or self.load_backbone()

    def load_backbone(self, progress: Progress | None = None) -> Backbone:
        """Load the language model now, reporting progress if it has to be downloaded.

        Raises:
            SparseRMError: it is not available, or is not the one that the head was trained on.
        """
        if self._backbone is None:
            backbone = shared_backbone(self.card.backbone_source, self.card.hook_point.layer, progress)
            self._require(backbone)
            self._backbone = backbone
        return self._backbone

    def load_sae(self) -> SparseAutoencoder:
        """Load the SAE that the head's features come from.

        Raises:
            SparseRMError: it was not found, or is not the one that the head was trained with.
        """
        from sparserm.sae.autoencoder import load_sae

        sae = load_sae(self.card.sae, may_download=False)
        if sae.fingerprint != self.card.sae_fingerprint or (sae.d_sae, sae.d_in) != (self.card.d_sae, self.saved.width):
            raise SparseRMError(
                f"SAE {self.card.sae} is {sae.fingerprint} with {sae.d_sae:,} latents of width {sae.d_in}, but head "
                f"{self.card.name} was trained with {self.card.sae_fingerprint}, {self.card.d_sae:,} latents of width "
                f"{self.saved.width}; put that SAE back, or train the head again"
            )
        return sae

    def seen_in_training(self, data: PreferenceData) -> tuple[PairIssue, ...]:
        """A warning for every row whose prompt is also in the head's training pairs: such rows are not held out."""
        return tuple(
            PairIssue(pair.row, "prompt", "is also in the head's training pairs", "warning")
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
                f"got {len(prompts)} prompts and {len(responses)} responses; expected one prompt per response; repeat the "
                "prompt to score several responses to it"
            )
        texts = [Text(as_prompt(prompt), as_response(response)) for prompt, response in zip(prompts, responses, strict=True)]
        return rewards(self.head, self.represent_texts(texts, progress))

    def compare(self, prompt: str | Sequence[Any], responses: Sequence[Any]) -> Comparison:
        """Rank two or more responses to one prompt and break the margin down by feature.

        Raises:
            SparseRMError: fewer than two responses, or one that cannot be scored.
        """
        if len(responses) < 2:
            raise SparseRMError(f"got {len(responses)} responses; expected two or more to compare")
        asked = as_prompt(prompt)
        found = self.represent_texts([Text(asked, as_response(response)) for response in responses])
        compared = compare_responses(self.head, head_scores(self.head, found), self.labels)
        return replace(compared, n_truncated=tuple(found.n_truncated.tolist()))

    def explain(self, prompt: str | Sequence[Any], response: Any, *, sae: SparseAutoencoder | None = None) -> Explanation:
        """Break the reward of one response down by feature and by token.

        Args:
            sae: the head's SAE, to include the activations of its latents.
        """
        return self._explain(as_prompt(prompt), [as_response(response)], sae)[0]

    def contribution_rows(self, explanation: Explanation) -> list[dict[str, Any]]:
        """The contributions of an explanation as rows; ``detection`` is the detection score of an automatic label, or None."""
        detections = self.detections
        return [{**vars(part), "detection": detections.get(part.feature)} for part in explanation.contributions]

    def side_by_side(
        self, prompt: str | Sequence[Any], responses: Sequence[Any], *, sae: SparseAutoencoder | None = None
    ) -> SideBySide:
        """Break down the rewards of two to eight responses to one prompt, in one pass of the backbone.

        Args:
            sae: as for :meth:`explain`.

        Raises:
            SparseRMError: fewer than two or more than eight responses, or one that cannot be scored.
        """
        check_number(len(responses))
        return SideBySide(self._explain(as_prompt(prompt), [as_response(response) for response in responses], sae))

    def inspect(self, prompt: str | Sequence[Any], response: Any) -> InspectedInput:
        """The templated tokens that the language model reads, and which of them the head pools."""
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
        """Pooled representations of pairs at the head's hook point, read from the store where available.

        Args:
            sae: the head's SAE, to record in which responses its latents are active.
            strengths: also record how strongly they fire.
        """
        from sparserm.representations.represent import represent_pairs

        hook = self.card.hook_point
        with stored() as store:
            found = represent_pairs(
                data.pairs,
                self.backbone,
                {hook: sae} if sae else self.saved.saes,
                self.head.pooling,
                strengths=strengths or self.head.score == "gated",
                store=store,
                progress=progress,
            )
        return found[hook]

    def evaluate(self, data: PreferenceData, *, progress: Progress | None = None) -> Evaluation:
        """Accuracy on held-out pairs, with its 95 % interval and the longer-is-better baseline."""
        from sparserm.evaluation.accuracy import evaluate_head

        return evaluate_head(self.head, self.represent(data, progress=progress))

    def chance_to_beat(self, reward: float) -> tuple[float, float]:
        """Bradley-Terry win probability of this reward vs. a typical (median) chosen and a typical rejected response."""
        typical = self.saved.quantiles_chosen[50], self.saved.quantiles_rejected[50]
        return float(expit(reward - typical[0])), float(expit(reward - typical[1]))

    def percentile(self, reward: float) -> float:
        """Share of the training responses, chosen and rejected, with a lower reward; interpolated from their percentiles."""
        shares = np.linspace(0, 1, 101)
        both = (self.saved.quantiles_chosen, self.saved.quantiles_rejected)
        return float(np.mean([np.interp(reward, quantiles, shares) for quantiles in both]))

    def features(self) -> list[dict[str, Any]]:
        """The head's features with weights and activation frequencies, largest absolute weight first.

        ``seeds_direction`` and ``seeds_firing`` are the shares of SAEs of other seeds that have the feature, see
        :class:`~sparserm.sae.seeds.SeedStability`; None if unknown.
        """
        from sparserm.sae.seeds import seeds_of

        labels = self.labels
        seeds = seeds_of(self.card.sae, self.card.sae_fingerprint, self.card.d_sae)
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
                "selected": None if self.saved.selected is None else float(self.saved.selected[j]),
                "family": int(self.head.leaders[j]),
                "seeds_direction": None if seeds is None else float(seeds.direction[feature]),
                "seeds_firing": None if seeds is None else float(seeds.firing[feature]),
            }
            for j, feature in enumerate(self.head.features)
        ]
        return sorted(rows, key=lambda row: -abs(row["weight"]))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``head.safetensors``, replacing a head that is there; other files in the folder stay."""
        save_head(self.saved, Path(folder))

    def _require(self, backbone: Backbone) -> None:
        """Refuse any other backbone than the head's."""
        self.card.require_backbone(backbone.name, backbone.fingerprint)
        self.saved.require_width(backbone.d_model)

    def _explain(self, prompt: Prompt, responses: Sequence[str], sae: SparseAutoencoder | None) -> tuple[Explanation, ...]:
        texts = [self.backbone.tokenize(prompt, response) for response in responses]
        hook = self.card.hook_point
        found = {}
        for i, states in self.backbone.hidden_states(texts, [hook]):
            text, h = texts[i], states[hook].cpu()
            tokens = self.backbone.chat.texts(text.ids[text.start : text.end])
            activations = sae.encode(h)[:, self.head.features].numpy() if sae and self.head.gate is None else None
            found[i] = explain_response(self.head, h.numpy(), tokens, self.labels, text.n_truncated, activations)
        return tuple(found[i] for i in range(len(texts)))

    def represent_texts(self, texts: Sequence[Text], progress: Progress | None = None) -> Representations:
        """Pooled representations of texts at the head's hook point, read from the store where available.

        Raises:
            SparseRMError: a text cannot be represented.
        """
        from sparserm.representations.represent import represent

        hook = self.card.hook_point
        with stored() as store:
            return represent(texts, self.backbone, self.saved.saes, self.head.pooling, store=store, progress=progress)[hook]
