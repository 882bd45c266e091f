"""Loads preference pairs and prompts from a file or by name."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from sparserm.pairs.columns import find_columns
from sparserm.pairs.datasets import ChoiceError, is_saved_dataset, read_hub_dataset, read_saved_dataset
from sparserm.pairs.files import find_data_file, has_data_suffix, list_data_files, read_path
from sparserm.pairs.layouts import find_layout
from sparserm.pairs.parsing import parse_rows
from sparserm.pairs.reading import read_rows
from sparserm.pairs.rows import WHOLE_ROW, RawRow, columns_of
from sparserm.pairs.split import prompt_key
from sparserm.pairs.warnings import source_warnings, text_warnings
from sparserm.support.defaults import TASKS, assets_dir
from sparserm.support.files import one_line
from sparserm.support.hub import HubName
from sparserm.types import PairIssue, PreferenceData, PreferencePair, Prompt, SparseRMError

#: Where in a folder the files of a dataset may be.
_DEPTHS = ("*", "*/*", "*/*/*")
#: Responses of a row that has a prompt alone, so that it is read as a pair is; and rows that tell the layout of a source.
_RESPONSES, _SAMPLE = {"chosen": "Yes.", "rejected": "No."}, 50


class PromptData(NamedTuple):
    """The distinct prompts of a source, in order of first occurrence, with warnings about its rows."""

    name: str
    prompts: tuple[Prompt, ...]
    issues: tuple[PairIssue, ...]


class PromptSplit(NamedTuple):
    """Training prompts and held-out prompts."""

    train: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]


# ---------------------------------------------------------------------------------------------------------- sources


def load_pairs(
    source: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    skip_bad: bool = False,
    split: str | None = None,
    config: str | None = None,
) -> PreferenceData:
    """Load preference pairs from a file, a folder or a name; the first match in this order is used.

    1. a file: ``.jsonl``, ``.json``, ``.csv``, ``.tsv``, ``.parquet``, or one of these compressed; or a folder of such files or
       written by ``datasets.save_to_disk``;
    2. a file below ``SPARSERM_DATA``, by relative path or file name, with or without the suffix;
    3. a starter set: ``truthfulness``, ``safety``, ``redteam`` or ``helpfulness``;
    4. a dataset of the Hugging Face Hub, through ``datasets.load_dataset``: ``owner/name``, or ``owner/name@revision``.

    Args:
        source: the path or name.
        columns: maps our column names to those of the source, e.g. ``{"prompt": "question"}``.
        skip_bad: leave out rows that cannot be used and list them in ``.issues``, instead of raising.
        split: the split of a dataset to read; defaults to ``train`` or the only one.
        config: the configuration (subset) of a dataset; defaults to its default or the only one.

    Raises:
        PairsError: rows cannot be used and ``skip_bad`` is not set, or no row can be used.
        ChoiceError: a dataset has several splits or configurations, and none was chosen.
        SparseRMError: nothing was found under that name, or the whole source is unreadable.
    """
    name, rows = read_source(source, split, config)
    return parse_rows(rows, name, columns=columns, skip_bad=skip_bad)


def read_source(source: str | Path, split: str | None = None, config: str | None = None) -> tuple[str, list[RawRow]]:
    """The name and the raw rows of a source that :func:`load_pairs` accepts; the name says which part of a dataset was chosen.

    Raises:
        SparseRMError: nothing was found under that name, or the whole source is unreadable.
    """
    text = str(source)
    chosen = f"{text} ({', '.join(filter(None, (config, split)))})" if config or split else text
    if (path := find_file(source)) is not None:
        if split or config:
            raise SparseRMError(
                f"{path.name} is one file, without splits or configurations, but {split or config!r} was asked for; leave that "
                "out, or give the file of that part"
            )
        return (text if text in TASKS else path.name), read_path(path)
    if (saved := _as_path(text)) is not None and is_saved_dataset(saved):
        return f"{saved.name}{chosen.removeprefix(text)}", read_saved_dataset(saved, split)
    if saved is not None and saved.is_dir() and any(has_data_suffix(one.name) for deep in _DEPTHS for one in saved.glob(deep)):
        return f"{saved.name}{chosen.removeprefix(text)}", read_hub_dataset(str(saved), split, config)
    return chosen, _read_named_dataset(text, split, config)


def find_file(source: str | Path) -> Path | None:
    """The file that :func:`load_pairs` reads for a source; None for a saved dataset or a Hub dataset.

    Raises:
        SparseRMError: the source is empty, or matches several files under ``SPARSERM_DATA``.
    """
    text = str(source)
    if not text.strip():
        raise SparseRMError("no preference data was given: expected a file, a starter set or a dataset name")
    path = _as_path(text)
    if path is not None and path.is_file():
        return path
    if path is not None and is_saved_dataset(path):
        return None
    if (found := find_data_file(text)) is not None:
        return found
    if text in TASKS:
        return assets_dir() / "pairs" / f"{text}.jsonl"
    return None


def _as_path(text: str) -> Path | None:
    try:
        path = Path(text).expanduser()
        path.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, contains a NUL, unknown home folder: not a path
        return None
    return path


def _read_named_dataset(name: str, split: str | None, config: str | None) -> list[RawRow]:
    offered = ", ".join(list_data_files()) or "none"
    tried = (
        f"no preference data called {name!r}: not a file or saved dataset, not a file under SPARSERM_DATA "
        f"(available: {offered}), not a starter set ({', '.join(TASKS)})"
    )
    # A mistyped file name must not be looked up on the network.
    if has_data_suffix(name) or HubName.parse(name) is None:
        raise SparseRMError(f"{tried}; check the path")
    try:
        return read_hub_dataset(name, split, config)
    except ChoiceError:
        raise
    except SparseRMError as error:
        raise SparseRMError(f"{tried}; and {error}") from error


def load_prompts(source: str | Path) -> tuple[Prompt, ...]:
    """The distinct prompts of a source, in order of first occurrence.

    Args:
        source: as for :func:`load_pairs`: preference pairs, or any rows with a prompt in a column that pairs may have it in.

    Raises:
        SparseRMError: the source cannot be read, or a row has no usable prompt.
    """
    return read_prompts(source).prompts


def read_prompts(source: str | Path) -> PromptData:
    """As :func:`load_prompts`, with the source's name and warnings.

    Raises:
        SparseRMError: as for :func:`load_prompts`.
    """
    name, rows = read_source(source)
    if not rows:
        return PromptData(name, (), ())
    if unreadable := [str(row.issue) for row in rows if row.values is None]:
        raise SparseRMError(f"{name}: {unreadable[0]}; fix the row or remove it")
    present = columns_of(rows)
    are_pairs = {"chosen", "rejected"} <= {column.lower() for column in present}
    asked = rows if are_pairs else [replace(row, values={**(row.values or {}), **_RESPONSES}) for row in rows]
    columns = replace(find_columns(asked, {}, name), verdicts=())
    layout = None if are_pairs else find_layout(present, [row.values or {} for row in rows[:_SAMPLE]])
    if layout is not None and (columns.prompt is None or columns.prompt in layout.columns):  # it tells where the prompt ends
        data = parse_rows(rows, name, columns=None, skip_bad=False)
        return PromptData(name, _distinct(data.pairs), data.issues)
    if columns.prompt is None and not are_pairs:
        listed = one_line(", ".join(map(repr, present)) or "(none)", 400)
        raise SparseRMError(f"{name} has the columns {listed}; expected 'prompt', or another name for it; rename its column")
    pairs, unusable = read_rows(asked, columns)
    if errors := [str(issue) for issue in unusable if issue.severity == "error"]:
        raise SparseRMError(f"{name}: {errors[0]}; fix the row or remove it")
    said = [*text_warnings(asked, pairs, columns), *source_warnings(asked, pairs, columns)]
    issues = [row.issue for row in rows if row.issue is not None]
    issues += [one for one in said if one.column not in (columns.chosen, columns.rejected)]
    issues += [PairIssue(rows[0].row, WHOLE_ROW, columns.reading, "warning")] if columns.reading else []
    return PromptData(name, _distinct(pairs), tuple(issues))


def _distinct(pairs: Iterable[PreferencePair]) -> tuple[Prompt, ...]:
    found: dict[str, Prompt] = {}
    for pair in pairs:
        found.setdefault(prompt_key(pair.prompt), pair.prompt)
    return tuple(found.values())


def split_prompts(prompts: Sequence[Prompt], held_out: int, seed: int) -> PromptSplit:
    """Shuffle prompts and hold out ``held_out`` of them, at most a third.

    Raises:
        SparseRMError: there are fewer than six prompts.
    """
    if len(prompts) < 6:
        raise SparseRMError(
            f"got {len(prompts)} distinct prompts; expected at least six, since a third is held out for evaluation; add prompts"
        )
    shuffled = list(prompts)
    random.Random(seed).shuffle(shuffled)
    size = min(held_out, len(shuffled) // 3)
    return PromptSplit(tuple(shuffled[size:]), tuple(shuffled[:size]))
