"""What a latent is called: by the user, else by the head, else by an automatic label that says what it is worth.

The user's labels and the automatic ones lie in one file each for every SAE; every view uses them. Automatic labels of the
shipped heads' features are shipped too, and those made on this machine go before them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from sparserm.heads.saved import HeadCard
from sparserm.support.defaults import assets_dir, home
from sparserm.support.files import write_json
from sparserm.types import SparseRMError


@dataclass(frozen=True)
class Detection:
    """How well a rule tells texts in which a latent fires strongly from texts in which it does not; chance is one half.

    Attributes:
        accuracy: balanced accuracy; as many texts are active as inactive.
        ci95: percentile bootstrap over prompts.
        auroc: of the rule's score, wherever the line is drawn.
        n, n_prompts: texts judged, none of which the rule was found on, and their prompts.
    """

    accuracy: float
    ci95: tuple[float, float]
    auroc: float
    n: int
    n_prompts: int

    def __str__(self) -> str:
        return f"{self.accuracy:.2f} ({self.ci95[0]:.2f} to {self.ci95[1]:.2f})"


@dataclass(frozen=True)
class AutoLabel:
    """A label that nobody wrote, or why there is none, with what it was made from.

    Attributes:
        text: the label; None where the evidence is too thin.
        reason: why there is none, empty where there is one.
        source: ``rule``, or the name of the model that was asked.
        data, data_hash: the pairs' name and content hash.
        n_firing, n_texts: in how many of the different responses the latent fires.
        terms: what the rule found; a text that has one of them is called active.
        promoted: those of the terms that the latent's direction also promotes (logit lens).
        detection: of the label, where it came to that.
        examples: of the latent's top examples: a text is called active where it is more like them than like others.
        prompt: what the model was asked, empty for the rule.
    """

    text: str | None
    reason: str
    source: str
    data: str
    data_hash: str
    n_firing: int
    n_texts: int
    terms: tuple[str, ...] = ()
    promoted: tuple[str, ...] = ()
    detection: Detection | None = None
    examples: Detection | None = None
    prompt: str = ""

    @property
    def shown(self) -> str:
        """E.g. ``negations (auto 0.89)``, or ``unlabelled: fires in 3 of 1,200 responses``."""
        if self.text is None or self.detection is None:
            return f"unlabelled: {self.reason}"
        return f"{self.text} (auto {self.detection.accuracy:.2f})"


MAX_LENGTH = 120
_FINGERPRINT = re.compile("[0-9a-zA-Z]+")


def user_labels(sae_fingerprint: str) -> dict[int, str]:
    """The user's labels of an SAE's latents; none for what is no fingerprint, as a head from elsewhere may bring along.

    Raises:
        SparseRMError: the file cannot be read; it is left as it is.
    """
    if not _FINGERPRINT.fullmatch(sae_fingerprint):
        return {}
    path = _path(sae_fingerprint)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SparseRMError(f"the labels in {path} cannot be read ({error}); mend the file or move it away") from error
    if not isinstance(value, dict) or not all(key.isdigit() and isinstance(label, str) for key, label in value.items()):
        raise SparseRMError(f"the labels in {path} are not texts by feature number; mend the file or move it away")
    return {int(feature): label for feature, label in value.items()}


def save_label(sae_fingerprint: str, feature: int, label: str) -> None:
    """Call a latent ``label``, in one line; an empty one takes the user's label away.

    Safe with several processes; a file that was interrupted while it was written is the one from before.

    Raises:
        SparseRMError: the label is too long, or the file cannot be read.
    """
    text = " ".join(label.split())
    if len(text) > MAX_LENGTH:
        raise SparseRMError(f"the label has {len(text)} characters, expected at most {MAX_LENGTH}; shorten it")
    path = _path(sae_fingerprint)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        labels = user_labels(sae_fingerprint)
        labels.pop(feature, None)
        if text:
            labels[feature] = text
        _write(path, labels)


def auto_labels(sae_fingerprint: str) -> dict[int, AutoLabel]:
    """The automatic labels of an SAE's latents, with those that came to none; nothing where the file is damaged, since they
    can be made again."""
    if not _FINGERPRINT.fullmatch(sae_fingerprint):
        return {}
    return {**read_auto_labels(shipped_labels(sae_fingerprint)), **read_auto_labels(_auto_path(sae_fingerprint))}


def shipped_labels(sae_fingerprint: str) -> Path:
    """The file of the automatic labels that are shipped for an SAE (``python -m benchmarks.labels``)."""
    return assets_dir() / "labels" / f"{sae_fingerprint}.auto.json"


def read_auto_labels(path: Path) -> dict[int, AutoLabel]:
    """What :func:`write_auto_labels` wrote; nothing where there is no such file, or a damaged one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return {int(feature): _read_auto(one) for feature, one in value.items()}
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return {}


def write_auto_labels(path: Path, labels: Mapping[int, AutoLabel]) -> None:
    """All of them, by feature."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, {feature: asdict(one) for feature, one in labels.items()})


def save_auto_label(sae_fingerprint: str, feature: int, label: AutoLabel) -> None:
    """Keep an automatic label, or that there is none, in place of the one from before.

    Raises:
        SparseRMError: the fingerprint is none.
    """
    path = _auto_path(sae_fingerprint)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        write_auto_labels(path, {**read_auto_labels(path), feature: label})


def given_labels(card: HeadCard) -> Mapping[int, str]:
    """The labels that somebody gave: the head's own, and over them the user's for its SAE.

    A file that cannot be read costs its labels and nothing else; the page on which they are given says what is wrong.
    """
    try:
        return {**card.labels, **user_labels(card.sae_fingerprint)}
    except SparseRMError:
        return card.labels


def labels_of(card: HeadCard) -> Mapping[int, str]:
    """The labels to show for a head: those that somebody gave, and automatic ones, marked as such, for the other features."""
    automatic = {feature: one.shown for feature, one in auto_labels(card.sae_fingerprint).items() if one.text is not None}
    return {**automatic, **given_labels(card)}


def _read_auto(value: dict[str, Any]) -> AutoLabel:
    scores = {name: value[name] and _read_detection(value[name]) for name in ("detection", "examples")}
    return AutoLabel(**{**value, **scores, "terms": tuple(value["terms"]), "promoted": tuple(value["promoted"])})


def _read_detection(value: dict[str, Any]) -> Detection:
    low, high = value["ci95"]
    return Detection(**{**value, "ci95": (float(low), float(high))})


def _write(path: Path, labels: Mapping[int, object]) -> None:
    write_json(path, {str(feature): labels[feature] for feature in sorted(labels)})


def _auto_path(sae_fingerprint: str) -> Path:
    return _path(sae_fingerprint).with_suffix(".auto.json")


def _path(sae_fingerprint: str) -> Path:
    if not _FINGERPRINT.fullmatch(sae_fingerprint):
        raise SparseRMError(f"{sae_fingerprint!r} is no fingerprint of an SAE; expected letters and digits")
    return home() / "labels" / f"{sae_fingerprint}.json"
