"""A reward model as a transformers model with one label, for ``AutoModelForSequenceClassification``.

This file is copied into every export and is all the code that loading one needs: torch and transformers, but not SparseRM.

The reward is ``sum_j w_j (s_j - mu_j) / sigma_j + b``. With projections, ``s_j = <h - c, d_j>``, it is linear in the pooled
representation ``h``, so the head folds into a single direction, ``sum_j w_j d_j / sigma_j``. A gated head counts
``<h_t - c, d_j>`` only at the tokens ``t`` where feature ``j`` fires, so it keeps its directions, and the part of the encoder
that tells where that is.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

_TRANSFORMERS = int(transformers.__version__.split(".")[0])


class SparseRMClassifierConfig(PretrainedConfig):
    """Configuration of an exported reward model.

    Attributes:
        backbone: configuration of the language model, cut above the layer that the head reads.
        pooling: ``mean`` over the tokens of the last assistant turn, or ``last``, the last token of the text.
        response_start, response_end: token ids with which the chat template opens and closes that turn.
        empty_reward: reward of an empty assistant turn.
        gate: of a gated head, the number of ``features`` and how they are encoded: ``architecture`` (``standard``, ``jumprelu``
            or ``gated``), ``normalize_activations`` (``none``, ``layer_norm`` or ``constant_norm_rescale``),
            ``apply_b_dec_to_input``, and the ``max_norm`` of states at which they fire, if it is limited; None for projections.
    """

    model_type = "sparserm_classifier"
    sub_configs = {"backbone": AutoConfig}

    def __init__(
        self,
        backbone: Any = None,
        pooling: str = "mean",
        response_start: Sequence[int] = (),
        response_end: Sequence[int] = (),
        empty_reward: float = 0.0,
        gate: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.backbone = AutoConfig.for_model(**_readable(backbone)) if isinstance(backbone, dict) else backbone
        self.pooling = pooling
        self.response_start, self.response_end = list(response_start), list(response_end)
        self.empty_reward = empty_reward
        self.gate = dict(gate) if gate else None
        super().__init__(**{"num_labels": 1, **settings})


class GatedScores(nn.Linear):
    """Reward as a weighted sum of ``K`` gated scores: a linear layer over the ``[B, K]`` that :meth:`pool` gives.

    Args:
        width: width ``d`` of the states.
        gate: see :class:`SparseRMClassifierConfig`.
    """

    directions: Tensor
    center: Tensor
    W_enc: Tensor
    b_enc: Tensor
    threshold: Tensor
    b_gate: Tensor
    b_mag: Tensor
    r_mag: Tensor

    def __init__(self, width: int, gate: Mapping[str, Any]) -> None:
        features = gate["features"]
        super().__init__(features, 1)
        self._gate = gate
        vectors = {"standard": ("b_enc",), "jumprelu": ("b_enc", "threshold"), "gated": ("b_gate", "b_mag", "r_mag")}
        shapes = {"directions": (features, width), "center": (width,), "W_enc": (width, features)}
        shapes |= {name: (features,) for name in vectors[gate["architecture"]]}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

    def pool(self, h: Tensor) -> Tensor:
        """``[K]`` mean over the tokens ``h [T, d]`` of the projection on each feature's direction where the feature fires."""
        h = h.to(self.directions.dtype)
        fires = self._fires(h)
        if (limit := self._gate.get("max_norm")) is not None:
            fires = fires & (h.norm(dim=-1, keepdim=True) <= limit)
        return (((h - self.center) @ self.directions.T) * fires).mean(0)

    def _fires(self, h: Tensor) -> Tensor:
        """``[T, K]`` whether each feature is active at each token ``h [T, d]``, as its autoencoder computes it."""
        x = self._normalised(h)
        pre = (x - self.center if self._gate["apply_b_dec_to_input"] else x) @ self.W_enc
        if self._gate["architecture"] == "gated":
            return (pre + self.b_gate > 0) & (pre * self.r_mag.exp() + self.b_mag > 0)
        pre = pre + self.b_enc
        return pre > (self.threshold.clamp(min=0) if self._gate["architecture"] == "jumprelu" else 0)

    def _normalised(self, h: Tensor) -> Tensor:
        how = self._gate["normalize_activations"]
        if how == "layer_norm":
            centred = h - h.mean(-1, keepdim=True)
            return centred / (centred.std(-1, keepdim=True) + 1e-5)
        return h * (h.shape[-1] ** 0.5 / h.norm(dim=-1, keepdim=True)) if how == "constant_norm_rescale" else h


