"""Checks of the two files of a head: every entry and tensor that anything reads has its type and size.

A head may come from anyone, and every page and command relies on these checks. Entries that nothing reads are left alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparserm.support.files import one_line
from sparserm.support.parsing import whole_number
from sparserm.types import NORMALISATIONS, HookPoint, SparseRMError

#: Versions of the file format: 2 has the encoder of a gated head. Heads on projections are written as before, for all readers.
FORMAT, GATED_FORMAT = 1, 2
#: Tensors that a reward depends on, and statistics of the training responses.
TENSORS = ("features", "directions", "center", "mu", "sigma", "weights")
STATISTICS = ("f_chosen", "f_rejected", "quantiles_chosen", "quantiles_rejected", "prompt_keys")
#: The share of resamples in which each feature was selected, and its family; heads on projections lack them.
OPTIONAL = ("selected", "families")
#: Tensors of a gated head's encoder, by architecture; their names in the file start with ``encoder.``.
ENCODERS = {
    "standard": ("W_enc", "b_enc"),
    "jumprelu": ("W_enc", "b_enc", "threshold"),
    "gated": ("W_enc", "b_gate", "b_mag", "r_mag"),
}

#: Maximum size of ``config.json`` in bytes, and of one text in it in characters.
MAX_CONFIG, MAX_TEXT = 4 << 20, 10_000
#: Maximum size of a number, and 1 / minimum of a standard deviation: no reward of a finite ``h`` overflows.
LARGEST = 1e9

_FIX = "download the head again or train it again"


@dataclass(frozen=True)
class _Kind:
    """What an entry may be, in words, and the test for it."""

    words: str
    holds: Callable[[Any], bool]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return (isinstance(value, float) and math.isfinite(value)) or _is_whole(value)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


_TEXT = _Kind("a text", lambda value: isinstance(value, str))
_FLAG = _Kind("true or false", lambda value: isinstance(value, bool))
_WHOLE = _Kind("a whole number", _is_whole)
_COUNT = _Kind("a whole number of at least 0", lambda value: _is_whole(value) and value >= 0)
_WIDTH = _Kind("a whole number above 0", lambda value: _is_whole(value) and 0 < value < 2**31)
_NUMBER = _Kind("a number", _is_number)
_BIAS = _Kind(f"a number of at most {LARGEST:g}", lambda value: _is_number(value) and abs(value) <= LARGEST)
_SHARE = _Kind("a share from 0 to 1", _is_share)
_INTERVAL = _Kind(
    "two shares from 0 to 1", lambda value: isinstance(value, list) and len(value) == 2 and all(map(_is_share, value))
)
_OBJECT = _Kind("an object", lambda value: isinstance(value, dict))
_TEXTS = _Kind("an object of texts", lambda value: isinstance(value, dict) and all(map(_TEXT.holds, value.values())))
_FACTORS = _Kind("an object of numbers", lambda value: isinstance(value, dict) and all(map(_is_number, value.values())))
_FINGERPRINT = _Kind(
    "1 to 64 letters and digits", lambda value: isinstance(value, str) and bool(re.fullmatch("[0-9A-Za-z]{1,64}", value))
)
_LABELS = _Kind(
    "texts by feature id", lambda value: _TEXTS.holds(value) and all(whole_number(key) is not None for key in value)
)

_REQUIRED = {
    "format": _WHOLE,
    "pooling": _TEXT,
    "bias": _BIAS,
    "name": _TEXT,
    "backbone": _TEXT,
    "backbone_fingerprint": _FINGERPRINT,
    "hook": _TEXT,
    "sae": _TEXT,
    "sae_fingerprint": _FINGERPRINT,
    "d_sae": _WIDTH,
    "labels": _LABELS,
    "training": _OBJECT,
    "metrics": _OBJECT,
}
#: Entries that pages and commands read where they are present.
_METRICS = {
    "accuracy": _SHARE,
    "ci95": _INTERVAL,
    "n": _COUNT,
    "measured_on": _TEXT,
    **dict.fromkeys(
        (
            "parent_accuracy",
            "dense_probe",
            "frequency",
            "random_directions",
            "shuffled_labels",
            "length_baseline",
            "surface_features",
        ),
        _SHARE,
    ),
}
_TRAINING = {
    **dict.fromkeys(("source", "data", "data_hash", "licence", "yardstick"), _TEXT),
    **dict.fromkeys(("n_pairs", "n_prompts", "n_skipped", "n_sure"), _COUNT),
    "accuracy": _SHARE,
    "settings": _OBJECT,
    "lineage": _OBJECT,
}
_SETTINGS = {
    "k": _COUNT,
    "score": _TEXT,
    "pooling": _TEXT,
    "selection": _TEXT,
    "l2": _NUMBER,
    "activity": _TEXT,
    "seed": _WHOLE,
    "avoid_length": _FLAG,
    "named": _FLAG,
}
_LINEAGE = {"parent": _TEXT, "parent_hash": _TEXT, "edits": _FACTORS, "parent_lineage": _OBJECT}


def check_config(path: Path, config: Any) -> None:
    """Check the parsed ``config.json`` of a head; ``path`` is named in errors.

    Raises:
        SparseRMError: an entry is missing, has another type, or is not supported.
    """
    if not isinstance(config, dict):
        raise SparseRMError(f"{path} is not an object; expected the configuration of a head; {_FIX}")
    if missing := [name for name in _REQUIRED if name not in config]:
        raise SparseRMError(f"{path} lacks {', '.join(missing)}; expected the configuration of a head; {_FIX}")
    for name, value in config.items():
        for text in texts_in(value):
            if len(text) > MAX_TEXT:
                raise SparseRMError(
                    f"{path}: {one_line(name, 40)} holds a text of {len(text):,} characters, expected at most {MAX_TEXT:,}; "
                    "shorten it"
                )
    for name, value, kind in _entries(config):
        if not kind.holds(value):
            raise SparseRMError(
                f"{path}: {name} is {one_line(repr(value), 80)}, expected {kind.words}; correct or remove it, or {_FIX}"
            )
    _check_kind(path, config)


def _check_kind(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a format, a pooling or a hook point that is not supported."""
    if config["format"] not in (FORMAT, GATED_FORMAT) or config["pooling"] not in ("last", "mean"):
        raise SparseRMError(
            f"{path} has format {config['format']} and pooling {one_line(repr(config['pooling']), 80)}; expected format "
            f"{FORMAT} or {GATED_FORMAT} and pooling last or mean; use the version of sparserm that wrote it, or {_FIX}"
        )
    if config["format"] == GATED_FORMAT:
        _check_encoder(path, config.get("encoder"))
    try:
        HookPoint.parse(config["hook"])
    except SparseRMError as error:
        raise SparseRMError(f"{path}: {error}") from error


