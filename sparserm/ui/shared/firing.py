"""Whether and where features fire in a response, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparserm.explain.contributions import Contribution, Explanation, FeatureDifference
from sparserm.explain.families import FamilyContribution, takes_part

#: Words named at most of those at which a feature fires.
WORDS = 4


@dataclass(frozen=True)
class Firing:
    """Where a feature fires in a response.

    Attributes:
        short: a few words, e.g. ``fires on: no · I · have``; empty if unknown.
        sentence: the same as a sentence, with the largest activation.
        words: the words at which it fires, the strongest first.
    """

    short: str = ""
    sentence: str = ""
    words: tuple[str, ...] = ()


def firing_of(explanation: Explanation, parts: Sequence[Contribution], pooling: str) -> Firing:
    """Where one feature or several fire; heads with last pooling read the end of the response only."""
    if any(part.fires is None for part in parts):
        return Firing()
    words = tuple(dict.fromkeys(word for part in parts for word in firing_words(explanation, part.feature)))
    here = "in this text" if pooling == "mean" else "at the end of the response"
    if not any(part.fires for part in parts):
        more = "; the projection is never zero" if any(part.contribution for part in parts) else ""
        return Firing(f"silent {here}", f"Silent {here}{more}.", words)
    fires = "Fires" if len(parts) == 1 else "They fire"
    if pooling == "last":
        return Firing("at the end", f"{fires} at the end of the response, where this head reads it.", words)
    shown = " · ".join(words[:WORDS])
    upto = f"; activation up to {parts[0].activation or 0:.3g}" if len(parts) == 1 else ""
    return Firing(f"fires on: {shown}", f"{fires} at {shown}{upto}.", words)


def firing_words(explanation: Explanation, feature: int) -> tuple[str, ...]:
    """The words of the response at which a feature fires, the strongest first."""
    if explanation.token_activations is None:
        return ()
    from sparserm.features.firing import describe_firings  # imports torch, which the first page does without

    own = explanation.token_activations[:, explanation.features.tolist().index(feature)]
    found = describe_firings([(0, explanation.tokens, own)]) if own.any() else None
    return tuple(word if word[:1].isalnum() else f"“{word}”" for word, _ in found.words) if found else ()


def difference_firing(parts: Sequence[FeatureDifference]) -> str:
    """In which of two responses one feature or any of several fires; empty if unknown."""
    if any(part.fires_a is None or part.fires_b is None for part in parts):
        return ""
    in_a, in_b = any(part.fires_a for part in parts), any(part.fires_b for part in parts)
    if in_a and in_b:
        return "fires in both"
    return "fires in A" if in_a else "fires in B" if in_b else "silent in both"


def family_line(family: FamilyContribution[Contribution] | FamilyContribution[FeatureDifference]) -> str:
    """How many features stand behind a bar besides the one that names it; empty for a feature on its own."""
    others = len(family.members) - 1
    return f"+ {others} that fire{'s' * (others == 1)} with it" if others else ""


def silent_line(parts: Sequence[Contribution]) -> str:
    """How many features are silent in the response, and what that means for their bars; empty if none are, or unknown."""
    quiet = sum(not takes_part(part) for part in parts)
    if quiet:
        more = "" if quiet == len(parts) else "more "
        return (
            f"{quiet} {more}feature{'s' * (quiet > 1)} {'do' if quiet > 1 else 'does'} not fire here and "
            f"contribute{'s' * (quiet == 1)} nothing."
        )
    silent = sum(part.fires is False for part in parts)
    if not silent:
        return ""
    return (
        f"{silent} of {len(parts)} features {'are' if silent > 1 else 'is'} silent in this text. This head counts the "
        "projection, which is never zero: such a bar does not mean that the text has what the label says."
    )


def silent_in_both_line(parts: Sequence[FeatureDifference]) -> str:
    """The same for two responses."""
    quiet = sum(not takes_part(part) for part in parts)
    if quiet:
        return (
            f"{quiet} more feature{'s' * (quiet > 1)} {'fire' if quiet > 1 else 'fires'} in neither response and "
            f"contribute{'s' * (quiet == 1)} nothing."
        )
    silent = sum(part.fires_a is False and part.fires_b is False for part in parts)
    if not silent:
        return ""
    return (
        f"{silent} of {len(parts)} features are silent in both responses. This head counts the projection, which is never zero."
    )
