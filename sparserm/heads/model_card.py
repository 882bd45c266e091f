"""The model card of a head: training data, test accuracy with baselines, and limitations.

A head may be imported, so no entry of its card is assumed to be present or valid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparserm.heads.held_out import HeldOut, number
from sparserm.heads.saved import HeadCard, SavedHead, head_hash

#: Names of the baselines by their key in a card's metrics; heads over random latents are saved as "random_directions".
_BASELINES = {
    "parent_accuracy": "before the edits",
    "dense_probe": "dense probe on the whole representation",
    "frequency": "features by frequency gap",
    "random_directions": "random latents",
    "shuffled_labels": "shuffled labels",
    "length_baseline": "longer-response baseline",
    "surface_features": "surface features",
}
#: The kinds of alignment scores, in words.
_SCORES = {
    "gated": "gated: a feature counts at the tokens where it fires, and is zero elsewhere",
    "projection": "projection: a feature's direction counts at every token, whether it fires or not",
}


def card_rows(saved: SavedHead) -> tuple[tuple[str, str], ...]:
    """Rows of the model card as names and values; entries missing from the card are left out."""
    card, training = saved.card, saved.card.training
    facts = [
        ("version", head_hash(saved)),
        ("backbone", f"{card.backbone} ({card.backbone_fingerprint})"),
        ("representation", f"{card.hook}, {saved.head.pooling} pooling over the response"),
        ("features", f"{len(saved.head.features)} of {card.d_sae:,} latents of SAE {card.sae} ({card.sae_fingerprint})"),
        ("scores", _SCORES[saved.head.score]),
        ("surely differ", _sure(saved)),
        ("trained on", _trained_on(training)),
        ("licence of the training data", str(training.get("licence") or "not stated")),
        ("length", _length(training)),
        ("edited", _lineage(training.get("lineage"))),
        ("accuracy", accuracy(card)),
        ("baselines", baselines(card)),
        ("typical rewards", reference_rewards(saved)),
        ("made with", ", ".join(f"{name} {version}" for name, version in card.versions.items())),
    ]
    return tuple((name, value) for name, value in facts if value)


def accuracy(card: HeadCard) -> str:
    """Test accuracy with its interval and test pairs, as text; empty where it was not measured."""
    value, n = number(card.metrics, "accuracy"), number(card.metrics, "n")
    if value is None:
        return ""
    interval = card.metrics.get("ci95")
    inside = []
    if isinstance(interval, list) and len(interval) == 2 and all(isinstance(end, (int, float)) for end in interval):
        inside.append(f"95% interval {interval[0]:.1%} to {interval[1]:.1%}")
    if n is not None:
        inside.append(f"n = {n:,.0f}")
    where = f" on {card.metrics['measured_on']}" if card.metrics.get("measured_on") else ""
    return f"{value:.1%}" + (f" ({', '.join(inside)})" if inside else "") + where


def baselines(card: HeadCard, keys: Sequence[str] = tuple(_BASELINES)) -> str:
    """Accuracies of the baselines on the same pairs, as text; empty where none were measured."""
    found = [(_BASELINES[key], number(card.metrics, key)) for key in keys]
    return ", ".join(f"{name} {value:.1%}" for name, value in found if value is not None)


def reference_rewards(saved: SavedHead) -> str:
    """Reference rewards: median and interquartile range of the rewards of chosen and of rejected responses, as text."""
    chosen, rejected = saved.quantiles_chosen, saved.quantiles_rejected
    of = saved.card.training.get("yardstick")
    return (
        f"typical chosen {chosen[50]:+.2f} (middle 50% {chosen[25]:+.2f} to {chosen[75]:+.2f}), "
        f"typical rejected {rejected[50]:+.2f} ({rejected[25]:+.2f} to {rejected[75]:+.2f}); "
        f"medians of {of or 'the training responses'}"
    )


def head_limits(saved: SavedHead) -> tuple[str, ...]:
    """Limitations of the head, one sentence or two each."""
    card, training = saved.card, saved.card.training
    licence = str(training.get("licence") or "")
    limits = [
        f"It was trained on pairs from {training.get('data') or 'a source that is not stated'}. On other kinds of prompts, in "
        "other languages or at other lengths its accuracy is unknown until you measure it there.",
        f"It reads {card.backbone} at {card.hook}; other language models are rejected: their rewards would be meaningless.",
        "It measures how similar a response is to preferred responses, not whether it is true, safe or helpful.",
        "Optimising against it (best-of-N with a large N, reinforcement learning) exploits its errors: limit how far a policy "
        "may move, and read the responses that win.",
        "A prompt that exceeds the language model's context is truncated on the left.",
    ]
    held_out = HeldOut.of_card(card)
    limits.insert(0, _wrong(held_out))
    limits += held_out.doubts if held_out else []
    if training.get("lineage") and held_out:
        limits.append("It was edited by hand on the pairs that its accuracy was measured on, so this accuracy is optimistic.")
    if "NC" in licence.replace("-", " ").split():
        limits.append(f"Its training data may not be used commercially ({licence}); the head has the same licence.")
    elif not licence:
        limits.append("The licence of its training data is not stated; the head has the same licence.")
    return tuple(limits)


def card_markdown(saved: SavedHead) -> str:
    """The model card in Markdown, to be saved with the head's files."""
    rows = "\n".join(f"| {_cell(name)} | {_cell(value)} |" for name, value in card_rows(saved))
    limits = "\n".join(f"- {_cell(limit)}" for limit in head_limits(saved))
    return f"# {_cell(saved.card.name)}\n\nA SparseRM reward head.\n\n| | |\n|---|---|\n{rows}\n\n## Limits\n\n{limits}\n"


