"""Feature labels: the user's labels, a head's own labels and automatic labels with their detection scores.

A user's label takes precedence over a head's, and both over an automatic label. User labels and automatic labels are stored in
one file each per SAE. Automatic labels of the shipped heads' features are shipped. Of two automatic labels of a feature the
better one is kept (:func:`better_label`), so labelling again, or on fewer pairs, loses nothing.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from sparserm.heads.saved import HeadCard
from sparserm.support.defaults import assets_dir, home
from sparserm.support.files import make_folder, one_line, write_json
from sparserm.support.parsing import parse_json, whole_number
from sparserm.types import SparseRMError

#: Source of labels that the local rule made.
RULE = "rule"
#: Maximum length of a label in characters.
MAX_LENGTH = 120
_FINGERPRINT = re.compile("[0-9a-zA-Z]{1,64}")

#: Entry of a file of user labels, and of each automatic label, with the hash of the rest: a flipped bit would otherwise show
#: another label or score, or that of another feature.
_HASH = "sha256"


@dataclass(frozen=True)
class Detection:
    """Detection score of a rule: how well it separates texts in which a latent fires strongly from others; chance is 0.5.

    Attributes:
        accuracy: balanced accuracy; half of the texts are active.
        ci95: 95 % interval of the accuracy, percentile bootstrap over prompts.
        auroc: AUROC of the rule's score.
        n, n_prompts: number of held-out texts judged, and of their prompts.
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
    """An automatic label, or the reason why there is none, and the data it was made from.

    Attributes:
        text: the label; None where no label is reliable.
        reason: why there is no label; empty where there is one.
        source: :data:`RULE`, or the name of the language model that wrote the label.
        data, data_hash: name and content hash of the pairs.
        n_firing, n_texts: number of distinct responses in which the latent fires, and of all distinct responses.
        terms: the terms that the rule found; it predicts that the latent fires in a text that has one of them.
        promoted: the terms among these that the latent's direction also promotes (logit lens).
        detection: detection score of the label; None where none was proposed.
        examples: detection score of the latent's top examples: it is predicted to fire in texts that are more similar to them
            than to inactive texts.
        prompt: the prompt given to the language model; empty for the rule.
        evidence: the words at which the latent fires, e.g. ``fires on: doctor · ambulance``; empty in earlier versions.
        judge: who judged the label, where that is not the one that made it.
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
    evidence: str = ""
    judge: str = ""

    @property
    def shown(self) -> str:
        """The text to show, e.g. ``negations (auto 0.89)`` or ``no reliable label (fires in 3 of 1,200 responses)``."""
        if self.text is None or self.detection is None:
            return f"no reliable label ({self.reason})"
        return f"{self.text} (auto {self.detection.accuracy:.2f})"


def labels_of(card: HeadCard) -> Mapping[int, str]:
    """Labels to show for a head: those of :func:`given_labels`, and automatic ones, marked as such, for other features."""
    automatic = {feature: one.shown for feature, one in auto_labels(card.sae_fingerprint).items() if one.text is not None}
    return {**automatic, **given_labels(card.sae_fingerprint, card.labels)}


def names_of(card: HeadCard) -> Mapping[int, str]:
    """What a response with a feature does, e.g. ``denies something``: the labels of :func:`labels_of` as they were written."""
    automatic = {feature: one.text for feature, one in auto_labels(card.sae_fingerprint).items() if one.text is not None}
    return {**automatic, **given_labels(card.sae_fingerprint, card.labels)}


def detections_of(card: HeadCard) -> Mapping[int, float]:
    """Detection scores, from 0.5 (chance) to 1, of those labels of :func:`labels_of` that are automatic."""
    given = given_labels(card.sae_fingerprint, card.labels)
    return {
        feature: one.detection.accuracy
        for feature, one in auto_labels(card.sae_fingerprint).items()
        if one.text is not None and one.detection and feature not in given
    }


def named_latents(sae_fingerprint: str, d_sae: int) -> np.ndarray:
    """``[d_sae]`` bool, the latents of an SAE that have a reliable automatic label or one of the user's.

    Raises:
        SparseRMError: the user's labels cannot be read.
    """
    automatic = [feature for feature, one in auto_labels(sae_fingerprint).items() if one.text is not None]
    named = np.zeros(d_sae, bool)
    named[[feature for feature in (*automatic, *user_labels(sae_fingerprint)) if feature < d_sae]] = True
    return named


def given_labels(sae_fingerprint: str, of_head: Mapping[int, str]) -> Mapping[int, str]:
    """Labels written by people: the user's for an SAE, then those that a head brings.

    If the user's file cannot be read, only the head's labels are returned; the page that edits labels reports the error.
    """
    try:
        return {**of_head, **user_labels(sae_fingerprint)}
    except SparseRMError:
        return of_head


def user_labels(sae_fingerprint: str) -> dict[int, str]:
    """The user's labels of an SAE's latents; empty for an invalid fingerprint, which an imported head may have.

    Raises:
        SparseRMError: the file cannot be read; it is left unchanged.
    """
    if not _FINGERPRINT.fullmatch(sae_fingerprint):
        return {}
    path = _path(sae_fingerprint)
    try:
        value = parse_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SparseRMError(f"the labels in {path} cannot be read ({one_line(error)}); fix the file or move it away") from error
    recorded = value.pop(_HASH, None) if isinstance(value, dict) else None
    entries = value.items() if isinstance(value, dict) else [("", "")]
    if not all(whole_number(key) is not None and isinstance(label, str) for key, label in entries):
        raise SparseRMError(f"{path} is invalid; expected an object of label texts by feature id; fix the file or move it away")
    if recorded is not None and recorded != _hash(value):  # files written by hand or by earlier versions have none
        raise SparseRMError(
            f"the labels in {path} were damaged or changed on the disk; expected those that were saved; check the file and "
            f"remove its entry {_HASH}, or move it away"
        )
    return {int(feature): label for feature, label in value.items()}


def save_label(sae_fingerprint: str, feature: int, label: str) -> None:
    """Set the user's label of a latent, on one line; an empty label removes it.

    Safe with several processes; an interrupted write leaves the previous file.

    Raises:
        SparseRMError: the label is too long, or the file cannot be read.
    """
    text = " ".join(label.split())
    if len(text) > MAX_LENGTH:
        raise SparseRMError(f"the label has {len(text)} characters, expected at most {MAX_LENGTH}; shorten it")
    path = _path(sae_fingerprint)
    make_folder(path.parent)
    with FileLock(path.with_suffix(".lock"), mode=0o600):
        labels = user_labels(sae_fingerprint)
        labels.pop(feature, None)
        if text:
            labels[feature] = text
        entries = {str(feature): labels[feature] for feature in sorted(labels)}
        write_json(path, {**entries, _HASH: _hash(entries)})


def auto_labels(sae_fingerprint: str) -> dict[int, AutoLabel]:
    """Automatic labels of an SAE's latents by feature, including latents without a reliable label.

    A damaged file counts as empty: automatic labels can be made again.
    """
    if not _FINGERPRINT.fullmatch(sae_fingerprint):
        return {}
    shipped, own = read_auto_labels(shipped_labels(sae_fingerprint)), read_auto_labels(_auto_path(sae_fingerprint))
    return shipped | {feature: better_label(shipped.get(feature), label) for feature, label in own.items()}


def better_label(old: AutoLabel | None, new: AutoLabel) -> AutoLabel:
    """The one with a text, then the one written by a reader, then the one whose detection interval starts higher.

    A sentence says more than the rule's list of words, even where the words are the safer guess. Of two equal ones, the new.
    """

    def strength(label: AutoLabel) -> tuple[bool, bool, float]:
        return label.text is not None, label.source != RULE, label.detection.ci95[0] if label.detection else 0.0

    return new if old is None or strength(new) >= strength(old) else old


def save_auto_label(sae_fingerprint: str, feature: int, label: AutoLabel) -> AutoLabel:
    """Save the automatic label of a latent, unless there is a better one.

    Returns:
        The label that is shown from now on.

    Raises:
        SparseRMError: the fingerprint is invalid.
    """
    path = _auto_path(sae_fingerprint)
    make_folder(path.parent)
    with FileLock(path.with_suffix(".lock"), mode=0o600):
        known = read_auto_labels(path)
        write_auto_labels(path, {**known, feature: better_label(known.get(feature), label)})
    return auto_labels(sae_fingerprint)[feature]


def shipped_labels(sae_fingerprint: str) -> Path:
    """Path of the automatic labels shipped for an SAE (written by ``python -m benchmarks.labels``)."""
    return assets_dir() / "labels" / f"{sae_fingerprint}.auto.json"


def read_auto_labels(path: Path) -> dict[int, AutoLabel]:
    """Read a file of :func:`write_auto_labels`; empty where it is missing or damaged, and without entries that are damaged."""
    try:
        about = path.stat()
        return dict(_read_version(path, (about.st_ino, about.st_mtime_ns, about.st_size)))
    except OSError:
        return {}


@functools.lru_cache(maxsize=32)
def _read_version(path: Path, version: tuple[int, ...]) -> Mapping[int, AutoLabel]:
    """One version of a file, parsed once: a server reads the labels for every request."""
    try:
        value = parse_json(path.read_bytes())
    except ValueError:
        return {}
    found = {}
    for key, one in value.items() if isinstance(value, dict) else ():
        with suppress(ValueError, TypeError, AttributeError, KeyError):
            found[int(key)] = _read_auto(key, one)
    return found


def write_auto_labels(path: Path, labels: Mapping[int, AutoLabel]) -> None:
    """Write automatic labels by feature."""
    make_folder(path.parent)
    entries = {str(feature): json.loads(json.dumps(asdict(labels[feature]))) for feature in sorted(labels)}
    write_json(path, {feature: {**entry, _HASH: _hash({feature: entry})} for feature, entry in entries.items()})


def _read_auto(feature: str, value: dict[str, Any]) -> AutoLabel:
    if value.pop(_HASH, None) not in (None, _hash({feature: value})):  # labels of earlier versions have none
        raise ValueError("damaged")
    scores = {name: value[name] and _read_detection(value[name]) for name in ("detection", "examples")}
    label = AutoLabel(**{**value, **scores, "terms": tuple(value["terms"]), "promoted": tuple(value["promoted"])})
    texts = (
        label.text or "",
        label.reason,
        label.source,
        label.data,
        label.data_hash,
        label.prompt,
        label.evidence,
        label.judge,
    )
    if not all(isinstance(text, str) for text in (*texts, *label.terms, *label.promoted)):
        raise TypeError("a text is no text")
    return replace(label, n_firing=int(label.n_firing), n_texts=int(label.n_texts))


def _read_detection(value: dict[str, Any]) -> Detection:
    low, high = value["ci95"]
    return Detection(
        accuracy=float(value["accuracy"]),
        ci95=(float(low), float(high)),
        auroc=float(value["auroc"]),
        n=int(value["n"]),
        n_prompts=int(value["n_prompts"]),
    )


def _hash(entries: Mapping[str, Any]) -> str:
    """16 hex digits that change with any of the entries."""
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()[:16]


def _auto_path(sae_fingerprint: str) -> Path:
    return _path(sae_fingerprint).with_suffix(".auto.json")


def _path(sae_fingerprint: str) -> Path:
    if not _FINGERPRINT.fullmatch(sae_fingerprint):
        raise SparseRMError(
            f"{sae_fingerprint!r} is not an SAE fingerprint; expected letters and digits; load the SAE again to get it"
        )
    return home() / "labels" / f"{sae_fingerprint}.json"
