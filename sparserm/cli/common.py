"""Options, data loading and output shared by all commands."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from sparserm import __version__
from sparserm.support.defaults import DEFAULT_BACKBONE, DEFAULT_LAYER
from sparserm.types import PairIssue, PreferenceData, SparseRMError

if TYPE_CHECKING:
    from sparserm.pairs.runs import Engine
    from sparserm.representations.files import RepresentedPairs

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Find out what your preference data rewards, and train a reward model whose rewards are sums of readable features.",
)

_HEAD = "Folder of a head, a name listed by `sparserm heads`, or USER/NAME[@REVISION] on the Hugging Face Hub."

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
HeadOption = Annotated[str, typer.Option(help=_HEAD)]
HeadArgument = Annotated[str, typer.Argument(help=_HEAD)]
PromptOption = Annotated[str, typer.Option(help="The user's message.")]
PairsOrRepresentations = Annotated[
    str,
    typer.Argument(
        help="Preference pairs: a JSONL, CSV or Parquet file, or a dataset name (NAME[@REVISION]); or a folder of "
        "`sparserm represent`."
    ),
]
PairsArgument = Annotated[
    str, typer.Argument(help="Preference pairs: a JSONL, CSV or Parquet file, or a dataset name (NAME[@REVISION]).")
]
SkipBad = Annotated[bool, typer.Option(help="Skip invalid rows and list them.")]
BackboneOption = Annotated[
    str, typer.Option(help="Backbone: a folder, USER/NAME[@REVISION] on the Hugging Face Hub, or smollm2.")
]
Columns = Annotated[
    list[str] | None, typer.Option("--column", help="Column name, as ours=theirs, e.g. prompt=question. Repeatable.")
]
Split = Annotated[str | None, typer.Option(help="Split of the dataset. Default: train, or the only one.")]
TestSplit = Annotated[str | None, typer.Option(help="Split of the dataset with the test pairs.")]
Config = Annotated[str | None, typer.Option(help="Configuration (subset) of the dataset, where it has several.")]
EngineOption = Annotated[str, typer.Option(help="local, or ray: Ray Data on the cluster RAY_ADDRESS, else on this machine.")]
Workers = Annotated[int, typer.Option(help="Number of workers of --engine ray.", min=1)]

_T = TypeVar("_T")

DEFAULT_SAE = f"{DEFAULT_BACKBONE}/layer_{DEFAULT_LAYER}"

#: Of the warnings of one kind this many are printed, the rest are counted.
LISTED = 5

#: Titles of results whose key in the JSON output is not plain enough; others are shown as the key, with spaces.
TITLES = {
    "ci95": "95% interval",
    "chance": "win probability",
    "random_directions": "random latents",
    "length_baseline": "longer-response baseline",
    "surface_features": "surface features",
    "expected_error": "expected calibration error",
    "n_sure": "features that surely differ",
}


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def numbers(option: str, text: str, example: str) -> list[int]:
    """Comma-separated whole numbers, without duplicates."""
    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise SparseRMError(f"{option} is {text!r}; expected numbers and commas, e.g. {example}") from None


def load(
    source: str, columns: Sequence[str] | None, skip_bad: bool, split: str | None = None, config: str | None = None
) -> PreferenceData:
    """Read preference pairs and print the warnings."""
    from sparserm.pairs.load import load_pairs
    from sparserm.representations.files import holds_representations

    if holds_representations(source):
        raise SparseRMError(f"{source} holds representations, which train and insights read; expected preference pairs")
    data = load_pairs(source, columns=column_names(columns), skip_bad=skip_bad, split=split, config=config)
    warn(data.issues, data.name)
    return data


def load_or_open(
    source: str, columns: Sequence[str] | None, skip_bad: bool, split: str | None, config: str | None
) -> PreferenceData | RepresentedPairs:
    """Read preference pairs, or open a folder of representations, and print the warnings."""
    from sparserm.representations.files import RepresentedPairs, holds_representations

    if not holds_representations(source):
        return load(source, columns, skip_bad, split, config)
    if columns or skip_bad or split or config:
        raise SparseRMError(
            f"{source} holds representations; expected neither --column, --skip-bad, --split nor --config, which are for "
            "`sparserm represent`; leave them out"
        )
    found = RepresentedPairs.open(source)
    warn(found.data.issues, found.data.name)
    return found


def column_names(entries: Sequence[str] | None) -> dict[str, str]:
    """The mapping given by ``--column``: our column names to those of the source."""
    mapping = {}
    for entry in entries or ():
        ours, separator, theirs = entry.partition("=")
        if not separator or not theirs:
            raise SparseRMError(f"--column {entry!r}; expected ours=theirs, e.g. --column prompt=question")
        mapping[ours] = theirs
    return mapping


def engine_of(name: str, workers: int) -> Engine:
    """The engine of ``--engine`` and ``--workers``."""
    from sparserm.pairs.runs import run_here

    if name == "ray":
        from sparserm.integrations.ray import RayEngine

        return RayEngine(workers)
    if name == "local":
        return run_here
    raise SparseRMError(f"--engine is {name!r}; expected local or ray")


def load_backbone(model: Any) -> None:
    from sparserm.support.progress import terminal_progress

    with terminal_progress() as progress:
        model.load_backbone(progress)


def readable(folders: Mapping[str, Path], read: Callable[[str, Path], _T]) -> Iterator[tuple[str, Path, _T]]:
    """Yield name, folder and the value read from it; folders that cannot be read are skipped with a warning."""
    for name, folder in folders.items():
        try:
            value = read(name, folder)
        except SparseRMError as error:
            typer.echo(f"warning: {name} is skipped: {' '.join(str(error).split())}", err=True)
        else:
            yield name, folder, value


def warn(issues: Iterable[PairIssue], name: str) -> None:
    """Print issues to stderr: the first few of each kind, then the number of the others."""
    shown: Counter[str] = Counter()
    for issue in issues:
        kind = f"{issue.column}: {re.sub('[0-9]+', 'N', issue.problem)}"
        shown[kind] += 1
        if shown[kind] <= LISTED:
            typer.echo(f"{'skipped' if issue.severity == 'error' else 'warning'}: {name}: {issue}", err=True)
    for kind, count in shown.items():
        if count > LISTED:
            typer.echo(f"warning: {name}: {count - LISTED} more rows like this, column {kind}", err=True)


def warn_truncated(count: int) -> None:
    if count:
        typer.echo(f"warning: {count} texts exceed the backbone's context; their prompts were truncated on the left", err=True)


def note_thinking(responses: Sequence[str]) -> None:
    """Say on stderr if thinking or marks of a turn were left out of responses."""
    from sparserm.pairs.messages import holds_thinking, turn_mark

    if any(map(holds_thinking, responses)):
        typer.echo("note: the thinking at the beginning of the response was left out", err=True)
    for mark in filter(None, dict.fromkeys(map(turn_mark, responses))):
        typer.echo(f"note: the mark {mark} of a turn was left out of the response", err=True)


def printed_json(as_json: bool, result: Mapping[str, Any]) -> bool:
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False, allow_nan=False))
    return as_json


def print_table(title: str, rows: Sequence[Mapping[str, Any]], **columns: str) -> None:
    """Print a table; ``columns`` maps each column's name to its format."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for name, spec in columns.items():
        table.add_column(_title(name), justify="left" if spec == "s" else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(row.get(name), spec)) for name, spec in columns.items()))  # Text: no markup in it
    Console().print(table)


def print_facts(title: str, facts: Mapping[str, Any]) -> None:
    print_table(title, [{"": _title(name), "value": value} for name, value in facts.items()], **{"": "s", "value": "s"})


def plain_numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are numbers."""
    return {name: value for name, value in values.items() if isinstance(value, (int, float))}


def _title(name: str) -> str:
    return TITLES.get(name, name.replace("_", " "))


def _cell(value: Any, spec: str) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{_title(name)}: {_cell(one, spec)}" for name, one in value.items())
    if isinstance(value, (list, tuple)):  # two floats are an interval
        interval = len(value) == 2 and isinstance(value[0], float)
        return (" to " if interval else ", ").join(_cell(one, spec) for one in value)
    if isinstance(value, float) and spec == "s":
        return f"{value:.4g}"
    return format(value, spec) if isinstance(value, (int, float)) and spec != "s" else str(value)
