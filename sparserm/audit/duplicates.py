"""Near-duplicate detection: Jaccard similarity of character shingles, with bounded cost for 100,000 texts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparserm.pairs.warnings import visible

#: Minimum Jaccard similarity of the shingles of near duplicates (Broder, 1997).
NEAR = 0.8
#: Maximum number of characters read, in total and per text, to bound the cost: 300 of each of 100,000 texts, 2,000 of each of
#: 15,000.
CHARACTERS = 30_000_000
LONGEST = 2_000
#: Shingles that occur in more texts than this are not used to find candidate pairs.
COMMON = 100
_BLOCK = 500


@dataclass(frozen=True)
class Match:
    """Text ``index`` is a near duplicate of text ``other``."""

    index: int
    other: int
    similarity: float


#: Cyrillic and Greek letters that look like Latin ones, in lower or upper case.
_LOOK_ALIKES = str.maketrans("аеорсухіјѕԁһԛԝвнкмтαορνυικτηχβεμζ", "aeopcyxijsdhqwbhkmtaopvuiktnxbemz")


def normalised(text: str) -> str:
    """The text with Unicode (NFKC), case, white space, invisible characters and letters that look alike normalised."""
    return visible(unicodedata.normalize("NFKC", text)).casefold().translate(_LOOK_ALIKES)


def _words(text: str) -> str:
    """The words of the text in lower case, without punctuation."""
    return " ".join(re.findall(r"\w+", normalised(text)))


def near_matches(texts: Sequence[str], others: Sequence[str] | None = None) -> list[Match]:
    """The most similar near duplicate of each text among ``others``, or among the preceding texts if ``others`` is None.

    Of long texts only the last characters are compared; texts without a rare shingle are not found.
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    everything = [*texts, *(others or ())]
    if not any(everything):
        return []
    longest = min(LONGEST, CHARACTERS // len(everything))
    vectorizer = HashingVectorizer(
        analyzer="char_wb", ngram_range=(5, 5), n_features=2**20, binary=True, norm=None, alternate_sign=False, dtype=np.float32
    )
    shingles = vectorizer.transform([_words(text)[-longest:] for text in everything])
    sizes = np.diff(shingles.indptr)
    shared_by = np.bincount(shingles.indices, minlength=shingles.shape[1])
    rare = shingles.copy()
    rare.data = (shared_by[rare.indices] <= COMMON).astype(np.float32)
    rare.eliminate_zeros()
    first_other = len(texts) if others is not None else 0
    against = rare[first_other:].T.tocsc()
    found = []
    for start in range(0, len(texts), _BLOCK):
        rows, columns, common = _candidates(rare[start : min(start + _BLOCK, len(texts))], against)
        rows, columns = rows + start, columns + first_other
        likely = 2 * common >= np.maximum(np.diff(rare.indptr)[rows], np.diff(rare.indptr)[columns])
        likely &= (columns < rows) if others is None else True
        rows, columns = rows[likely], columns[likely]
        both = np.asarray(shingles[rows].multiply(shingles[columns]).sum(1)).ravel()
        similarity = both / (sizes[rows] + sizes[columns] - both)
        found += _best(rows, columns - first_other, similarity)
    return found


def _candidates(block: Any, against: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and number of shared rare shingles of all pairs of texts that share any."""
    product = (block @ against).tocoo()
    return product.row.astype(np.int64), product.col.astype(np.int64), product.data


def _best(rows: np.ndarray, columns: np.ndarray, similarity: np.ndarray) -> list[Match]:
    """The most similar column of each row; the first one in case of ties."""
    near = similarity >= NEAR
    rows, columns, similarity = rows[near], columns[near], similarity[near]
    order = np.lexsort((columns, -similarity, rows))
    _, first = np.unique(rows[order], return_index=True)
    return [Match(int(rows[i]), int(columns[i]), float(similarity[i])) for i in order[first]]