class SparseRMForSequenceClassification(PreTrainedModel):
    """Reward model whose ``logits [B, 1]`` are the rewards of conversations in the tokenizer's chat template."""

    config_class = SparseRMClassifierConfig
    base_model_prefix = "backbone"
    _keep_in_fp32_modules_strict = ["score"]

    def __init__(self, config: SparseRMClassifierConfig) -> None:
        super().__init__(config)
        self.backbone = AutoModel.from_config(config.backbone)
        width = config.backbone.hidden_size
        self.score = GatedScores(width, config.gate) if config.gate else nn.Linear(width, 1)
        self._takes_positions = "position_ids" in inspect.signature(self.backbone.forward).parameters
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **_: Any
    ) -> SequenceClassifierOutput:
        """Compute the rewards of ``input_ids [B, T]``; padding, on either side, has ``attention_mask`` 0.

        Raises:
            ValueError: a text has no assistant turn, or labels are given (the model cannot be trained).
        """
        if labels is not None:
            raise ValueError("got labels, expected none; this reward model is inference-only, train heads with SparseRM")
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        pooled, empty = self._pool(self._states(input_ids, mask), input_ids, mask)
        rewards = nn.functional.linear(pooled.double(), self.score.weight.double(), self.score.bias.double()).float()
        rewards[empty] = self.config.empty_reward
        return SequenceClassifierOutput(logits=rewards)

    def _states(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """``[B, T, d]`` output of the last layer, before the final norm."""
        n_layers = self.config.backbone.num_hidden_layers
        layers = next(m for m in self.backbone.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers)
        kept: list[Any] = []
        handle = layers[-1].register_forward_hook(lambda _module, _inputs, output: kept.append(output))
        positions = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if self._takes_positions else {}
        try:
            self.backbone(input_ids=input_ids, attention_mask=mask, use_cache=False, **positions)
        finally:
            handle.remove()
        return kept[0][0] if isinstance(kept[0], tuple) else kept[0]

    def _pool(self, states: Tensor, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, list[int]]:
        """Pooled states ``[B, d]``, or gated scores ``[B, K]``, in float32, and the rows whose response is empty."""
        pool = self.score.pool if isinstance(self.score, GatedScores) else _mean
        pooled, empty = [], []
        for row, (ids, keep) in enumerate(zip(input_ids, mask.bool(), strict=True)):
            own = states[row, keep].float()
            start, end = self._response(ids[keep].tolist(), row)
            if start == end:
                empty.append(row)
            pooled.append(pool(own[-1:] if self.config.pooling == "last" or start == end else own[start:end]))
        return torch.stack(pooled), empty

    def _response(self, ids: list[int], row: int) -> tuple[int, int]:
        """Start and end of the last assistant turn in the token ids."""
        opening, closing = self.config.response_start, self.config.response_end
        # White space at the start of a response may be merged into the last token of the opening.
        start = _last(ids, opening[:-1])
        if start is not None and ids[start : start + 1] == opening[-1:]:
            start += 1
        if start is None:
            raise ValueError(
                f"text {row + 1} of the batch has no assistant turn (token ids {opening}); expected a conversation in the "
                "chat template: tokenizer.apply_chat_template(messages, tokenize=False)"
            )
        n = len(closing)
        end = len(ids) - n if n and ids[-n:] == closing else len(ids)  # a truncated text has no closing
        return start, max(start, end)


def _readable(backbone: dict[str, Any]) -> dict[str, Any]:
    """A backbone's configuration as the installed transformers reads it.

    Transformers 5 writes ``rope_parameters``, which 4 ignores: it would rotate positions with its default base, and rewards
    would be wrong without a message.

    Raises:
        ValueError: they differ by kind of layer, which transformers 4 has no common name for.
    """
    rope = backbone.get("rope_parameters")
    if _TRANSFORMERS >= 5 or not rope:
        return backbone
    if any(isinstance(value, Mapping) for value in rope.values()):
        raise ValueError(
            f"got transformers {transformers.__version__}, expected 5 or later: the positions of this backbone "
            f"({backbone.get('model_type')}) are described by kind of layer; upgrade transformers"
        )
    scaling = {key: value for key, value in rope.items() if key not in ("rope_theta", "partial_rotary_factor")}
    own = {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope}
    return {**backbone, **own, "rope_scaling": None if scaling.get("rope_type", "default") == "default" else scaling}


def _mean(h: Tensor) -> Tensor:
    return h.mean(0)


def _last(ids: list[int], wanted: list[int]) -> int | None:
    """Index after the last occurrence of ``wanted``, or None."""
    n = len(wanted)
    return next((at + n for at in range(len(ids) - n, -1, -1) if n and ids[at : at + n] == wanted), None)


AutoConfig.register(SparseRMClassifierConfig.model_type, SparseRMClassifierConfig)
SparseRMClassifierConfig.register_for_auto_class()
SparseRMForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
