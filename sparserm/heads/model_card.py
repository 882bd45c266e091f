"""What must be said of a head wherever it goes: what it was made from, how good it was found to be, when not to trust it.

A head may come from elsewhere, so that no entry of its card is taken for granted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sparserm.heads.saved import HeadCard, SavedHead, head_hash

#: Baselines as they are called in a card, and as they are shown.
_BASELINES = {
    "parent_accuracy": "before the edits",
    "dense_probe": "dense probe on the whole representation",
    "frequency": "features by frequency gap",
    "random_directions": "random directions",
    "shuffled_labels": "shuffled labels",
    "length_baseline": "picking the longer",
}


def card_rows(saved: SavedHead) -> tuple[tuple[str, str], ...]:
    """Names and values, for people; what a card does not say is left out."""
    card, training = saved.card, saved.card.training
    facts = [
        ("version", head_hash(saved)),
        ("backbone", f"{card.backbone} ({card.backbone_fingerprint})"),
        ("read at", f"{card.hook}, {saved.head.pooling} pooling over the response"),
        ("features", f"{len(saved.head.features)} of {card.d_sae:,} latents of SAE {card.sae} ({card.sae_fingerprint})"),
        ("trained on", _trained_on(training)),
        ("licence of the training data", str(training.get("licence") or "not stated")),
        ("length", _length(training)),
        ("edited", _lineage(training.get("lineage"))),
        ("accuracy", accuracy(card)),
        ("beside it", baselines(card)),
        ("typical rewards", reference_rewards(saved)),
        ("made with", ", ".join(f"{name} {version}" for name, version in card.versions.items())),
    ]
    return tuple((name, value) for name, value in facts if value)


def accuracy(card: HeadCard) -> str:
    """Test accuracy with its interval and what it is of; empty where it was not measured."""
    value, n = _number(card.metrics, "accuracy"), _number(card.metrics, "n")
    if value is None:
        return ""
    interval = card.metrics.get("ci95")
    inside = []
    if isinstance(interval, list) and len(interval) == 2 and all(isinstance(end, (int, float)) for end in interval):
        inside.append(f"95 % interval {interval[0]:.1%} to {interval[1]:.1%}")
    if n is not None:
        inside.append(f"n = {n:,.0f}")
    where = f" on {card.metrics['measured_on']}" if card.metrics.get("measured_on") else ""
    return f"{value:.1%}" + (f" ({', '.join(inside)})" if inside else "") + where


def baselines(card: HeadCard, keys: Sequence[str] = tuple(_BASELINES)) -> str:
    """The accuracies that stand beside a head's, measured on the same pairs; empty where there are none."""
    found = [(_BASELINES[key], _number(card.metrics, key)) for key in keys]
    return ", ".join(f"{name} {value:.1%}" for name, value in found if value is not None)


def reference_rewards(saved: SavedHead) -> str:
    """What a reward is to be held against: the medians, with the middle half, of the responses that the head knows."""
    chosen, rejected = saved.quantiles_chosen, saved.quantiles_rejected
    of = saved.card.training.get("yardstick")
    return (
        f"typical chosen {chosen[50]:+.2f} (middle half {chosen[25]:+.2f} to {chosen[75]:+.2f}), "
        f"typical rejected {rejected[50]:+.2f} ({rejected[25]:+.2f} to {rejected[75]:+.2f}); "
        f"medians of {of or 'the training responses'}"
    )


