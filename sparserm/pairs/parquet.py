"""Reads Parquet files in batches whose unpacked size is checked before they are unpacked.

A Parquet file stores equal values once: a file of 1 kB can hold millions of copies of a long text, and neither its size nor its
footer tells. Texts are therefore read as numbers into a dictionary, which take four bytes each however long the text is.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sparserm.pairs.limits import Budget, check_columns
from sparserm.support.files import one_line
from sparserm.support.processes import python
from sparserm.types import SparseRMError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

#: Rows that are decoded at once.
_BATCH = 4096
#: Bytes that a value takes as a Python object, at least; bytes of a row.
_VALUE, _ROW = 32, 200
#: The unpacked values take at most this many times their size as Python objects: a name and a place in a dictionary each.
_GROWTH = 5
#: Prints the number of values of a Parquet file on stdin.
_COUNT = """
import io, sys
import pyarrow.parquet as pq
metadata = pq.ParquetFile(io.BytesIO(sys.stdin.buffer.read())).metadata
groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
print(sum(group.column(i).num_values for group in groups for i in range(group.num_columns)))
"""
#: Column chunks (row groups x columns) of a file that is read whole; each takes time to look at.
_MAX_CHUNKS = 1_000_000


@contextmanager
def parquet_errors(filename: str) -> Iterator[None]:
    """Turn errors of reading a Parquet file inside the block into one that names the file.

    Raises:
        SparseRMError: the file cannot be read.
    """
    import pyarrow as pa

    try:
        yield
    except SparseRMError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = one_line(f"{type(error).__name__}: {error}")
        raise SparseRMError(f"{filename} is not a readable Parquet file ({reason}): write it again") from error


def open_parquet(source: Any, name: str) -> pq.ParquetFile:
    """Open a Parquet file, a path or a file object, for :func:`batches`.

    Raises:
        SparseRMError: it has more than :data:`~sparserm.pairs.limits.MAX_COLUMNS` columns, or two of the same name.
    """
    import pyarrow.parquet as pq

    options: dict[str, Any] = {"pre_buffer": False, "buffer_size": 1 << 20}
    with pq.ParquetFile(source, **options) as file:
        metadata = file.metadata
    check_columns(metadata.num_columns, name)
    leaves = [metadata.schema.column(i) for i in range(metadata.num_columns)]
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    return pq.ParquetFile(source, metadata=metadata, read_dictionary=texts, **options)


def check_whole(file: pq.ParquetFile, data: memoryview, budget: Budget) -> None:
    """Check what the footer says about the size of the whole file.

    Args:
        data: the bytes of the file.

    Raises:
        SparseRMError: it exceeds the budget, or the footer cannot be read.
    """
    metadata = file.metadata
    n_columns = metadata.num_columns
    budget.require(metadata.num_rows * (_ROW + n_columns * _fixed_width(metadata)))
    if metadata.num_row_groups * n_columns > _MAX_CHUNKS:
        raise SparseRMError(
            f"{budget.name} has {metadata.num_row_groups:,} row groups of {n_columns:,} columns; expected at most "
            f"{_MAX_CHUNKS // n_columns:,} row groups; write it again with larger ones"
        )
    n_values = metadata.num_rows * n_columns
    if any(metadata.schema.column(i).max_repetition_level for i in range(n_columns)):  # lists: any number of values a row
        n_values = _count_values(data, budget.name)
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    budget.require(n_values * _VALUE + size)


def _count_values(data: memoryview, name: str) -> int:
    """The number of values in a file, counted in a process of its own: pyarrow ends the process if a footer is damaged here.

    Raises:
        SparseRMError: the footer cannot be read.
    """
    found = subprocess.run(python(_COUNT), input=data, capture_output=True, check=False)
    if found.returncode or not found.stdout.strip().isdigit():
        raise SparseRMError(f"{name} is not a readable Parquet file (its footer is damaged): write it again")
    return int(found.stdout)


def _fixed_width(metadata: pq.FileMetaData) -> int:
    """Bytes of the widest column of fixed width: these are not read as dictionaries."""
    return max((metadata.schema.column(i).length or 0 for i in range(metadata.num_columns)), default=0)


def batches(
    file: pq.ParquetFile, budget: Budget, row_groups: Sequence[int] | None = None, rows: int = _BATCH
) -> Iterator[pa.RecordBatch]:
    """Batches of at most ``rows`` rows, with texts as dictionaries; :func:`unpack` gives their rows.

    Raises:
        SparseRMError: a batch would exceed what is left of the budget when it is unpacked.
    """
    width = _fixed_width(file.metadata) * file.metadata.num_columns
    rows = max(1, min(rows, budget.limit // max(width, 1)))
    for batch in file.iter_batches(rows, row_groups=row_groups):
        size = sum(_unpacked_size(column) for column in batch.columns)
        budget.require(size)
        budget.possible += _GROWTH * size + _ROW * len(batch)
        yield batch


def unpack(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows of a batch as Python objects."""
    names = batch.schema.names
    if not names:
        return [{} for _ in range(batch.num_rows)]
    return [dict(zip(names, row, strict=True)) for row in zip(*map(_values, batch.columns), strict=True)]


def _unpacked_size(array: pa.Array) -> int:
    """Bytes that the values of an array take, at least, once equal ones no longer share a place."""
    import pyarrow as pa
    import pyarrow.compute as pc

    own = _VALUE * (len(array) - array.null_count)
    if pa.types.is_dictionary(array.type):
        counts = array.indices.drop_null().value_counts()
        lengths = pc.cast(pc.binary_length(array.dictionary.take(counts.field("values"))), pa.int64())
        return own + (pc.sum(pc.multiply_checked(lengths, counts.field("counts"))).as_py() or 0)
    if pa.types.is_map(array.type):
        return own + _unpacked_size(array.keys) + _unpacked_size(array.items)
    if pa.types.is_nested(array.type):
        children = array.flatten()
        return own + sum(map(_unpacked_size, children if isinstance(children, list) else [children]))
    return own + int(array.nbytes)


def _values(array: pa.Array) -> list[Any]:
    """The values as Python objects; equal texts are one object."""
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        used = array.indices.drop_null().unique()
        texts: Mapping[Any, Any] = dict(zip(used.to_pylist(), array.dictionary.take(used).to_pylist(), strict=True))
        return [texts.get(index) for index in array.indices.to_pylist()]
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        offsets = array.offsets.to_pylist()
        inner = _values(array.values.slice(offsets[0], offsets[-1] - offsets[0]))
        valid = array.is_valid().to_pylist()
        bounds = zip(valid, offsets, offsets[1:], strict=False)
        return [inner[start - offsets[0] : end - offsets[0]] if one else None for one, start, end in bounds]
    if pa.types.is_struct(array.type) and array.type.num_fields:
        names = [field.name for field in array.type]
        rows = zip(array.is_valid().to_pylist(), *map(_values, array.flatten()), strict=True)
        return [dict(zip(names, row, strict=True)) if one else None for one, *row in rows]
    found: list[Any] = array.to_pylist()
    return found
