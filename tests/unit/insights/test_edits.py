"""Edits of pairs: what is dropped is gone, what is flipped counts the other way, and files of them read back."""

from __future__ import annotations

import json

import numpy as np

from sparserm.insights.edits import PairEdits, pair_rows
from sparserm.insights.effects import features_of, measure_effects
from sparserm.pairs.load import load_pairs
from sparserm.support.files import to_jsonl
from sparserm.types import Message, PreferenceData, PreferencePair
from tests.unit.features.latents import D_SAE, pairs_where

N = 60


def _made():
    rng = np.random.default_rng(0)
    pairs = tuple(
        PreferencePair((Message("user", f"q {i}"),), f"a {i}", f"b {i}", row=i + 1, category="x", id=f"id {i}")
        for i in range(N)
    )
    return PreferenceData("d", pairs, (), N, "hash"), pairs_where(rng.random((2, N, D_SAE)) < 0.5)


def test_dropped_pairs_are_gone_and_flipped_ones_change_sides() -> None:
    data, pairs = _made()
    edits = PairEdits().drop(frozenset({0, 5})).flip(frozenset({1, 59}))
    edited, own = edits.apply(data, pairs)
    assert len(edited.pairs) == N - 2 and edits.kept(N)[:4].tolist() == [1, 2, 3, 4]
    assert (edited.pairs[0].chosen, edited.pairs[0].rejected, edited.pairs[0].row) == ("b 1", "a 1", 2)
    assert edited.pairs[1] == data.pairs[2] and edited.pairs[-1].chosen == "b 59"
    assert own.groups.tolist() == pairs.groups[edits.kept(N)].tolist()
    assert np.array_equal(own.chosen.h[0], pairs.rejected.h[1]) and np.array_equal(own.chosen.h[1], pairs.chosen.h[2])
    assert edited.content_hash != data.content_hash


def test_all_flipped_turns_every_effect_around() -> None:
    data, pairs = _made()
    _, own = PairEdits(flipped=frozenset(range(N))).apply(data, pairs)
    before, after = (measure_effects(features_of(one), np.arange(D_SAE)) for one in (pairs, own))
    assert np.allclose(before.z, -after.z) and (before.n - before.wins == after.wins).all()


def test_flipping_twice_and_dropping_what_was_flipped() -> None:
    rows = frozenset({1, 2})
    assert not PairEdits().flip(rows).flip(rows)
    assert PairEdits().flip(rows).drop(frozenset({2})) == PairEdits(frozenset({2}), frozenset({1}))


def test_a_link_holds_edits_of_its_pairs_and_of_no_others() -> None:
    edits, content = PairEdits(frozenset({3, 17}), frozenset({5})), "1f2e3d4c5b6a"
    assert edits.to_text(content) == "1f2e3d4c d3.17 f5" and PairEdits().to_text(content) == "1f2e3d4c"
    assert PairEdits.from_text(edits.to_text(content), content, 18) == edits
    for text, of, n in (
        ("1f2e3d4c d3.17 f5", "0" * 12, 18),  # other pairs
        ("1f2e3d4c d3.17 f5", content, 17),  # a pair that is not there
        ("1f2e3d4c d3.x f5", content, 18),
        ("1f2e3d4c  d3 z5", content, 18),
        ("1f2e3d4c d-1", content, 18),
        ("", content, 18),
    ):
        assert not PairEdits.from_text(text, of, n)


def test_pairs_written_to_a_file_read_back_as_they_were(tmp_path) -> None:
    data, pairs = _made()
    several = PreferencePair((Message("system", "be kind"), Message("user", "hello")), "a", "b")
    edited, _ = PairEdits().flip(frozenset({0})).apply(data, pairs)
    (tmp_path / "pairs.jsonl").write_text(to_jsonl(pair_rows((*edited.pairs, several))))
    read = load_pairs(tmp_path / "pairs.jsonl").pairs
    assert [(one.prompt, one.chosen, one.rejected, one.category, one.id) for one in read] == [
        (one.prompt, one.chosen, one.rejected, one.category, one.id) for one in (*edited.pairs, several)
    ]
    assert "category" not in json.loads((tmp_path / "pairs.jsonl").read_text().splitlines()[-1]) or not read[-1].category
