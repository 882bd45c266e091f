"""A head and the layers below it as one transformers model with one label, for ``AutoModelForSequenceClassification``.

This file travels with every export and is all that loading one takes: it needs torch and transformers, and nothing of SparseRM.

A reward is a sum over directions, so that all of them together are one direction: with pooled representation ``h``, alignment
scores ``s_j = <h - c, d_j>`` and reward ``sum_j w_j (s_j - mu_j) / sigma_j + b``, the weight is ``sum_j w_j d_j / sigma_j``.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class SparseRMClassifierConfig(PretrainedConfig):
    """What an exported reward model is made of.

    Attributes:
        backbone: configuration of the language model, cut above the layer that is read.
        pooling: ``mean`` over the tokens of the last assistant turn, or ``last``, the last token of the text.
        response_start, response_end: token ids with which the chat template opens and closes that turn.
        empty_reward: of a turn that says nothing.
    """

    model_type = "sparserm_classifier"
    sub_configs = {"backbone": AutoConfig}  # noqa: RUF012

    def __init__(
        self,
        backbone: Any = None,
        pooling: str = "mean",
        response_start: Sequence[int] = (),
        response_end: Sequence[int] = (),
        empty_reward: float = 0.0,
        **settings: Any,
    ) -> None:
        self.backbone = AutoConfig.for_model(**backbone) if isinstance(backbone, dict) else backbone
        self.pooling = pooling
        self.response_start, self.response_end = list(response_start), list(response_end)
        self.empty_reward = empty_reward
        super().__init__(**{"num_labels": 1, **settings})


class SparseRMForSequenceClassification(PreTrainedModel):
    """``logits [B, 1]`` are rewards of conversations that the tokenizer's chat template has made one text each."""

    config_class = SparseRMClassifierConfig
    base_model_prefix = "backbone"
    _keep_in_fp32_modules_strict = ["score"]  # noqa: RUF012

    def __init__(self, config: SparseRMClassifierConfig) -> None:
        super().__init__(config)
        self.backbone = AutoModel.from_config(config.backbone)
        self.score = nn.Linear(config.backbone.hidden_size, 1)
        self._takes_positions = "position_ids" in inspect.signature(self.backbone.forward).parameters
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **_: Any
    ) -> SequenceClassifierOutput:
        """Rewards of ``input_ids [B, T]``, padded on either side where ``attention_mask`` is 0.

        Raises:
            ValueError: a text holds no assistant turn, or labels are given: this model is not trained.
        """
        if labels is not None:
            raise ValueError("labels were given; expected none: this reward model is fitted by SparseRM and not trained here")
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        pooled, empty = self._pool(self._states(input_ids, mask), input_ids, mask)
        rewards = nn.functional.linear(pooled.double(), self.score.weight.double(), self.score.bias.double()).float()
        rewards[empty] = self.config.empty_reward
        return SequenceClassifierOutput(logits=rewards)

    def _states(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """``[B, T, d]`` what leaves the highest layer, before the final norm."""
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
        """``[B, d]`` float32, and the rows that say nothing."""
        pooled, empty = [], []
        for row, (ids, keep) in enumerate(zip(input_ids, mask.bool(), strict=True)):
            own = states[row, keep].float()
            start, end = self._response(ids[keep].tolist(), row)
            if start == end:
                empty.append(row)
            pooled.append(own[-1] if self.config.pooling == "last" or start == end else own[start:end].mean(0))
        return torch.stack(pooled), empty

    def _response(self, ids: list[int], row: int) -> tuple[int, int]:
        """Where the last assistant turn begins and ends."""
        opening, closing = self.config.response_start, self.config.response_end
        # White space with which a response begins may have been taken into the last token of the opening.
        start = _last(ids, opening[:-1])
        if start is not None and ids[start : start + 1] == opening[-1:]:
            start += 1
        if start is None:
            raise ValueError(
                f"text {row + 1} of the batch holds no assistant turn (token ids {opening}); expected a conversation in the "
                "chat template: tokenizer.apply_chat_template(messages, tokenize=False)"
            )
        n = len(closing)
        end = len(ids) - n if n and ids[-n:] == closing else len(ids)  # a text that was cut is not closed
        return start, max(start, end)


def _last(ids: list[int], wanted: list[int]) -> int | None:
    """The place behind the last occurrence of ``wanted``."""
    n = len(wanted)
    return next((at + n for at in range(len(ids) - n, -1, -1) if n and ids[at : at + n] == wanted), None)


AutoConfig.register(SparseRMClassifierConfig.model_type, SparseRMClassifierConfig)
SparseRMClassifierConfig.register_for_auto_class()
SparseRMForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
