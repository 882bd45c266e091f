"""Latents in files say what latents in memory say, whichever latents and responses are asked for."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix, hstack

from sparserm.representations.shards import (
    BLOCKS,
    LATENTS_IN,
    PAIRS_IN,
    StoredLatents,
    StoredMatrix,
    StoredPairs,
    beside,
    write_latents,
    write_pairs,
)
from sparserm.representations.values import ACTIVITIES, LatentSummary, Representations, firings
from sparserm.types import Message, PreferencePair, SparseRMError

D, PARTS = 3, (5, 0, 7, 1)
N = sum(PARTS)


def _side(n: int, d_sae: int, seed: int) -> Representations:
    rng = np.random.default_rng(seed)
    rate = np.where(rng.random((n, d_sae)) < 0.2, rng.random((n, d_sae)), 0).astype(np.float32)
    rows, latents = np.nonzero(rate)
    indptr = np.concatenate([[0], np.cumsum(np.count_nonzero(rate, axis=1))]).astype(np.int64)
    peak, gated = rng.random(len(rows)).astype(np.float32), rng.normal(size=len(rows)).astype(np.float32)
    summary = LatentSummary(indptr, firings(latents, rate[rows, latents], peak, gated), d_sae)
    h = rng.normal(size=(n, D)).astype(np.float32)
    return Representations("mean", h, rng.integers(1, 9, n).astype(np.int32), rng.integers(0, 2, n).astype(np.int32), summary)


def _stored(folder: Path, sides: tuple[Representations, Representations]) -> StoredPairs:
    """Write the pairs in parts of :data:`PARTS`; after each comes a row that cannot be used."""
    start = row = 0
    names = []
    for index, n in enumerate(PARTS):
        own = [one.take(np.arange(start, start + n)) for one in sides]
        pairs = [PreferencePair((Message("user", "p"),), "a", "b", row + i + 1, id=f"\ud800{i}") for i in range(n)]
        row, start = row + n + 1, start + n
        names.append(f"part-{index:06}.parquet")
        write_latents(folder / LATENTS_IN / names[-1], own[0].strengths, own[1].strengths, {b"of": b"test"})
        write_pairs(folder / PAIRS_IN / names[-1], pairs, [(row, "prompt: none")], (own[0], own[1]), {b"of": b"test"})
    return StoredPairs.read(folder, names)


@pytest.fixture(scope="module", params=[1, 5, 48, 3 * BLOCKS + 1])
def both(request, tmp_path_factory) -> tuple[Representations, Representations, Path]:
    """The chosen responses in memory and in files, and the folder."""
    folder = tmp_path_factory.mktemp("stored")
    sides = _side(N, request.param, 0), _side(N, request.param, 1)
    stored = _stored(folder, sides)
    return sides[1], stored.responses("mean", request.param, states=True)[1], folder


def test_pairs_have_their_states_and_counts(both):
    memory, stored, folder = both
    np.testing.assert_array_equal(stored.h, memory.h)
    np.testing.assert_array_equal(stored.n_tokens, memory.n_tokens)
    np.testing.assert_array_equal(stored.n_truncated, memory.n_truncated)
    without = StoredPairs.read(folder, [file.name for file in sorted((folder / PAIRS_IN).iterdir())])
    assert without.responses("mean", memory.strengths.d_sae, states=False)[0].h.shape == (N, 0)


def test_other_tools_read_both_tables_and_join_them(both):
    memory, _, folder = both
    pairs, latents = pd.read_parquet(folder / PAIRS_IN), pd.read_parquet(folder / LATENTS_IN)
    assert pairs["row"].tolist() == list(range(1, N + len(PARTS) + 1))
    assert pairs["problem"].dropna().tolist() == ["prompt: none"] * len(PARTS)
    assert (pairs["pair"].isna() == pairs["problem"].notna()).all()
    rejected = latents[~latents["chosen"]]
    assert len(rejected) == len(memory.strengths.fired)
    assert sorted(rejected["gated"]) == sorted(memory.strengths.gated.tolist())


@pytest.mark.parametrize("rows", [np.arange(N), np.array([12, 0, 3, 3, 7]), np.zeros(0, np.int64)])
def test_latents_are_those_in_memory(both, rows):
    memory, stored = both[0].take(rows).strengths, both[1].take(rows).by_latent
    d_sae = memory.d_sae
    for activity in ACTIVITIES:
        np.testing.assert_allclose(stored.frequency(activity), memory.frequency(activity))
    for latents in (np.arange(d_sae), np.arange(d_sae)[::-2], np.array([d_sae - 1])):
        np.testing.assert_array_equal(stored.dense_gated(latents), memory.dense_gated(latents))
        np.testing.assert_array_equal(
            stored.matrix("fires")[:, latents].toarray(), memory.matrix("fires")[:, latents].toarray()
        )
    np.testing.assert_array_equal(stored.peaks(d_sae // 2), memory.peaks(d_sae // 2))


def test_blocks_are_all_latents_and_read_no_other_row_groups(both, monkeypatch):
    stored = both[1].by_latent
    matrix = stored.matrix("gated")
    assert isinstance(stored, StoredLatents) and isinstance(matrix, StoredMatrix)
    blocks = list(matrix.blocks())
    np.testing.assert_array_equal(np.concatenate(blocks), np.arange(stored.d_sae))
    assert len(blocks) == min(BLOCKS, stored.d_sae)
    for block in blocks:
        assert {one for _, latents, _ in stored.files.read(block) for one in latents} <= set(block.tolist())


def test_columns_beside_those_in_files_keep_the_order_asked_for(both):
    memory, stored = both[0].strengths.matrix("gated"), both[1].by_latent.matrix("gated")
    more = csr_matrix(np.arange(2.0 * N).reshape(N, 2))
    ours, theirs = beside(stored, more), hstack([memory, more], "csr")
    d_sae = memory.shape[1]
    assert ours.shape == theirs.shape
    for columns in (np.array([d_sae + 1, 0, d_sae]), np.arange(d_sae + 2), np.array([d_sae]), np.array([0])):
        np.testing.assert_array_equal(ours[:, columns].toarray(), theirs[:, columns].toarray())
    np.testing.assert_array_equal(np.concatenate(list(ours.blocks())), np.arange(d_sae + 2))


def test_damaged_files_are_named(tmp_path):
    sides = _side(N, 5, 0), _side(N, 5, 1)
    stored = _stored(tmp_path, sides)
    file = tmp_path / LATENTS_IN / "part-000002.parquet"
    data = bytearray(file.read_bytes())
    chosen, _ = stored.responses("mean", 5, states=False)
    expected = chosen.by_latent.frequency("any"), chosen.by_latent.dense_gated(np.arange(5))
    for place in range(len(data)):  # wherever a byte is wrong, it is said or does not matter
        data[place] ^= 0xFF
        file.write_bytes(data)
        data[place] ^= 0xFF
        damaged, _ = stored.responses("mean", 5, states=False)
        try:
            found = damaged.by_latent.frequency("any"), damaged.by_latent.dense_gated(np.arange(5))
        except SparseRMError as error:
            assert re.search(r"part-000002\.parquet cannot be read .*repeat the command", str(error))
        else:
            for ours, theirs in zip(found, expected, strict=True):
                np.testing.assert_array_equal(ours, theirs)
    (tmp_path / PAIRS_IN / "part-000000.parquet").unlink()
    with pytest.raises(SparseRMError, match=r"part-000000\.parquet cannot be read"):
        stored.responses("mean", 5, states=True)
