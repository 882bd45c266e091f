"""What feature pages need of the language model is computed once, kept, and computed again where it was damaged."""

from __future__ import annotations

import errno
import json
from collections import Counter

import numpy as np
import pytest

from sparserm.backbone.model import Backbone
from sparserm.features import cache
from sparserm.features.cache import FeatureStore
from sparserm.features.cards import feature_card
from sparserm.jobs import queue
from sparserm.jobs.worker import work
from sparserm.model import SparseRM
from sparserm.representations.represent import represent_pairs
from sparserm.sae.autoencoder import load_sae
from tests.unit.pairs_data import SETTINGS, TRAIN, preference_rows
from tests.unit.tiny import HOOK, save_tiny_sae


@pytest.fixture(scope="module")
def sae_folder(tmp_path_factory):
    return save_tiny_sae(tmp_path_factory.mktemp("saes") / "sae")


@pytest.fixture
def parts(tiny_backbone, sae_folder):
    """A store, an SAE and the training pairs of the other tests as it sees them."""
    sae = load_sae(sae_folder)
    pairs = represent_pairs(TRAIN.pairs, tiny_backbone, {HOOK: sae}, "mean", strengths=True)[HOOK]
    return FeatureStore(TRAIN.content_hash, sae.fingerprint, tiny_backbone.fingerprint), sae, pairs


@pytest.fixture
def runs(monkeypatch) -> Counter[str]:
    """Counts the passes of the language model."""
    counted: Counter[str] = Counter()
    run = Backbone.run
    monkeypatch.setattr(Backbone, "run", lambda *given: (counted.update(["run"]), run(*given))[1])
    return counted


def test_openings_are_measured_once(parts, tiny_backbone, runs) -> None:
    store, sae, pairs = parts
    assert store.known_openings() is None
    first = store.openings(TRAIN, pairs, tiny_backbone, sae)
    before = runs["run"]
    np.testing.assert_array_equal(store.openings(TRAIN, pairs, tiny_backbone, sae), first)
    np.testing.assert_array_equal(store.known_openings(), first)
    assert 0 < before == runs["run"]


def test_examples_are_read_once_and_come_back_the_same(parts, tiny_backbone, runs) -> None:
    store, sae, pairs = parts
    card = feature_card(7, TRAIN.pairs, pairs, sae)
    assert store.known_readings(7) == {}
    first = store.readings([card], TRAIN, tiny_backbone, sae)[7]
    before = runs["run"]
    again = store.readings([card], TRAIN, tiny_backbone, sae)[7]
    assert before == runs["run"]
    assert again.keys() == first.keys() == {(one.pair, one.side) for one in card.examples}
    for key, reading in first.items():
        np.testing.assert_array_equal(again[key].activations, reading.activations)
        np.testing.assert_array_equal(again[key].scores, reading.scores)


def test_examples_of_several_features_are_read_in_one_pass(parts, tiny_backbone, monkeypatch) -> None:
    store, sae, pairs = parts
    given: list[int] = []
    run = Backbone.hidden_states

    def counted(self, texts, *rest, **more):
        given.append(len(texts))
        return run(self, texts, *rest, **more)

    monkeypatch.setattr(Backbone, "hidden_states", counted)
    cards = [feature_card(feature, TRAIN.pairs, pairs, sae) for feature in range(5)]
    read = store.readings(cards, TRAIN, tiny_backbone, sae)
    assert given == [len({(one.pair, one.side) for card in cards for one in card.examples})]
    assert all(set(read[card.feature]) == {(one.pair, one.side) for one in card.examples} for card in cards)


