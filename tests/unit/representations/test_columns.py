"""Blobs go to their texts, whatever comes first."""

from __future__ import annotations

import numpy as np
import pytest

from sparserm.representations import store
from sparserm.representations.store import ArrayColumn, BlobColumn


def blob(*values: int) -> bytes:
    return np.array(values, np.int32).tobytes()


KEYS = [b"a", b"b", b"a", b"c"]


@pytest.mark.parametrize("some", [1, 3, 1000])
def test_an_array_is_filled_in_parts(monkeypatch, some: int) -> None:
    monkeypatch.setattr(store, "_FILL_BATCH", some)
    column = ArrayColumn(KEYS, (2,), np.int32)
    column.fill({b"a": blob(1, 2), b"other": b"?"})
    np.testing.assert_array_equal(column.filled, [True, False, True, False])
    column.fill({b"c": blob(5, 6), b"b": blob(3, 4)})
    np.testing.assert_array_equal(column.array, [[1, 2], [3, 4], [1, 2], [5, 6]])
    assert column.filled.all()


def test_blobs_of_any_size_are_kept_as_they_are() -> None:
    column = BlobColumn(KEYS)
    column.fill({b"a": b"", b"c": b"long"})
    assert column.blobs == [b"", b"", b"", b"long"]
    np.testing.assert_array_equal(column.filled, [True, False, True, True])


def test_a_blob_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError):
        ArrayColumn(KEYS, (2,), np.int32).fill({b"a": blob(1)})


def test_no_texts_have_no_blobs() -> None:
    column = ArrayColumn([], (2,), np.int32)
    column.fill({b"a": blob(1, 2)})
    assert column.array.shape == (0, 2)


def test_stored_blobs_of_another_size_or_with_impossible_values_are_left_out(monkeypatch) -> None:
    monkeypatch.setattr(store, "_FILL_BATCH", 2)
    column = ArrayColumn([b"a", b"b", b"c", b"d", b"b"], (2,), np.int32, lambda values: (values >= 0).all(1))
    assert column.fill_stored({b"a": blob(1, 2), b"b": blob(3, -4), b"c": blob(5), b"d": blob(7, 8)}) == {b"b", b"c"}
    assert column.filled.tolist() == [True, False, False, True, False]
    column.fill({b"b": blob(3, 4), b"c": blob(5, 6)})
    assert column.array.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8], [3, 4]]


def test_stored_records_that_are_impossible_are_left_out() -> None:
    column = BlobColumn([b"a", b"b", b"c", b"d"], np.dtype(np.int32), lambda values: values >= 0)
    assert column.fill_stored({b"a": b"", b"b": blob(1, -2, 3), b"c": blob(4), b"d": blob(4)[:3]}) == {b"b", b"d"}
    assert column.filled.tolist() == [True, False, True, False]
