"""A reward model as a transformers model with one label, for ``AutoModelForSequenceClassification``.

This file is copied into every export and is all the code that loading one needs: torch and transformers, but not SparseRM.

The reward is linear in the pooled representation ``h``, so the head folds into a single direction: with alignment scores
``s_j = <h - c, d_j>`` and reward ``sum_j w_j (s_j - mu_j) / sigma_j + b``, the weight is ``sum_j w_j d_j / sigma_j``.
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
    """Configuration of an exported reward model.

    Attributes:
        backbone: configuration of the language model, cut above the layer that the head reads.
        pooling: ``mean`` over the tokens of the last assistant turn, or ``last``, the last token of the text.
        response_start, response_end: token ids with which the chat template opens and closes that turn.
        empty_reward: reward of an empty assistant turn.
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
        **settings: Any,
    ) -> None:
        self.backbone = AutoConfig.for_model(**backbone) if isinstance(backbone, dict) else backbone
        self.pooling = pooling
        self.response_start, self.response_end = list(response_start), list(response_end)
        self.empty_reward = empty_reward
        super().__init__(**{"num_labels": 1, **settings})


class SparseRMForSequenceClassification(PreTrainedModel):
    """Reward model whose ``logits [B, 1]`` are the rewards of conversations in the tokenizer's chat template."""

    config_class = SparseRMClassifierConfig
    base_model_prefix = "backbone"
    _keep_in_fp32_modules_strict = ["score"]

    def __init__(self, config: SparseRMClassifierConfig) -> None:
        super().__init__(config)
        self.backbone = AutoModel.from_config(config.backbone)
        self.score = nn.Linear(config.backbone.hidden_size, 1)
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
        """``[B, d]`` float32 pooled states, and the rows whose response is empty."""
        pooled, empty = [], []
        for row, (ids, keep) in enumerate(zip(input_ids, mask.bool(), strict=True)):
            own = states[row, keep].float()
            start, end = self._response(ids[keep].tolist(), row)
            if start == end:
                empty.append(row)
            pooled.append(own[-1] if self.config.pooling == "last" or start == end else own[start:end].mean(0))
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


def _last(ids: list[int], wanted: list[int]) -> int | None:
    """Index after the last occurrence of ``wanted``, or None."""
    n = len(wanted)
    return next((at + n for at in range(len(ids) - n, -1, -1) if n and ids[at : at + n] == wanted), None)


AutoConfig.register(SparseRMClassifierConfig.model_type, SparseRMClassifierConfig)
SparseRMClassifierConfig.register_for_auto_class()
SparseRMForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
