"""Reward models that rank or judge a policy's answers: heads and fine-tuned classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sparserm.heads.reward import contributions, head_scores
from sparserm.heads.saved import head_hash, head_name
from sparserm.support.parsing import given_path
from sparserm.types import Progress, SparseRMError, Text

if TYPE_CHECKING:
    from sparserm.finetuning.reward_model import FineTunedRewardModel
    from sparserm.model import SparseRM


@dataclass(frozen=True)
class Judgement:
    """Rewards of ``n`` texts.

    Attributes:
        rewards: ``[n]`` float64, on the judge's own scale.
        contributions: ``[n, K]`` of a head's features, which with its bias add up to the rewards; None for a classifier.
    """

    rewards: np.ndarray
    contributions: np.ndarray | None = None


@dataclass(frozen=True)
class Judge:
    """A named reward model; ``fingerprint`` identifies everything that its rewards depend on."""

    name: str
    model: SparseRM | FineTunedRewardModel
    fingerprint: str

    @classmethod
    def load(cls, source: str | Path) -> Judge:
        """Load a head by folder or name, as :func:`~sparserm.heads.saved.find_head` finds it, or from a folder a sequence
        classifier with one label, as ``RewardTrainer`` saves it.

        Raises:
            SparseRMError: it is neither.
        """
        from sparserm.backbone.model import folder_fingerprint
        from sparserm.finetuning.reward_model import FineTunedRewardModel
        from sparserm.model import SparseRM

        folder = given_path(source)
        if folder.is_dir() and not (folder / "head.safetensors").is_file():
            if (folder / "adapter_config.json").is_file():
                raise SparseRMError(
                    f"{folder} holds adapters without their base model; expected a complete reward model; merge them "
                    "(merge_and_unload) and save the merged model"
                )
            if not (folder / "config.json").is_file():
                raise SparseRMError(
                    f"{folder} holds neither a head (config.json and head.safetensors) nor a reward model (config.json and "
                    "model.safetensors); give the folder of one of these, or the name of a head"
                )
            return cls(folder.resolve().name, FineTunedRewardModel.load(folder), folder_fingerprint(folder))
        try:
            name = head_name(source)
        except SparseRMError as error:
            raise SparseRMError(
                f"no reward model {str(source)!r}: {error}; or give the folder of a sequence classifier"
            ) from error
        model = SparseRM.from_pretrained(source)
        return cls(name, model, head_hash(model.saved))

    @property
    def features(self) -> tuple[tuple[int, str], ...]:
        """Id and label of each feature of a head; empty for a classifier."""
        from sparserm.model import SparseRM

        if not isinstance(self.model, SparseRM):
            return ()
        return tuple((int(feature), self.model.labels.get(int(feature), "")) for feature in self.model.head.features)

    def judge(self, texts: Sequence[Text], progress: Progress | None = None) -> Judgement:
        """Compute the rewards of texts; nothing is stored, since a policy rarely repeats a text.

        Raises:
            SparseRMError: a text cannot be scored.
        """
        from sparserm.model import SparseRM

        if not isinstance(self.model, SparseRM):
            return Judgement(self.model.rewards(texts, progress))
        parts = head_contributions(self.model, texts, progress)
        return Judgement(parts.sum(1) + self.model.head.bias, parts)


def head_contributions(model: SparseRM, texts: Sequence[Text], progress: Progress | None = None) -> np.ndarray:
    """``[n, K]`` contribution of each feature to each text's reward; nothing is stored.

    Raises:
        SparseRMError: a text cannot be scored.
    """
    from sparserm.representations.represent import represent

    hook = model.card.hook_point
    found = represent(texts, model.backbone, model.saved.saes, model.head.pooling, progress=progress)[hook]
    return contributions(model.head, head_scores(model.head, found))
