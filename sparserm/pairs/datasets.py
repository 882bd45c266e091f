"""Datasets of the Hugging Face Hub and of the ``datasets`` library, and which part of them is read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from urllib.parse import quote

from sparserm.pairs.files import kept
from sparserm.pairs.limits import Budget
from sparserm.pairs.rows import RawRow, raw_rows
from sparserm.support.files import one_line
from sparserm.support.hub import HubName, cache_if_unreachable, hub_problem
from sparserm.types import SparseRMError


def is_saved_dataset(path: Path) -> bool:
    """Whether ``path`` is a folder written by ``datasets.save_to_disk``."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


class ChoiceError(SparseRMError):
    """A data set has several splits or configurations, and none of them was chosen.

    Attributes:
        what: ``split`` or ``config``.
        options: names to choose from.
    """

    def __init__(self, name: str, what: str, options: Iterable[str], asked: str | None) -> None:
        self.what, self.options = what, tuple(options)
        said = f"has no {what} {asked!r}" if asked else f"has several {what}s"
        listed = one_line(", ".join(self.options), 400)
        super().__init__(
            f"{name} {said}: expected one of {listed}; choose one, e.g. {what}={self.options[0]!r} (--{what} {self.options[0]})"
        )


def choose_split(splits: Sequence[str], split: str | None, name: str) -> str:
    """The split to read: the one asked for, else ``train`` or the only one.

    Raises:
        ChoiceError: it is not there, or there are several and none is called ``train``.
    """
    found = split or ("train" if "train" in splits or len(splits) != 1 else splits[0])
    if found not in splits:
        raise ChoiceError(name, "split", splits, split)
    return found


def read_saved_dataset(path: Path, split: str | None) -> list[RawRow]:
    """Read the rows of a folder written by ``datasets.save_to_disk``.

    Raises:
        SparseRMError: the folder is broken, or has no such split.
    """
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
        if isinstance(loaded, datasets.DatasetDict):
            loaded = loaded[choose_split([str(one) for one in loaded], split, path.name)]
        elif split is not None:
            raise SparseRMError(f"{path.name} has no splits, but split {split!r} was asked for; leave it out (--split)")
        return kept(raw_rows(loaded), Budget(path.name))
    except SparseRMError:
        raise
    except Exception as error:  # from arrow, json or the file system: in each case the folder is broken
        raise SparseRMError(
            f"cannot read the saved dataset {path}: {one_line(f'{type(error).__name__}: {error}')}; save it again"
        ) from error


def read_hub_dataset(name: str, split: str | None, config: str | None = None) -> list[RawRow]:
    """Read a dataset of the Hugging Face Hub by name (or a local folder that ``datasets.load_dataset`` reads).

    Raises:
        ChoiceError: it has several splits or configurations, and none was chosen.
        SparseRMError: it cannot be loaded; the message includes the reason given by ``datasets``.
    """
    import datasets

    asked = HubName(name) if Path(name).is_dir() else HubName.parse(name) or HubName(name)
    where = _revision(asked)
    try:
        if not Path(name).is_dir() and not _is_in_hub_cache(asked):
            _ask_hub(asked)
        load = partial(datasets.load_dataset, asked.repository, *([config] if config else []), **where)
        with nullcontext() if Path(name).is_dir() else cache_if_unreachable():
            try:
                loaded = load(split=split or "train")
            except ValueError as error:
                other = _part(asked, split, config)
                if other is None:
                    raise error from None
                loaded = load(split=other)
        return kept(raw_rows(loaded), Budget(name))
    except ChoiceError:
        raise
    except Exception as error:  # errors of datasets, the Hub, httpx or the file system
        problem = hub_problem(error, name, "dataset")
        raise SparseRMError(f"dataset {name!r} could not be loaded: {problem}; or use a file") from error


def _part(asked: HubName, split: str | None, config: str | None) -> str | None:
    """The split that can be read where the one asked for, or ``train``, cannot; None if it is the same.

    Raises:
        ChoiceError: there are others to choose from.
    """
    import datasets

    name, where = asked.repository, _revision(asked)
    configs = datasets.get_dataset_config_names(name, **where)
    undecided = config not in configs and len(configs) > 1
    if undecided and (config or datasets.get_dataset_default_config_name(name, **where) is None):
        raise ChoiceError(str(asked), "config", configs, config)
    found = choose_split(datasets.get_dataset_split_names(name, config, **where), split, str(asked))
    return found if found != (split or "train") else None


def _ask_hub(asked: HubName) -> None:
    """Check once that the dataset exists: without network, ``load_dataset`` would retry for half a minute."""
    import huggingface_hub

    huggingface_hub.HfApi().dataset_info(asked.repository, revision=asked.revision, timeout=10)


def _revision(asked: HubName) -> dict[str, str]:
    """The revision, and a cache of its own: without network ``datasets`` takes the latest of whatever is in a cache."""
    if asked.revision is None:
        return {}
    return {"revision": asked.revision, "cache_dir": str(_cache(asked))}


def _cache(asked: HubName) -> Path:
    """The folder in which ``datasets`` caches a dataset."""
    import datasets

    shared = Path(datasets.config.HF_DATASETS_CACHE)
    return shared / f"at {quote(asked.revision, safe='')}" if asked.revision else shared


def _is_in_hub_cache(asked: HubName) -> bool:
    """Whether this dataset is in the cache of ``datasets``, so that it loads without network."""

    def plain(text: str) -> str:  # the cache spells owner/MyData as owner___my_data
        return re.sub(r"[^a-z0-9]", "", text.lower())

    cache = _cache(asked)
    return cache.is_dir() and any(plain(folder.name) == plain(asked.repository) for folder in cache.iterdir())
