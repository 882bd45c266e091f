"""On-disk cache of feature results that need the backbone: opening shares, activations on examples and logit lens.

Files are in ``SPARSERM_HOME/features``, in folders named by the fingerprints of the SAE and the backbone, and below them by the
content hash of the pairs. Texts are not stored, only numbers and tokens of the vocabulary. A damaged file is computed again,
and results are used also where none can be written.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sparserm.features.cards import SIDES, FeatureCard, Reading, Side, read_examples
from sparserm.features.firing import find_firings
from sparserm.features.logit_lens import LogitLens, load_unembedding, logit_lens
from sparserm.features.table import SAMPLE, measure_openings
from sparserm.representations.values import PairRepresentations
from sparserm.support.defaults import home
from sparserm.support.files import replacing
from sparserm.types import PreferenceData, Progress

if TYPE_CHECKING:
    from sparserm.backbone.model import Backbone
    from sparserm.sae.autoencoder import SparseAutoencoder

_log = logging.getLogger("sparserm.features")

#: Latents whose examples are read before they are kept.
AT_ONCE = 8

#: Readings by pair index and side.
Readings = dict[tuple[int, Side], Reading]


@dataclass(frozen=True)
class FeatureStore:
    """Cached results for one SAE on one backbone and one dataset.

    Attributes:
        data: content hash of the pairs.
        sae, backbone: fingerprints.
    """

    data: str
    sae: str
    backbone: str

    @property
    def of_sae(self) -> Path:
        """The folder of results that do not depend on the pairs."""
        return home() / "features" / f"{self.sae}-{self.backbone}"

    @property
    def of_pairs(self) -> Path:
        """The folder of results for the pairs."""
        return self.of_sae / self.data[:16]

    def known_openings(self) -> np.ndarray | None:
        """``[d_sae]`` cached opening shares; None where they have not been measured."""
        found = _load(self.of_pairs / "openings.npz", ["opening"])
        return found["opening"] if found else None

    def openings(
        self,
        data: PreferenceData,
        pairs: PairRepresentations,
        backbone: Backbone,
        sae: SparseAutoencoder,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Cached :func:`~sparserm.features.table.measure_openings`."""
        if (known := self.known_openings()) is not None:
            return known
        opening = measure_openings(data.pairs, pairs, backbone, sae, progress=progress)
        _save(self.of_pairs / "openings.npz", {"opening": opening})
        return opening

    def known_words(self) -> list[str] | None:
        """What each latent fires on in a sample of the responses, e.g. ``doctor · nurse``; None where it is not known."""
        found = _load(self.of_pairs / "words.npz", ["words"])
        return [str(one) for one in found["words"]] if found else None

    def words(
        self,
        data: PreferenceData,
        pairs: PairRepresentations,
        backbone: Backbone,
        sae: SparseAutoencoder,
        progress: Progress | None = None,
    ) -> list[str]:
        """Cached evidence of :func:`~sparserm.features.firing.find_firings` for every latent, from a sample of responses."""
        if (known := self.known_words()) is not None:
            return known
        n = 2 * len(data.pairs)
        rows = np.unique(np.linspace(0, n - 1, min(n, SAMPLE)).round().astype(int))
        firing = find_firings(range(sae.d_sae), data.pairs, pairs, rows, backbone, sae, progress=progress)
        words = [firing[latent].evidence.removeprefix("fires on: ") for latent in range(sae.d_sae)]
        _save(self.of_pairs / "words.npz", {"words": np.array(words, dtype=str)})
        return words

    def known_lens(self) -> LogitLens | None:
        """The cached logit lens of every latent; None where it has not been computed."""
        found = _load(self.of_sae / "lens.npz", [field.name for field in fields(LogitLens)])
        return LogitLens(**found) if found else None

    def lens(self, name: str, sae: SparseAutoencoder, progress: Progress | None = None) -> LogitLens:
        """Cached :func:`~sparserm.features.logit_lens.logit_lens` of every latent.

        Args:
            name: name or folder of the backbone.
        """
        if (known := self.known_lens()) is not None:
            return known
        found = logit_lens(sae, load_unembedding(name), np.arange(sae.d_sae), progress)
        _save(self.of_sae / "lens.npz", vars(found))
        return found

    def readings(
        self,
        cards: Sequence[FeatureCard],
        data: PreferenceData,
        backbone: Backbone,
        sae: SparseAutoencoder,
        progress: Progress | None = None,
    ) -> dict[int, Readings]:
        """Cached :func:`~sparserm.features.cards.read_examples` for the examples of cards; only missing ones are computed.

        They are kept after every few latents, so that little is lost where ``progress`` raises.

        Returns:
            The readings of each card by its latent.
        """
        kept = {card.feature: self.known_readings(card.feature) for card in cards}
        missing = {}
        for card in cards:
            if examples := [one for one in card.examples if (one.pair, one.side) not in kept[card.feature]]:
                missing[card.feature] = examples
        total, done = sum(map(len, missing.values())), 0
        for start in range(0, len(missing), AT_ONCE):
            some = dict(list(missing.items())[start : start + AT_ONCE])
            report = _continued(progress, done, total)
            for feature, read in read_examples(some, data.pairs, backbone, sae, progress=report).items():
                kept[feature] |= read
                _save(self.of_pairs / f"{feature}-readings.npz", _pack(kept[feature]))
            done += sum(map(len, some.values()))
        return kept

    def known_readings(self, feature: int) -> Readings:
        """Cached readings of a latent's examples; empty where there are none."""
        found = _load(self.of_pairs / f"{feature}-readings.npz", _pack({}))
        return _unpack(found) if found else {}


def _continued(progress: Progress | None, before: int, total: int) -> Progress | None:
    """Progress of a part, as progress of the whole."""
    return progress and (lambda done, _, what: progress(before + done, total, what))


def _pack(readings: Readings) -> dict[str, np.ndarray]:
    none = np.zeros(0, np.float32)
    return {
        "pair": np.array([pair for pair, _ in readings], np.int64),
        "side": np.array([SIDES.index(side) for _, side in readings], np.int8),
        "length": np.array([len(one.scores) for one in readings.values()], np.int64),
        "activations": np.concatenate([none, *(one.activations for one in readings.values())]),
        "scores": np.concatenate([none, *(one.scores for one in readings.values())]),
    }


def _unpack(packed: Mapping[str, np.ndarray]) -> Readings:
    ends = np.cumsum(packed["length"])[:-1]
    parts = zip(np.split(packed["activations"], ends), np.split(packed["scores"], ends), strict=True)
    keys = zip(packed["pair"].tolist(), packed["side"].tolist(), strict=True)
    return {(pair, SIDES[side]): Reading(*part) for (pair, side), part in zip(keys, parts, strict=True)}


def _load(path: Path, names: Iterable[str]) -> dict[str, np.ndarray] | None:
    """These arrays of a file; None where it is missing or damaged, so that they are computed again."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except Exception:  # damage shows itself as errors of zlib, zip files, numpy, struct, tokenize and others
        return None


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        _log.warning("warning: %s cannot be written (%s); going on without it", path, error.strerror or error)
