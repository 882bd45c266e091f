"""TRL integration: a reward function for GRPO and RLOO, and datasets for DPO and SFT from samples ranked by a head.

Training needs the extra ``trl`` (``pip install "sparserm[trl]"``); this module runs without it. Prompts and completions are
plain texts or messages (TRL's standard and conversational formats), and datasets are returned in the same format. The head
always reads a text as a conversation, in the chat template of its own backbone.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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

_log = logging.getLogger("sparserm.trl")


class SparseRMReward:
    """Reward function for ``GRPOTrainer`` and ``RLOOTrainer``: ``reward_funcs=SparseRMReward("safety")``.

    In a rollout with tools the last answer is scored, as a response to the prompt. A rollout that ends before an answer, with
    a call of a tool or with what it returned, gets None, which TRL leaves out; a warning says why.

    It also logs the mean contribution of each feature under ``sparserm_NAME/FEATURE LABEL``, which shows the features that
    the policy optimises. Representations are not stored, since completions seldom repeat.

    Args:
        head: a reward model, a folder, or the name of a head.

    Raises:
        SparseRMError: the head does not exist.
    """

    def __init__(self, head: SparseRM | str | Path) -> None:
        self.model = _load(head)
        card, labels = self.model.card, self.model.labels
        self.__name__ = f"sparserm_{card.name}"  # the name under which TRL logs the rewards
        features = self.model.head.features.tolist()
        self._metrics = [f"{self.__name__}/{feature} {labels.get(feature, '')}".rstrip() for feature in features]

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One reward per completion: for an empty one the lowest reward among the training responses, for one without an
        answer None.

        Args:
            log_metric: ``log_metric(name, value)``, passed by TRL.
            columns: other columns that TRL passes; ignored.

        Raises:
            SparseRMError: a prompt or a completion is in neither of TRL's formats.
        """
        endings = [_unanswered(completion) for completion in completions]
        answered = [i for i, ending in enumerate(endings) if ending is None]
        if len(answered) < len(endings):
            reasons = ", ".join(f"{n} with {ending}" for ending, n in Counter(filter(None, endings)).items())
            _log.warning(
                "%d of %d rollouts end before an answer (%s) and get no reward; allow longer completions or more calls",
                len(endings) - len(answered),
                len(endings),
                reasons,
            )
        found = dict(zip(answered, self._scored([(prompts[i], completions[i]) for i in answered], log_metric), strict=True))
        return [found.get(i) for i in range(len(endings))]

    def _scored(self, rollouts: Sequence[tuple[Any, Any]], log_metric: Callable[[str, float], None] | None) -> list[float]:
        """Rewards of pairs of a prompt and a completion that ends with an answer."""
        texts = [Text(as_prompt(prompt), as_completion(_last_answer(completion))) for prompt, completion in rollouts]
        nonempty = [i for i, text in enumerate(texts) if text.response.strip()]
        rewards = np.full(len(texts), self.model.saved.least_reward)
        if nonempty:
            parts = head_contributions(self.model, [texts[i] for i in nonempty])
            rewards[nonempty] = parts.sum(1) + self.model.head.bias
            if log_metric:
                for name, value in zip(self._metrics, parts.mean(0), strict=True):
                    log_metric(name, float(value))
        return rewards.tolist()


def _unanswered(completion: Any) -> str | None:
    """What a rollout with tools ends with instead of an answer; None if it ends with an answer, or has no tools."""
    last = completion[-1] if isinstance(completion, Sequence) and len(completion) and not isinstance(completion, str) else None
    if not isinstance(last, Mapping):
        return None
    if last.get("role") == "tool":
        return "what a tool returned"
    return "a call of a tool" if last.get("role") == "assistant" and last.get("tool_calls") else None


def _last_answer(completion: Any) -> Any:
    """The last message of a rollout whose other messages are calls of tools and what they returned; else the completion."""
    if isinstance(completion, str) or len(completion) < 2 or not all(isinstance(turn, Mapping) for turn in completion):
        return completion
    tools_only = all(turn.get("role") == "tool" or turn.get("tool_calls") for turn in completion[:-1])
    return completion[-1:] if tools_only else completion


def preference_dataset(
    head: SparseRM | str | Path, prompts: Sequence[Any], samples: Sequence[Sequence[Any]], *, min_margin: float = 0.0
) -> Dataset:
    """Dataset for ``DPOTrainer``: the best sample of each prompt as chosen, the worst as rejected.

    Args:
        samples: the responses to each prompt.
        min_margin: minimum reward margin between best and worst; other prompts give no row.

    Returns:
        Columns ``prompt, chosen, rejected, score_chosen, score_rejected``.

    Raises:
        SparseRMError: a text cannot be scored, or no prompt has a sufficient margin.
    """
    ranked = apart(_ranked(head, prompts, samples), min_margin)
    if not ranked:
        raise SparseRMError(
            f"none of {len(prompts)} prompts has two samples whose rewards differ by {min_margin:g} or more; expected at least "
            "one; draw more samples, raise the sampling temperature, or lower min_margin"
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
    """Dataset for ``SFTTrainer``: the best sample of each prompt; prompts with only empty samples are left out.

    Args:
        samples: the responses to each prompt.

    Returns:
        Columns ``prompt, completion, score``.

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
    """Rank the samples of every prompt; ``rows`` of a set hold the 1-based number of its prompt."""
    if len(prompts) != len(samples) or not all(samples):
        raise SparseRMError(
            f"got {len(prompts)} prompts and {len(samples)} lists of samples, {sum(not own for own in samples)} of them empty; "
            "expected one non-empty list of samples per prompt"
        )
    if len({isinstance(prompt, str) for prompt in prompts}) > 1:
        raise SparseRMError("some prompts are texts and some are messages; expected all prompts in one format")
    sets = []
    for number, (prompt, own) in enumerate(zip(prompts, samples, strict=True), 1):
        nonempty = [text for text in map(as_completion, own) if text.strip()]
        if nonempty:
            sets.append(CandidateSet(as_prompt(prompt), tuple(nonempty), (number,) * len(nonempty)))
    return rank(_load(head), Candidates("samples", tuple(sets)))


def _dataset(
    prompts: Sequence[Any], ranked: Sequence[RankedSet], texts: dict[str, list[str]], values: dict[str, list[float]]
) -> Dataset:
    """Build the dataset in the format in which the prompts were given (texts or messages)."""
    from datasets import Dataset

    as_given = [prompts[one.candidates.rows[0] - 1] for one in ranked]
    columns: dict[str, list[Any]] = {"prompt": as_given, **texts}
    if as_given and not isinstance(as_given[0], str):
        columns |= {name: [[{"role": "assistant", "content": text}] for text in own] for name, own in texts.items()}
    return Dataset.from_dict({**columns, **values})