def _check_encoder(path: Path, encoder: Any) -> None:
    """Refuse a gated head whose entry ``encoder`` does not say how its features are encoded."""
    known = encoder if isinstance(encoder, dict) else {}
    expected = {"architecture": tuple(ENCODERS), "normalize_activations": NORMALISATIONS, "apply_b_dec_to_input": (True, False)}
    for name, values in expected.items():
        given = known.get(name)
        if type(given) is not type(values[0]) or given not in values:
            raise SparseRMError(
                f"{path}: encoder.{name} is {one_line(repr(given), 80)}, expected one of {', '.join(map(str, values))}; {_FIX}"
            )

    limit = known.get("max_norm")
    if limit is not None and not (type(limit) in (int, float) and 0 < limit < LARGEST):
        raise SparseRMError(
            f"{path}: encoder.max_norm is {one_line(repr(limit), 80)}, expected a number above 0 and below {LARGEST:g}; {_FIX}"
        )


def encoder_tensors(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the tensors of a checked configuration's encoder; none for a head on projections."""
    if config["format"] != GATED_FORMAT:
        return ()
    return tuple(f"encoder.{name}" for name in ENCODERS[config["encoder"]["architecture"]])


def check_tensors(path: Path, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> None:
    """Check the tensors of a head with this checked configuration; ``path`` is named in errors.

    Raises:
        SparseRMError: a tensor is missing, has another type or shape, or holds values that would give wrong rewards.
    """
    d_sae = config["d_sae"]
    wanted = (*TENSORS, *STATISTICS, *encoder_tensors(config))
    if missing := [name for name in wanted if name not in tensors]:
        raise SparseRMError(f"{path} lacks {', '.join(missing)}; {_FIX}")
    wanted += tuple(name for name in OPTIONAL if name in tensors)
    _check_shapes(path, {name: tensors[name] for name in wanted})
    for name in wanted:
        _check_values(path, name, tensors[name])
    if float(tensors["sigma"].min()) < 1 / LARGEST:
        raise SparseRMError(f"{path}: sigma has values that are not positive, or tiny; {_FIX}")
    features = tensors["features"]
    if features.dtype.kind not in "iu" or not 0 <= features.min() <= features.max() < d_sae:
        raise SparseRMError(f"{path}: features must be latent ids from 0 to {d_sae - 1}; {_FIX}")
    if len(np.unique(features)) < len(features):
        raise SparseRMError(f"{path}: features holds a latent id more than once; {_FIX}")
    families = tensors.get("families", features)
    if families.dtype.kind not in "iu" or not np.isin(families, features).all():
        raise SparseRMError(f"{path}: families must name features of the head; {_FIX}")


def texts_in(value: Any) -> Iterator[str]:
    """All texts and keys inside a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        for one in value.values():
            yield from texts_in(one)
    elif isinstance(value, list):
        for one in value:
            yield from texts_in(one)


def _entries(config: Mapping[str, Any]) -> Iterator[tuple[str, Any, _Kind]]:
    """Name, value and expected kind of every entry that is read; null is the same as no entry, except for an object."""
    yield from ((name, config[name], kind) for name, kind in _REQUIRED.items())
    yield from _present("", config, {"versions": _TEXTS})
    for name, kinds in (("metrics", _METRICS), ("training", _TRAINING)):
        yield from _present(f"{name}.", config[name], kinds)
    yield from _present("training.settings.", config["training"].get("settings", {}), _SETTINGS)
    where, lineage = "training.lineage.", config["training"].get("lineage")
    while lineage:
        yield from _present(where, lineage, _LINEAGE)
        where, lineage = where + "parent_lineage.", lineage.get("parent_lineage")


def _present(where: str, values: Mapping[str, Any], kinds: Mapping[str, _Kind]) -> Iterator[tuple[str, Any, _Kind]]:
    for name, kind in kinds.items():
        if name in values and (values[name] is not None or kind in (_OBJECT, _TEXTS)):
            yield where + name, values[name], kind


def _check_shapes(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    k, d = tensors["directions"].shape if tensors["directions"].ndim == 2 else (0, 0)
    shapes: dict[str, tuple[int, ...]] = {
        name: (k,) for name in ("features", "mu", "sigma", "weights", "f_chosen", "f_rejected")
    }
    shapes |= {"center": (d,), "quantiles_chosen": (101,), "quantiles_rejected": (101,)}
    shapes |= {"prompt_keys": (tensors["prompt_keys"].size,)}
    shapes |= {name: (d, k) if name == "encoder.W_enc" else (k,) for name in tensors if name.startswith("encoder.")}
    shapes |= {name: (k,) for name in OPTIONAL if name in tensors}
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise SparseRMError(f"{path}: {name} has shape {tensors[name].shape}, expected {shape}; {_FIX}")
    if k * d == 0:
        raise SparseRMError(f"{path}: directions has shape {tensors['directions'].shape}, expected one row a feature; {_FIX}")


def _check_values(path: Path, name: str, tensor: np.ndarray) -> None:
    """Refuse a type of numbers that is not the tensor's, and numbers that are not finite or too large."""
    if name in ("features", "families"):  # checked with the number of latents, and with the features
        return
    if name == "prompt_keys":
        if tensor.dtype.kind not in "iu":
            raise SparseRMError(f"{path}: prompt_keys holds {tensor.dtype}, expected whole numbers; {_FIX}")
        return
    if tensor.dtype.kind != "f":
        raise SparseRMError(f"{path}: {name} holds {tensor.dtype}, expected floating-point numbers; {_FIX}")
    if not np.isfinite(tensor).all():
        raise SparseRMError(f"{path}: {name} holds values that are not finite; {_FIX}")
    if float(np.abs(tensor).max()) > LARGEST:
        raise SparseRMError(f"{path}: {name} holds values beyond {LARGEST:g}, from which no reward can be computed; {_FIX}")