def head_limits(saved: SavedHead) -> tuple[str, ...]:
    """When not to trust this head, as sentences."""
    card, training = saved.card, saved.card.training
    value, licence = _number(card.metrics, "accuracy"), str(training.get("licence") or "")
    limits = [
        f"It was trained on pairs of {training.get('data') or 'a source that is not stated'}. On other kinds of prompts, in "
        "other languages or at other lengths its accuracy is unknown until you measure it there.",
        f"It reads {card.backbone} at {card.hook}; with another language model its rewards would mean nothing: it is refused.",
        "It measures how much a response is like those that were preferred, not whether it is true, safe or helpful.",
        "Optimising against it (a large best-of-N, reinforcement learning) finds what it over-rewards: keep a limit on how far "
        "a policy may move, and read what wins.",
        "A prompt that exceeds the language model's context is cut from the left.",
    ]
    if value is None:
        limits.insert(0, "It has not been measured on held-out pairs: nothing is known of how often it is right.")
    else:
        limits.insert(0, f"On its test pairs it ranks about {round(100 * (1 - value))} in 100 the wrong way round.")
    limits += _findings(card)
    if training.get("lineage") and value is not None:
        limits.append("It was edited by hand on the pairs that its accuracy is of, so that this figure flatters it.")
    if "NC" in licence.replace("-", " ").split():
        limits.append(f"Its training data may not be used commercially ({licence}), and it carries their licence.")
    elif not licence:
        limits.append("The licence of its training data is not stated; it carries that licence.")
    return tuple(limits)


def card_markdown(saved: SavedHead) -> str:
    """The facts and limits as a model card in Markdown, to put beside the files."""
    rows = "\n".join(f"| {_cell(name)} | {_cell(value)} |" for name, value in card_rows(saved))
    limits = "\n".join(f"- {_cell(limit)}" for limit in head_limits(saved))
    return f"# {_cell(saved.card.name)}\n\nA SparseRM reward head.\n\n| | |\n|---|---|\n{rows}\n\n## Limits\n\n{limits}\n"


def _findings(card: HeadCard) -> list[str]:
    """What its own figures warn of."""
    value, interval = _number(card.metrics, "accuracy"), card.metrics.get("ci95")
    longer, drawn = _number(card.metrics, "length_baseline"), _number(card.metrics, "random_directions")
    if value is None:
        return []
    low = interval[0] if isinstance(interval, list) and interval and isinstance(interval[0], (int, float)) else value
    found = []
    if longer is not None and low <= longer:
        found.append(f"Picking the longer response does about as well on its test pairs ({longer:.1%}).")
    elif longer is not None and longer > 0.6:
        found.append(f"In its test pairs the longer response is preferred in {longer:.0%}: some of its accuracy may be length.")
    if drawn is not None and low <= drawn:
        found.append(f"A head over random directions does about as well ({drawn:.1%}): its features explain little.")
    return found


def _trained_on(training: Mapping[str, Any]) -> str:
    counts = [(_number(training, f"n_{what}"), what) for what in ("pairs", "prompts")]
    size = " of ".join(f"{count:,.0f} {what}" for count, what in counts if count is not None)
    return ": ".join(part for part in (str(training.get("data") or ""), size) if part)


def _length(training: Mapping[str, Any]) -> str:
    settings = training.get("settings")
    avoided = isinstance(settings, dict) and settings.get("avoid_length") is True
    return "kept from following the length of responses, by the training pairs" if avoided else ""


def _lineage(lineage: Any) -> str:
    """E.g. ``from truthfulness (8fbeab5f): 754 off, 814 flipped, 9 × 0.5``."""
    if not isinstance(lineage, dict) or not isinstance(lineage.get("edits"), dict):
        return ""
    words: dict[float, str] = {0: "off", -1: "flipped"}
    edits = [
        f"{feature} {words.get(factor) or f'× {factor:g}'}"
        for feature, factor in lineage["edits"].items()
        if isinstance(factor, (int, float))
    ]
    return f"from {lineage.get('parent')} ({lineage.get('parent_hash')}): {', '.join(edits)}"


def _number(values: Mapping[str, Any], key: str) -> float | None:
    value = values.get(key)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) else None


def _cell(text: str) -> str:
    """Text of others on one line, without the signs that Markdown or HTML would act on."""
    for sign in "\\`*_[]<>|#":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
