"""What all commands share: their options, how pairs are loaded, how results are printed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from sparserm import __version__
from sparserm.support.defaults import DEFAULT_BACKBONE, DEFAULT_LAYER
from sparserm.types import PairIssue, PreferenceData, SparseRMError

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="See what preference data rewards, and turn it into a reward model whose every reward is a sum one can read.",
)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
HeadOption = Annotated[str, typer.Option(help="A head's folder, or the name of a shipped one.")]
HeadArgument = Annotated[str, typer.Argument(help="A head's folder, or the name of a shipped one.")]
PromptOption = Annotated[str, typer.Option(help="What the user said.")]
PairsArgument = Annotated[str, typer.Argument(help="A JSONL, CSV or Parquet file, or a dataset name.")]
SkipBad = Annotated[bool, typer.Option(help="Leave out rows that cannot be used, and list them.")]
Columns = Annotated[
    list[str] | None, typer.Option("--column", help="Name of a column, as ours=theirs, e.g. prompt=question; can be repeated.")
]

_T = TypeVar("_T")

DEFAULT_SAE = f"{DEFAULT_BACKBONE}/layer_{DEFAULT_LAYER}"

#: Findings of one kind are listed up to this many times, then counted.
LISTED = 5


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def numbers(option: str, text: str, example: str) -> list[int]:
    """Whole numbers with commas between them, each once."""
    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise SparseRMError(f"{option} is {text!r}; expected numbers and commas, e.g. {example}") from None


def load(source: str, columns: Sequence[str] | None, skip_bad: bool) -> PreferenceData:
    from sparserm.pairs.load import load_pairs

    data = load_pairs(source, columns=column_names(columns), skip_bad=skip_bad)
    warn(data.issues, data.name)
    return data


def column_names(entries: Sequence[str] | None) -> dict[str, str]:
    """What ``--column`` gave: our names to the source's."""
    mapping = {}
    for entry in entries or ():
        ours, separator, theirs = entry.partition("=")
        if not separator or not theirs:
            raise SparseRMError(f"--column {entry!r}; expected ours=theirs, e.g. --column prompt=question")
        mapping[ours] = theirs
    return mapping


def load_backbone(model: Any) -> None:
    from sparserm.support.progress import terminal_progress

    with terminal_progress() as progress:
        model.load_backbone(progress)


def readable(folders: Mapping[str, Path], read: Callable[[str, Path], _T]) -> Iterator[tuple[str, Path, _T]]:
    """Name, folder and what is read from it; a folder that cannot be read is left out and named on stderr."""
    for name, folder in folders.items():
        try:
            value = read(name, folder)
        except SparseRMError as error:
            typer.echo(f"warning: {name} is left out: {' '.join(str(error).split())}", err=True)
        else:
            yield name, folder, value


def warn(issues: Iterable[PairIssue], name: str) -> None:
    """List findings on stderr; many of one kind are counted after the first few."""
    shown: Counter[str] = Counter()
    for issue in issues:
        kind = f"{issue.column}: {re.sub('[0-9]+', 'N', issue.problem)}"
        shown[kind] += 1
        if shown[kind] <= LISTED:
            typer.echo(f"{'skipped' if issue.severity == 'error' else 'warning'}: {name}: {issue}", err=True)
    for kind, count in shown.items():
        if count > LISTED:
            typer.echo(f"warning: {name}: {count - LISTED} more rows like it, column {kind}", err=True)


def warn_truncated(count: int) -> None:
    if count:
        typer.echo(f"warning: {count} texts exceed the backbone's context; the left of their prompts was cut", err=True)


def printed_json(as_json: bool, result: Mapping[str, Any]) -> bool:
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False, allow_nan=False))
    return as_json


def print_table(title: str, rows: Sequence[Mapping[str, Any]], **columns: str) -> None:
    """A table of the named columns with their formats."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for name, spec in columns.items():
        table.add_column(name.replace("_", " "), justify="left" if spec == "s" else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(row.get(name), spec)) for name, spec in columns.items()))  # Text: no markup in it
    Console().print(table)


def print_facts(title: str, facts: Mapping[str, Any]) -> None:
    print_table(
        title, [{"": name.replace("_", " "), "value": value} for name, value in facts.items()], **{"": "s", "value": "s"}
    )


def plain_numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers among the values."""
    return {name: value for name, value in values.items() if isinstance(value, (int, float))}


def _cell(value: Any, spec: str) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')}: {_cell(one, spec)}" for name, one in value.items())
    if isinstance(value, (list, tuple)):  # two floats are an interval
        interval = len(value) == 2 and isinstance(value[0], float)
        return (" to " if interval else ", ").join(_cell(one, spec) for one in value)
    if isinstance(value, float) and spec == "s":
        return f"{value:.4g}"
    return format(value, spec) if isinstance(value, (int, float)) and spec != "s" else str(value)
