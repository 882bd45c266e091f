"""What the user calls a latent: one file for each SAE, used by every view over the labels that a head brings along."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock

from sparserm.card import HeadCard
from sparserm.defaults import home
from sparserm.types import SparseRMError

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
        temporary = path.with_suffix(".tmp")
        ordered = {str(feature): labels[feature] for feature in sorted(labels)}
        temporary.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)


def labels_of(card: HeadCard) -> Mapping[int, str]:
    """The labels to show for a head: its own, and over them the user's for its SAE.

    A file that cannot be read costs its labels and nothing else; the page on which they are given says what is wrong.
    """
    try:
        return {**card.labels, **user_labels(card.sae_fingerprint)}
    except SparseRMError:
        return card.labels


def _path(sae_fingerprint: str) -> Path:
    if not _FINGERPRINT.fullmatch(sae_fingerprint):
        raise SparseRMError(f"{sae_fingerprint!r} is no fingerprint of an SAE; expected letters and digits")
    return home() / "labels" / f"{sae_fingerprint}.json"
