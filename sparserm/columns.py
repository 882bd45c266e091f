"""What is kept of many texts, place by place: what is read goes where it stays, so that one place at most is held twice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

#: Blobs joined at a time.
_SOME = 1024


class Column(ABC):
    """One blob for each text.

    Attributes:
        keys: ``n`` of them, of the texts' blobs; some may be equal.
        there: ``[n]`` bool, of which texts there is one yet.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self.keys = keys
        self.there = np.zeros(len(keys), bool)

    def fill(self, blobs: Mapping[bytes, bytes]) -> None:
        """Keep those of its blobs that are among these."""
        for start in range(0, len(self.keys), _SOME):
            rows = [row for row in range(start, min(start + _SOME, len(self.keys))) if self.keys[row] in blobs]
            if rows:
                self._put(rows, [blobs[self.keys[row]] for row in rows])
                self.there[rows] = True

    @abstractmethod
    def _put(self, rows: Sequence[int], blobs: Sequence[bytes]) -> None: ...


class ArrayColumn(Column):
    """Blobs of one size, which make up an array.

    Attributes:
        array: ``[n, ...]``; what it holds of texts that are not there yet means nothing.
    """

    def __init__(self, keys: Sequence[bytes], shape: tuple[int, ...], dtype: type) -> None:
        super().__init__(keys)
        self.array: np.ndarray = np.empty((len(keys), *shape), dtype)

    def _put(self, rows: Sequence[int], blobs: Sequence[bytes]) -> None:
        self.array[rows] = np.frombuffer(b"".join(blobs), self.array.dtype).reshape(len(rows), *self.array.shape[1:])


class BlobColumn(Column):
    """Blobs of any size.

    Attributes:
        blobs: ``n`` of them, empty where one is not there yet.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        super().__init__(keys)
        self.blobs = [b""] * len(keys)

    def _put(self, rows: Sequence[int], blobs: Sequence[bytes]) -> None:
        for row, blob in zip(rows, blobs, strict=True):
            self.blobs[row] = blob