def test_what_was_read_before_it_was_stopped_is_kept(parts, tiny_backbone, monkeypatch) -> None:
    class StoppedError(Exception):
        pass

    store, sae, pairs = parts
    cards = [card for feature in range(5) if (card := feature_card(feature, TRAIN.pairs, pairs, sae)).examples]
    monkeypatch.setattr("sparserm.features.cache.AT_ONCE", 2)
    total, seen = sum(len(card.examples) for card in cards), []

    def stop(done: int, of: int, what: str) -> None:
        seen.append((done, of))
        if done > len(cards[0].examples) + len(cards[1].examples):
            raise StoppedError

    with pytest.raises(StoppedError):
        store.readings(cards, TRAIN, tiny_backbone, sae, stop)
    assert [bool(store.known_readings(card.feature)) for card in cards[:3]] == [True, True, False]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen) and {of for _, of in seen} == {total}
    assert set(store.readings(cards, TRAIN, tiny_backbone, sae)[cards[2].feature])


def test_a_damaged_file_is_computed_again(parts, tiny_backbone) -> None:
    store, sae, pairs = parts
    first = store.openings(TRAIN, pairs, tiny_backbone, sae)
    (path,) = store.of_pairs.glob("openings.npz")
    path.write_bytes(path.read_bytes()[:40])
    np.testing.assert_array_equal(store.openings(TRAIN, pairs, tiny_backbone, sae), first)


def test_the_lens_is_kept_for_all_latents(parts, tiny_folder) -> None:
    store, sae, _ = parts
    assert store.known_lens() is None
    found, kept = store.lens(str(tiny_folder), sae), store.known_lens()
    assert kept is not None and len(kept.promoted) == sae.d_sae
    for name, values in vars(found).items():
        np.testing.assert_array_equal(getattr(kept, name), values)


def test_other_pairs_have_results_of_their_own(parts) -> None:
    store, _, _ = parts
    other = FeatureStore("0" * 64, store.sae, store.backbone)
    assert other.of_sae == store.of_sae and other.of_pairs != store.of_pairs


@pytest.mark.parametrize("with_head", [True, False])
def test_a_job_gets_everything_ready_that_the_page_needs(
    with_head, tiny_folder, tiny_backbone, sae_folder, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(queue, "_spawn", lambda folder: None)
    monkeypatch.setattr("os.nice", lambda n: 0)
    monkeypatch.chdir(tiny_folder.parent)  # where the card's name of the backbone is a folder
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in preference_rows()))
    model = SparseRM.fit(TRAIN, backbone=tiny_backbone, sae=sae_folder, **SETTINGS)
    model.save_pretrained(tmp_path / "head")
    head = str(tmp_path / "head") if with_head else None
    spec = {"source": {"name": str(path)}, "backbone": str(tiny_folder), "sae": str(sae_folder), "head": head}
    identity = queue.start("features", spec, "Features")
    work(queue.status(identity).folder)
    job = queue.status(identity)
    assert (job.state, job.stage, job.stages) == ("done", 5, 5), job.error
    store = FeatureStore(TRAIN.content_hash, model.card.sae_fingerprint, tiny_backbone.fingerprint)
    assert store.known_openings() is not None and store.known_lens() is not None
    assert len(store.known_words() or []) == load_sae(sae_folder).d_sae
    features = model.head.features.tolist() if with_head else []
    assert all(bool(store.known_readings(int(feature))) == with_head for feature in model.head.features)
    assert json.loads((job.folder / "result.json").read_text()) == {"features": features, "pairs": 40}


def test_no_flip_of_a_bit_changes_what_is_read(parts) -> None:
    store, _, _ = parts
    values = np.linspace(0, 1, 40, dtype=np.float32)
    path = store.of_pairs / "openings.npz"
    cache._save(path, {"opening": values})
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        found = store.known_openings()
        assert found is None or np.array_equal(found, values)
        path.write_bytes(data[:place])
        assert store.known_openings() is None


def test_a_full_disk_costs_only_what_would_have_been_kept(parts, tiny_backbone, monkeypatch, caplog) -> None:
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    store, sae, pairs = parts
    monkeypatch.setattr(cache, "replacing", full)
    assert store.openings(TRAIN, pairs, tiny_backbone, sae).shape == (sae.d_sae,)
    assert store.known_openings() is None
    assert "openings.npz cannot be written (No space left on device)" in caplog.text
