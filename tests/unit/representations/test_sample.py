"""A random sample: a smaller one is part of a larger one, it ends in time, and what it read is in the store."""

from __future__ import annotations

from contextlib import closing

import numpy as np

from sparserm.representations import sample
from sparserm.representations.represent import count_missing
from sparserm.representations.sample import represent_sample, sample_rows
from sparserm.representations.store import Store
from sparserm.sae.autoencoder import load_sae
from sparserm.types import Message, PreferencePair, pair_texts
from tests.unit.tiny import save_tiny_sae

PAIRS = [PreferencePair((Message("user", f"question {i}"),), f"yes {i}", f"no {i}") for i in range(50)]


def test_samples_are_random_ascending_and_within_each_other() -> None:
    small, large = sample_rows(1000, 50), sample_rows(1000, 400)
    assert set(small) < set(large) and len(set(large)) == 400 and (np.diff(large) > 0).all()
    assert abs(large.mean() - 500) < 60
    assert sample_rows(10, 10).tolist() == list(range(10))


def test_a_sample_ends_in_time_and_is_in_the_store(tiny_backbone, tmp_path, monkeypatch) -> None:
    sae = load_sae(str(save_tiny_sae(tmp_path / "sae")))
    saes, seen = {sae.hook: sae}, []
    monkeypatch.setattr(sample, "SECONDS", 0.0)
    with closing(Store(tmp_path / "store.db")) as store:
        size = represent_sample(PAIRS, tiny_backbone, saes, store, lambda *done: seen.append(done))
        assert size == sample.AT_ONCE and seen[-1][0] == size
        read = [PAIRS[i] for i in sample_rows(len(PAIRS), size).tolist()]
        assert count_missing(pair_texts(read), tiny_backbone, saes, "mean", store, strengths=True) == (0, 0)
        left, _ = count_missing(pair_texts(PAIRS), tiny_backbone, saes, "mean", store, strengths=True)
        assert left == 2 * (len(PAIRS) - size)


def test_few_pairs_are_all_read(tiny_backbone, tmp_path) -> None:
    sae = load_sae(str(save_tiny_sae(tmp_path / "sae")))
    with closing(Store(tmp_path / "store.db")) as store:
        assert represent_sample(PAIRS[:20], tiny_backbone, {sae.hook: sae}, store, lambda *_: None) == 20
