"""Rows are taken in the order asked for, whether they are neighbours, which are not copied, or not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserm.representations.values import ACTIVITIES, ActiveLatents, LatentSummary, Representations, firings

COUNTS = np.array([2, 0, 3, 1, 4])
FIRED = firings(np.arange(10), np.linspace(0.1, 1, 10), np.arange(10, 20), np.arange(10) - 5.0)
LATENTS = LatentSummary(np.concatenate([[0], np.cumsum(COUNTS)]), FIRED, d_sae=20)
STATES = Representations("mean", np.arange(10.0).reshape(5, 2), np.arange(5), np.arange(5) + 7, LATENTS)


@given(st.lists(st.integers(0, 4)))
def test_rows_hold_what_they_held(rows):
    got = STATES.take(np.array(rows, np.int64))
    assert got.h.tolist() == [STATES.h[row].tolist() for row in rows]
    assert got.n_tokens.tolist() == rows and got.n_truncated.tolist() == [row + 7 for row in rows]
    for i, row in enumerate(rows):
        own, its = (slice(*one.indptr[[place, place + 1]]) for one, place in ((got.latents, i), (LATENTS, row)))
        for name in ("indices", "rate", "peak", "gated"):
            assert getattr(got.latents, name)[own].tolist() == getattr(LATENTS, name)[its].tolist()
    assert got.latents.indptr[0] == 0 and len(got.latents.indices) == got.latents.indptr[-1]


@given(st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=11, max_size=11), min_size=1), st.data())
def test_bits_tell_the_frequencies_that_rates_tell(rates, data):
    rate = np.array(rates, np.float32)
    rows = np.array(data.draw(st.lists(st.integers(0, len(rate) - 1))), np.int64)
    active = ActiveLatents(ActiveLatents.pack(rate), 11).take(rows)
    for activity, least in zip(ACTIVITIES, (0.01, 0.5), strict=True):
        expected = (rate[rows] >= least).mean(0) if len(rows) else np.zeros(11)
        np.testing.assert_allclose(active.frequency(activity), expected)
        entries = np.nonzero(rate)
        indptr = np.concatenate([[0], np.cumsum((rate > 0).sum(1))])
        summary = LatentSummary(indptr, firings(entries[1], rate[entries], rate[entries], -rate[entries]), 11).take(rows)
        np.testing.assert_allclose(summary.frequency(activity), expected)


def test_frequencies_of_more_responses_than_are_unpacked_at_a_time():
    bits = ActiveLatents.pack(np.array([[1.0, 0.25, 0.0]] * 1500 + [[0.0] * 3] * 1500))
    assert ActiveLatents(bits, 3).frequency("any").tolist() == [0.5, 0.5, 0]
    assert ActiveLatents(bits, 3).frequency("most").tolist() == [0.5, 0, 0]


@pytest.mark.parametrize(("rows", "shared"), [([1, 2, 3], True), ([0], True), ([3, 2], False), ([0, 2], False)])
def test_neighbours_are_not_copied(rows, shared):
    got = STATES.take(np.array(rows))
    assert np.shares_memory(got.h, STATES.h) == shared
    assert np.shares_memory(got.latents.rate, LATENTS.rate) == shared
    if shared:  # or a change here would be one there
        with pytest.raises(ValueError, match="read-only"):
            got.h[0] = 0
        with pytest.raises(ValueError, match="read-only"):
            got.latents.peak[:] = 0
