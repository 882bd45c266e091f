"""Scores and explains a response for the Score page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparserm.explain.contributions import Explanation, InspectedInput
from sparserm.pairs.messages import holds_thinking, turn_mark
from sparserm.types import Progress, Prompt, SparseRMError
from sparserm.ui.shared.context import Context

if TYPE_CHECKING:
    from sparserm.sae.autoencoder import SparseAutoencoder

#: Said beside a reward of a response whose thinking was left out.
THINKING = "The thinking at the beginning of the response is left out: only what it says to the user is scored."


def left_out(responses: Sequence[str]) -> list[str]:
    """What is said beside the rewards of responses of which a part is not scored."""
    marks = dict.fromkeys(filter(None, map(turn_mark, responses)))
    thinking = [THINKING] if any(map(holds_thinking, responses)) else []
    return [*thinking, *(f"The mark `{mark}` of a turn is left out of the response." for mark in marks)]


@dataclass(frozen=True)
class ScoreRequest:
    """A prompt and response to score, and the head, with its version, to score them with."""

    head: str
    hash: str
    prompt: Prompt
    response: str


@dataclass(frozen=True)
class ScoredResponse:
    """A request with its result.

    Attributes:
        beats: win probabilities vs. a typical chosen and a typical rejected response.
        percentile: share of the head's training responses with a lower reward.
        inspected: the tokens that the language model received.
    """

    request: ScoreRequest
    explanation: Explanation
    beats: tuple[float, float]
    percentile: float
    inspected: InspectedInput


def score(context: Context, request: ScoreRequest, progress: Progress) -> ScoredResponse:
    """Score and explain a response; ``progress`` reports the download of the language model on first use.

    Raises:
        SparseRMError: the backbone is not available or does not match the head, or the text cannot be scored.
    """
    model = context.model(progress)
    explanation = model.explain(request.prompt, request.response, sae=sae_to_explain(context))
    return ScoredResponse(
        request,
        explanation,
        model.chance_to_beat(explanation.reward),
        model.percentile(explanation.reward),
        model.inspect(request.prompt, request.response),
    )


def sae_to_explain(context: Context) -> SparseAutoencoder | None:
    """The SAE that tells where the features of a projection head fire.

    None for a gated head, which tells so itself, and where the SAE is not available: then it is not known where they fire.
    """
    if context.saved.head.score == "gated":
        return None
    try:
        return context.sae()
    except SparseRMError:
        return None
