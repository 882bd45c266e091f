"""Heads in TRL: a reward function for GRPO and RLOO, and datasets for DPO and SFT from samples that a head has ranked.

Training needs the extra ``trl`` (``pip install "sparserm[trl]"``); what is here runs without it. Prompts and completions are
plain texts or messages, as in TRL's standard and conversational formats, and datasets come in the form that was given. The
head always reads a text as a conversation, in its own backbone's chat template.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparserm.model import SparseRM
from sparserm.pairs.candidates import Candidates, CandidateSet
from sparserm.pairs.messages import as_completion, as_prompt
from sparserm.policy.judges import head_contributions
from sparserm.scoring.best_of_n import RankedSet, apart, rank
from sparserm.types import SparseRMError, Text

if TYPE_CHECKING:
    from datasets import Dataset


class SparseRMReward:
    """A head as reward function of ``GRPOTrainer`` and ``RLOOTrainer``: ``reward_funcs=SparseRMReward("safety")``.

    Beside the rewards each feature's mean contribution is logged under ``sparserm_NAME/FEATURE LABEL``: which features the
    policy climbs. What it reads is not stored, since a policy seldom says the same twice.

    Args:
        head: a reward model, a folder, or the name of a head.

    Raises:
        SparseRMError: there is no such head.
    """

    def __init__(self, head: SparseRM | str | Path) -> None:
        self.model = _load(head)
        card, labels = self.model.card, self.model.labels
        self.__name__ = f"sparserm_{card.name}"  # what TRL logs the rewards under
        features = self.model.head.features.tolist()
        self._metrics = [f"{self.__name__}/{feature} {labels.get(feature, '')}".rstrip() for feature in features]

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float]:
        """One reward for each completion; an empty one, which a policy can give, gets the least of the training responses.

        Args:
            log_metric: takes a name and a value; TRL gives it.
            columns: whatever else TRL gives; not read.

        Raises:
            SparseRMError: a prompt or a completion is in neither of TRL's formats.
        """
        texts = [Text(as_prompt(p), as_completion(c)) for p, c in zip(prompts, completions, strict=True)]
        said = [i for i, text in enumerate(texts) if text.response.strip()]
        rewards = np.full(len(texts), self.model.saved.least_reward)
        if said:
            parts = head_contributions(self.model, [texts[i] for i in said])
            rewards[said] = parts.sum(1) + self.model.head.bias
            if log_metric:
                for name, value in zip(self._metrics, parts.mean(0), strict=True):
                    log_metric(name, float(value))
        return rewards.tolist()


def preference_dataset(
    head: SparseRM | str | Path, prompts: Sequence[Any], samples: Sequence[Sequence[Any]], *, min_margin: float = 0.0
) -> Dataset:
    """For ``DPOTrainer``: the best sample of each prompt as chosen against the worst as rejected.

    Args:
        samples: for each prompt its responses.
        min_margin: prompts whose best is ahead of the worst by less give no row.

    Returns:
        Columns ``prompt, chosen, rejected, score_chosen, score_rejected``.

    Raises:
        SparseRMError: a text cannot be scored, or no prompt gives a row.
    """
    ranked = apart(_ranked(head, prompts, samples), min_margin)
    if not ranked:
        raise SparseRMError(
            f"of {len(prompts)} prompts none has two samples whose rewards differ by {min_margin:g} or more; expected one at "
            "least; sample more, or warmer, or ask for a smaller margin"
        )
    return _dataset(
        prompts,
        ranked,
        {
            "chosen": [one.candidates.responses[one.best] for one in ranked],
            "rejected": [one.candidates.responses[one.worst] for one in ranked],
        },
        {
            "score_chosen": [one.rewards[one.best] for one in ranked],
            "score_rejected": [one.rewards[one.worst] for one in ranked],
        },
    )


def best_of_n_dataset(head: SparseRM | str | Path, prompts: Sequence[Any], samples: Sequence[Sequence[Any]]) -> Dataset:
    """For ``SFTTrainer``: each prompt that has a sample with text, and the best of them; columns ``prompt, completion, score``.

    Args:
        samples: for each prompt its responses.

    Raises:
        SparseRMError: a text cannot be scored.
    """
    ranked = _ranked(head, prompts, samples)
    return _dataset(
        prompts,
        ranked,
        {"completion": [one.candidates.responses[one.best] for one in ranked]},
        {"score": [one.rewards[one.best] for one in ranked]},
    )


def _load(head: SparseRM | str | Path) -> SparseRM:
    return head if isinstance(head, SparseRM) else SparseRM.from_pretrained(head)


def _ranked(head: SparseRM | str | Path, prompts: Sequence[Any], samples: Sequence[Sequence[Any]]) -> tuple[RankedSet, ...]:
    """The samples of every prompt with their rewards; a set's ``rows`` tell the number of its prompt."""
    if len(prompts) != len(samples) or not all(samples):
        raise SparseRMError(
            f"got {len(prompts)} prompts and {len(samples)} lists of samples, {sum(not own for own in samples)} of them empty; "
            "expected for each prompt one list with one sample at least"
        )
    if len({isinstance(prompt, str) for prompt in prompts}) > 1:
        raise SparseRMError("some prompts are texts and some are messages; expected all in one form, as a dataset has them")
    sets = []
    for number, (prompt, own) in enumerate(zip(prompts, samples, strict=True), 1):
        said = [text for text in map(as_completion, own) if text.strip()]
        if said:
            sets.append(CandidateSet(as_prompt(prompt), tuple(said), (number,) * len(said)))
    return rank(_load(head), Candidates("samples", tuple(sets)))


def _dataset(
    prompts: Sequence[Any], ranked: Sequence[RankedSet], texts: dict[str, list[str]], values: dict[str, list[float]]
) -> Dataset:
    """Columns in the form that the prompts were given in."""
    from datasets import Dataset

    as_given = [prompts[one.candidates.rows[0] - 1] for one in ranked]
    columns: dict[str, list[Any]] = {"prompt": as_given, **texts}
    if as_given and not isinstance(as_given[0], str):
        columns |= {name: [[{"role": "assistant", "content": text}] for text in own] for name, own in texts.items()}
    return Dataset.from_dict({**columns, **values})
