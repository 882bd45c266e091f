"""Latents of a part of an SAE are read where those of the whole one are stored, and never wrongly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparserm.representations.represent import _contents, _prefixes, count_missing, represent
from sparserm.representations.store import Store
from sparserm.representations.values import FIRED, LatentSummary
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.types import Message, Text
from tests.unit.gated import gated_sae, states_of
from tests.unit.tiny import D_SAE, HOOK

LATENTS, OTHERS = (2, 9, 30, 31), (0, 9, 47)
TEXTS = [
    Text((Message("user", prompt),), answer) for prompt in ("Hi", "Tell me") for answer in ("Yes.", "No, never!", "the 🙂")
]


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store.sqlite")
    yield store
    store.close()


@pytest.fixture(scope="module")
def sae(tiny_backbone) -> SparseAutoencoder:
    states = states_of([tiny_backbone.tokenize(text.prompt, text.response) for text in TEXTS], tiny_backbone)
    return gated_sae(torch.from_numpy(np.concatenate(states)))


def _part(backbone, sae, store=None, latents=LATENTS, pooling="mean") -> LatentSummary:
    return represent(TEXTS, backbone, {HOOK: sae.part(latents)}, pooling, store=store)[HOOK].strengths


def _overwrite(store: Store, blobs: dict[bytes, bytes]) -> None:
    store.drop(blobs)  # what is stored is not replaced
    store.put_many(blobs)


def _assert_same(one: LatentSummary, other: LatentSummary) -> None:
    assert one.d_sae == other.d_sae == D_SAE
    assert np.array_equal(one.indptr, other.indptr) and np.array_equal(one.indices, other.indices)
    for name in ("rate", "peak", "gated"):
        np.testing.assert_allclose(one.fired[name], other.fired[name], rtol=1e-4, atol=1e-5)


def test_a_part_has_the_whole_ones_ids_and_figures(tiny_backbone, sae) -> None:
    part = _part(tiny_backbone, sae)
    whole = represent(TEXTS, tiny_backbone, {HOOK: sae}, "mean", strengths=True)[HOOK].strengths
    assert 0 < len(part.fired) < len(whole.fired) and set(part.indices) <= set(LATENTS)
    for row in range(len(TEXTS)):
        own = part.indices[part.indptr[row] : part.indptr[row + 1]]
        theirs = whole.indices[whole.indptr[row] : whole.indptr[row + 1]]
        assert own.tolist() == [latent for latent in theirs if latent in LATENTS]
    np.testing.assert_allclose(part.dense_gated(np.array(LATENTS)), whole.dense_gated(np.array(LATENTS)), atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_it_is_read_from_the_records_of_the_whole_without_the_backbone(tiny_backbone, sae, store, rows, pooling) -> None:
    direct = _part(tiny_backbone, sae)
    represent(TEXTS, tiny_backbone, {HOOK: sae}, pooling, strengths=True, store=store)
    rows.clear()
    for latents in (LATENTS, OTHERS):
        saes = {HOOK: sae.part(latents)}
        assert count_missing(TEXTS, tiny_backbone, saes, pooling, store) == (0, 0)
        _part(tiny_backbone, sae, store, latents, pooling)
    assert rows == []
    _assert_same(_part(tiny_backbone, sae, store, pooling=pooling), direct)


def test_it_is_read_from_its_own_records_and_nothing_else_is(tiny_backbone, sae, store, rows) -> None:
    first = _part(tiny_backbone, sae, store)
    rows.clear()
    again = _part(tiny_backbone, sae, store)
    assert rows == [] and np.array_equal(first.fired, again.fired) and np.array_equal(first.indptr, again.indptr)
    for other in ({HOOK: sae}, {HOOK: sae.part(OTHERS)}, {HOOK: sae.part(LATENTS[:2])}):
        assert count_missing(TEXTS, tiny_backbone, other, "mean", store, strengths=True)[0] == len(TEXTS)
    # A part's records must never pass for those of the whole.
    whole = represent(TEXTS, tiny_backbone, {HOOK: sae}, "mean", strengths=True, store=store)[HOOK].strengths
    assert set(whole.indices) > set(LATENTS) and rows != []


def test_another_sae_does_not_lend_its_records(tiny_backbone, sae, store) -> None:
    represent(TEXTS, tiny_backbone, {HOOK: sae}, "mean", strengths=True, store=store)
    moved = {**sae.weights, "threshold": sae.weights["threshold"] + 0.5}
    other = SparseAutoencoder(sae.name, sae.architecture, HOOK, sae.model_name, moved).part(LATENTS)
    assert count_missing(TEXTS, tiny_backbone, {HOOK: other}, "mean", store)[0] == len(TEXTS)


def test_the_missing_texts_are_counted_one_by_one(tiny_backbone, sae, store, rows) -> None:
    represent(TEXTS[:2], tiny_backbone, {HOOK: sae}, "mean", strengths=True, store=store)
    represent(TEXTS[2:3], tiny_backbone, {HOOK: sae.part(LATENTS)}, "mean", store=store)
    missing = count_missing(TEXTS, tiny_backbone, {HOOK: sae.part(LATENTS)}, "mean", store)
    lengths = [len(tiny_backbone.tokenize(text.prompt, text.response).ids) for text in TEXTS]
    assert missing == (3, sum(lengths[3:]))
    rows.clear()
    mixed = _part(tiny_backbone, sae, store)
    assert sum(len(row.spans) for row in rows) == 3
    _assert_same(mixed, _part(tiny_backbone, sae))
    assert count_missing(TEXTS, tiny_backbone, {HOOK: sae.part(LATENTS)}, "mean", store) == (0, 0)


def test_the_activity_bits_of_the_whole_are_not_enough(tiny_backbone, sae, store) -> None:
    represent(TEXTS, tiny_backbone, {HOOK: None}, "mean", store=store)
    assert count_missing(TEXTS, tiny_backbone, {HOOK: sae.part(LATENTS)}, "mean", store)[0] == len(TEXTS)


@pytest.mark.parametrize("damage", ["cut", "latent", "rate", "nan"])
def test_damaged_records_of_the_whole_are_not_used(tiny_backbone, sae, store, rows, damage) -> None:
    expected = _part(tiny_backbone, sae)
    represent(TEXTS, tiny_backbone, {HOOK: sae}, "mean", strengths=True, store=store)
    prefix = _prefixes(tiny_backbone, {HOOK: sae}, "mean", True)[-1][0]
    key = prefix + _contents(TEXTS, tiny_backbone)[1]
    blob = store.get_many([key])[key]
    records = np.frombuffer(blob, FIRED).copy()
    if damage == "cut":
        blob = blob[:-3]
    else:
        # A record of a latent that is not even wanted: the whole blob cannot be trusted.
        wrong = np.flatnonzero(~np.isin(records["latent"], LATENTS))[0]
        field, value = {"latent": ("latent", D_SAE), "rate": ("rate", 1.5), "nan": ("gated", np.nan)}[damage]
        records[field][wrong] = value
        blob = records.tobytes()
    _overwrite(store, {key: blob})
    rows.clear()
    _assert_same(_part(tiny_backbone, sae, store), expected)
    assert len(rows) == 1
    # The computed one was stored under the part's own key.
    rows.clear()
    _assert_same(_part(tiny_backbone, sae, store), expected)
    assert rows == []


def test_damaged_records_of_the_part_are_replaced_by_the_wholes(tiny_backbone, sae, store, rows) -> None:
    expected = _part(tiny_backbone, sae, store)
    represent(TEXTS, tiny_backbone, {HOOK: sae}, "mean", strengths=True, store=store)
    prefix = _prefixes(tiny_backbone, {HOOK: sae.part(LATENTS)}, "mean", True)[-1][0]
    keys = [prefix + content for content in _contents(TEXTS, tiny_backbone)]
    _overwrite(store, {key: b"x" for key in keys})
    rows.clear()
    _assert_same(_part(tiny_backbone, sae, store), expected)
    assert rows == [] and not store.get_many(keys)
