"""Loads preference pairs and prompts from a file, a dataset name or rows in memory."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sparserm.pairs import files as pairs_formats
from sparserm.pairs.files import STARTER_SETS, RawRow, list_data_files
from sparserm.pairs.messages import RowError, read_prompt
from sparserm.pairs.parsing import parse_rows
from sparserm.pairs.split import prompt_key
from sparserm.types import PreferenceData, Prompt, SparseRMError


class PromptSplit(NamedTuple):
    """Prompts to train on, and others to measure on."""

    train: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]


# ---------------------------------------------------------------------------------------------------------- sources


def load_pairs(
    source: str | Path, *, columns: Mapping[str, str] | None = None, skip_bad: bool = False, split: str = "train"
) -> PreferenceData:
    """Load preference pairs from a file, a folder or a name; the first of these that exists is taken.

    1. a file: ``.jsonl``, ``.json``, ``.csv``, ``.tsv``, ``.parquet``, or one of these packed as ``.gz``; or a folder
       written by ``datasets.save_to_disk``;
    2. a file below ``SPARSERM_DATA``, by relative path or bare name, with or without the suffix;
    3. a starter set: ``truthfulness``, ``safety``, ``redteam`` or ``helpfulness``;
    4. a dataset of the Hugging Face hub, through ``datasets.load_dataset``.

    Args:
        source: the path or name.
        columns: our column names to the source's, e.g. ``{"prompt": "question"}``.
        skip_bad: leave rows that cannot be used out, and list them in ``.issues``, instead of raising.
        split: for sources of the `datasets` library, the split to read; a file is read as it is.

    Raises:
        PairsError: rows cannot be used and ``skip_bad`` is not set, or no row can be used.
        SparseRMError: nothing of that name was found, or the source as a whole cannot be read.
    """
    name, rows = read_source(source, split)
    return parse_rows(rows, name, columns=columns, skip_bad=skip_bad)


def read_source(source: str | Path, split: str = "train") -> tuple[str, list[RawRow]]:
    """The name and the rows, as they were found, of a source that `load_pairs` takes.

    Raises:
        SparseRMError: nothing of that name was found, or the source as a whole cannot be read.
    """
    text = str(source)
    if (path := find_file(source)) is not None:
        return (text if text in STARTER_SETS else path.name), pairs_formats.read_path(path)
    if (saved := _as_path(text)) is not None and pairs_formats.is_saved_dataset(saved):
        return saved.name, pairs_formats.read_saved_dataset(saved, split)
    return text, _read_named_dataset(text, split)


def find_file(source: str | Path) -> Path | None:
    """The file that a source means, as :func:`load_pairs` finds it; None where it is a saved dataset or a name of the hub.

    Raises:
        SparseRMError: nothing was named, or several files under ``SPARSERM_DATA`` are called so.
    """
    text = str(source)
    if not text.strip():
        raise SparseRMError("no preference data was named: give a file, a starter set or a dataset name")
    path = _as_path(text)
    if path is not None and path.is_file():
        return path
    if path is not None and pairs_formats.is_saved_dataset(path):
        return None
    if (found := pairs_formats.find_data_file(text)) is not None:
        return found
    if text in STARTER_SETS:
        from sparserm.support.defaults import assets_dir

        return assets_dir() / "pairs" / f"{text}.jsonl"
    return None


def _as_path(text: str) -> Path | None:
    try:
        path = Path(text).expanduser()
        path.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, no such home: not a path
        return None
    return path


def _read_named_dataset(name: str, split: str) -> list[RawRow]:
    offered = ", ".join(list_data_files()) or "none"
    tried = (
        f"no preference data called {name!r}: not a file or saved dataset, not a file under SPARSERM_DATA "
        f"(there: {offered}), not a starter set ({', '.join(STARTER_SETS)})"
    )
    # A mistyped file name must not be looked up on the network.
    if pairs_formats.has_data_suffix(name) or not re.fullmatch(r"[\w.-]{1,96}(/[\w.-]{1,96})?", name, re.ASCII):
        raise SparseRMError(f"{tried}; check the path")
    try:
        return pairs_formats.read_hub_dataset(name, split)
    except SparseRMError as error:
        raise SparseRMError(f"{tried}; and {error}") from error


def load_prompts(source: str | Path) -> tuple[Prompt, ...]:
    """The distinct prompts of a source, in its order.

    Args:
        source: what :func:`load_pairs` takes: preference pairs, or rows with a ``prompt`` and whatever else.

    Raises:
        SparseRMError: the source cannot be read, or a row has no prompt that can be used.
    """
    name, rows = read_source(source)
    there = {column for row in rows for column in row.values or ()}
    if {"chosen", "rejected"} <= there and "prompt" not in there:  # the prompt is what both responses begin with
        prompts = [pair.prompt for pair in parse_rows(rows, name, columns=None, skip_bad=False).pairs]
    else:
        prompts = []
        for row in rows:
            try:
                if row.issue is not None:
                    raise SparseRMError(f"{name}: {row.issue}; mend the row or leave it out")
                prompts.append(read_prompt(row.values or {}))
            except RowError as problem:
                raise SparseRMError(
                    f"{name}: row {row.row}, column {problem.column}: {problem.problem}; mend the row or leave it out"
                ) from problem
    distinct: dict[str, Prompt] = {}
    for prompt in prompts:
        distinct.setdefault(prompt_key(prompt), prompt)
    return tuple(distinct.values())


def split_prompts(prompts: Sequence[Prompt], held_out: int, seed: int) -> PromptSplit:
    """Some prompts drawn at random to measure on, at most a third of all, and the others in random order to train on.

    Raises:
        SparseRMError: there are fewer than six.
    """
    if len(prompts) < 6:
        raise SparseRMError(
            f"there are {len(prompts)} different prompts; expected six at least, since a third is held out to measure on"
        )
    shuffled = list(prompts)
    random.Random(seed).shuffle(shuffled)
    size = min(held_out, len(shuffled) // 3)
    return PromptSplit(tuple(shuffled[size:]), tuple(shuffled[:size]))
