"""Best of N: rank many candidates for each prompt with a head, and export the ranking for training.

The candidates are sampled elsewhere and read from a file. Exports are the ranking, the best candidate of each prompt, and
preference pairs of the best against the worst candidate of each prompt.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit

from sparserm.heads.reward import rewards
from sparserm.pairs.candidates import Candidates, CandidateSet
from sparserm.pairs.messages import as_response, prompt_value, trl_row
from sparserm.representations.store import stored
from sparserm.types import Progress, Text

if TYPE_CHECKING:
    from sparserm.model import SparseRM


@dataclass(frozen=True)
class RankedSet:
    """The candidates of one prompt with their rewards.

    Attributes:
        ranking: indices of the candidates, best first.
        n_truncated: for each candidate, tokens cut from the left of the prompt; empty if unknown.
    """

    candidates: CandidateSet
    rewards: tuple[float, ...]
    ranking: tuple[int, ...]
    n_truncated: tuple[int, ...] = ()

    @property
    def best(self) -> int:
        """Index of the best candidate."""
        return self.ranking[0]

    @property
    def worst(self) -> int:
        """Index of the worst candidate."""
        return self.ranking[-1]

    @property
    def spread(self) -> float:
        """Reward of the best minus that of the worst."""
        return self.rewards[self.best] - self.rewards[self.worst]

    @property
    def p_best_beats_next(self) -> float | None:
        """Bradley-Terry win probability of the best vs. the second best; None if there is only one candidate."""
        if len(self.ranking) < 2:
            return None
        return float(expit(self.rewards[self.best] - self.rewards[self.ranking[1]]))


def rank(model: SparseRM, candidates: Candidates, *, progress: Progress | None = None) -> tuple[RankedSet, ...]:
    """Score all candidates in one pass and rank those of each prompt; ties keep their order.

    Raises:
        SparseRMError: a text cannot be scored.
    """
    found = model.represent_texts(_texts(candidates), progress)
    return rank_by(candidates, rewards(model.head, found), found.n_truncated)


def _texts(candidates: Candidates) -> list[Text]:
    return [Text(one.prompt, as_response(response)) for one in candidates.sets for response in one.responses]


def count_missing_tokens(model: SparseRM, candidates: Candidates) -> int:
    """Number of tokens that :func:`rank` would have to run the backbone on; the rest is in the store."""
    from sparserm.representations.represent import count_missing

    with stored() as store:
        return count_missing(_texts(candidates), model.backbone, model.saved.saes, model.head.pooling, store)[1]


def rank_by(candidates: Candidates, rewards: np.ndarray, n_truncated: np.ndarray | None = None) -> tuple[RankedSet, ...]:
    """Rank the candidates of each prompt by ``rewards [n]``, given prompt by prompt, as ``n_truncated [n]``."""
    ranked, start = [], 0
    for one in candidates.sets:
        here = slice(start, start := start + len(one.responses))
        own, cut = rewards[here], () if n_truncated is None else n_truncated[here]
        ranking = tuple(int(i) for i in np.argsort(-own, kind="stable"))
        ranked.append(RankedSet(one, tuple(map(float, own)), ranking, tuple(map(int, cut))))
    return tuple(ranked)


def count_truncated(ranked: Iterable[RankedSet]) -> int:
    """Number of candidates whose text exceeds the backbone's context."""
    return sum(cut > 0 for one in ranked for cut in one.n_truncated)


def ranking_rows(ranked: Iterable[RankedSet]) -> list[dict[str, Any]]:
    """Rows of the exported ranking: one per candidate, best first within each prompt.

    ``beats_best`` is the Bradley-Terry win probability vs. the prompt's best candidate; 0.5 for the best itself.
    """
    return [
        {
            "prompt_number": number,
            "prompt": prompt_value(one.candidates.prompt),
            "rank": position,
            "response": one.candidates.responses[i],
            "reward": one.rewards[i],
            "beats_best": float(expit(one.rewards[i] - one.rewards[one.best])),
            "row": one.candidates.rows[i],
        }
        for number, one in enumerate(ranked, 1)
        for position, i in enumerate(one.ranking, 1)
    ]


def best_rows(ranked: Iterable[RankedSet]) -> list[dict[str, Any]]:
    """One row per prompt: its best candidate, the win probability vs. the second best, and the reward margin to the worst."""
    return [
        {
            "prompt_number": number,
            "prompt": prompt_value(one.candidates.prompt),
            "n": len(one.rewards),
            "best": one.candidates.responses[one.best],
            "beats_next": one.p_best_beats_next,
            "spread": one.spread,
            "reward": one.rewards[one.best],
        }
        for number, one in enumerate(ranked, 1)
    ]


def apart(ranked: Iterable[RankedSet], min_margin: float) -> list[RankedSet]:
    """The prompts whose best candidate is ahead of the worst by ``min_margin`` or more; ties are dropped."""
    return [one for one in ranked if one.spread > 0 and one.spread >= min_margin]


def preference_rows(ranked: Iterable[RankedSet], min_margin: float = 0.0) -> list[dict[str, Any]]:
    """Preference pairs in TRL's format with an explicit prompt: the best candidate as chosen, the worst as rejected.

    Prompts whose best candidate is not ahead of the worst by ``min_margin`` give no pair. The rewards are in the columns
    ``score_chosen`` and ``score_rejected``, as in UltraFeedback; a column ``margin`` would enter TRL's loss.
    """
    rows = []
    for one in apart(ranked, min_margin):
        row = trl_row(one.candidates.prompt, *(one.candidates.responses[i] for i in (one.best, one.worst)))
        rows.append({**row, "score_chosen": one.rewards[one.best], "score_rejected": one.rewards[one.worst]})
    return rows