def _wrong(held_out: HeldOut | None) -> str:
    """How many pairs the head ranks incorrectly, and how many it may; from few pairs a share says little without its range."""
    if held_out is None:
        return "It has not been evaluated on held-out pairs: its accuracy is unknown."
    of_100 = round(100 * (1 - held_out.accuracy))
    if held_out.ci95 is None:
        return f"It ranks about {of_100} of 100 test pairs incorrectly."
    least, most = (round(100 * (1 - end)) for end in reversed(held_out.ci95))
    if held_out.accuracy == 1 and held_out.n:
        return (
            f"It ranks all {held_out.n:,} test pairs as labelled, which are too few to say that it is always right: of 100 "
            f"others up to {most} may be ranked incorrectly (95% interval)."
        )
    return f"It ranks about {of_100} of 100 test pairs incorrectly (95% interval: {least} to {most})."


def _trained_on(training: Mapping[str, Any]) -> str:
    counts = [(number(training, f"n_{what}"), what) for what in ("pairs", "prompts")]
    size = " of ".join(f"{count:,.0f} {what}" for count, what in counts if count is not None)
    return ": ".join(part for part in (str(training.get("data") or ""), size) if part)


def _sure(saved: SavedHead) -> str:
    if saved.n_sure is None:
        return ""
    return f"{saved.n_sure:,} of {len(saved.head.features)} features, between chosen and rejected training responses"


def _length(training: Mapping[str, Any]) -> str:
    settings = training.get("settings")
    avoided = isinstance(settings, dict) and settings.get("avoid_length") is True
    return "fitted on the training pairs so that margins do not follow response length" if avoided else ""


def _lineage(lineage: Any) -> str:
    """The edits as text, e.g. ``from truthfulness (8fbeab5f): 754 off, 814 flipped, 9 × 0.5``."""
    if not isinstance(lineage, dict) or not isinstance(lineage.get("edits"), dict):
        return ""
    words: dict[float, str] = {0: "off", -1: "flipped"}
    edits = [
        f"{feature} {words.get(factor) or f'× {factor:g}'}"
        for feature, factor in lineage["edits"].items()
        if isinstance(factor, (int, float))
    ]
    return f"from {lineage.get('parent')} ({lineage.get('parent_hash')}): {', '.join(edits)}"


def _cell(text: str) -> str:
    """Untrusted text on one line, with the characters escaped that Markdown or HTML would interpret."""
    for sign in "\\`*_[]<>|#":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
