"""Scores a response for the Score page."""

from __future__ import annotations

from dataclasses import dataclass

from sparserm.explain.contributions import Explanation, InspectedInput
from sparserm.types import Progress, Prompt
from sparserm.ui.shared.context import Context


@dataclass(frozen=True)
class ScoreRequest:
    """What is to be scored, and by which version of which head."""

    head: str
    hash: str
    prompt: Prompt
    response: str


@dataclass(frozen=True)
class ScoredResponse:
    """A request with its answer.

    Attributes:
        beats: chances against a typical chosen and a typical rejected response.
        percentile: share of the head's training responses with a lower reward.
        inspected: the tokens that the language model read.
    """

    request: ScoreRequest
    explanation: Explanation
    beats: tuple[float, float]
    percentile: float
    inspected: InspectedInput


def score(context: Context, request: ScoreRequest, progress: Progress) -> ScoredResponse:
    """Score and explain; ``progress`` is told of a first use's download.

    Raises:
        SparseRMError: the head, the backbone or the text cannot be used.
    """
    model = context.model(progress)
    explanation = model.explain(request.prompt, request.response, sae=context.sae())
    return ScoredResponse(
        request,
        explanation,
        model.chance_to_beat(explanation.reward),
        model.percentile(explanation.reward),
        model.inspect(request.prompt, request.response),
    )
