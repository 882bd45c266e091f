"""The command that says what preference pairs reward: insights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparserm.cli.common import (
    AsJson,
    BackboneOption,
    Columns,
    Config,
    PairsOrRepresentations,
    SkipBad,
    Split,
    app,
    load_or_open,
    print_table,
    printed_json,
)
from sparserm.cli.outputs import Force, Output, out_option, pairs_file, sae_folder
from sparserm.cli.train_commands import SAE_HELP
from sparserm.support.defaults import DEFAULT_BACKBONE
from sparserm.support.files import to_csv
from sparserm.types import SparseRMError

if TYPE_CHECKING:
    from sparserm.insights.values import Insights

#: Rows that are printed; the output file and JSON have all.
ROWS = 20
OUT_HELP = "Report: an HTML (.html), Markdown (.md) or CSV (.csv) file; with --against a CSV file has the differences."


@app.command()
def insights(
    pairs: PairsOrRepresentations,
    backbone: BackboneOption = DEFAULT_BACKBONE,
    layer: Annotated[int | None, typer.Option(help="Layer of the shipped SAE: 10, 15 or 20. Default: 15.")] = None,
    sae: Annotated[str | None, typer.Option(help=SAE_HELP)] = None,
    against: Annotated[str | None, typer.Option(help="Other pairs: also list what these reward and those do not.")] = None,
    out: Annotated[Path | None, out_option(help=OUT_HELP)] = None,
    column: Columns = None,
    skip_bad: SkipBad = False,
    split: Split = None,
    config: Config = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Find what preference pairs reward and punish: features with their effect on the win rate. No head is needed."""
    from sparserm.insights.find import find_insights
    from sparserm.insights.report import differences_table, findings_table, to_html, to_markdown
    from sparserm.support.progress import terminal_progress

    output = None
    if out:
        if out.suffix.lower() not in (".html", ".md", ".csv"):
            raise SparseRMError(f"--out {out.name} has no ending that says its format; expected .html, .md or .csv")
        inputs = {
            "the pairs": pairs_file(pairs),
            "--against": pairs_file(against),
            "the backbone": backbone,
            "the SAE": sae_folder(sae),
        }
        output = Output(out, inputs, force)
        output.check()
    data = load_or_open(pairs, column, skip_bad, split, config)
    other = load_or_open(against, column, skip_bad, None, None) if against else None
    with terminal_progress() as progress:
        found = find_insights(data, against=other, backbone=backbone, sae=sae, layer=layer, progress=progress)
    if output:
        writers = {".html": to_html, ".md": to_markdown, ".csv": _csv}
        output.write(writers[output.path.suffix.lower()](found))
    if printed_json(as_json, {**found.to_dict(), "out": str(out) if out else None}):
        return
    typer.echo(found.verdict)
    rows = findings_table(found)[:ROWS]
    title = f"{found.data}: {found.n_pairs:,} pairs, {found.n_sure:,} of {found.n_tested:,} features sure"
    columns = {"chosen": ".0%", "ci95": ".0%", "pairs": ",d", "equally long": ".0%", "a response that …": "s"}
    if rows:
        print_table(title, [_printed(row) for row in rows], **columns)
        if len(found.findings) > ROWS:
            typer.echo(f"{len(found.findings) - ROWS:,} more: --out report.html, or --json")
    if found.against:
        typer.echo(found.against.verdict)
        differences = sorted(differences_table(found.against), key=lambda row: not row["labelled"])  # others say little here
        if rows := [_printed_difference(row) for row in differences[:ROWS]]:
            title = f"{found.data} against {found.against.data}: {found.against.n_sure:,} features surely differ"
            columns = {"here": ".0%", "there": ".0%", "gap": "+.0%", "ci95": "+.0%", "how": "s", "a response that …": "s"}
            print_table(title, rows, **columns)


def _csv(found: Insights) -> str:
    """The findings, or how they differ from those of other pairs."""
    from sparserm.insights.report import differences_table, findings_table

    return to_csv(differences_table(found.against) if found.against else findings_table(found))


def _printed(row: dict[str, Any]) -> dict[str, Any]:
    """The columns of a finding that are printed."""
    return {
        "chosen": row["win_rate"],
        "ci95": (row["low"], row["high"]),
        "pairs": row["n"],
        "equally long": row["length_held"],
        "a response that …": row["name"] if row["labelled"] else f"feature {row['feature']} ({row['evidence']})",
    }


def _printed_difference(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "here": row["here"],
        "there": row["there"],
        "gap": row["gap"],
        "ci95": (row["low"], row["high"]),
        "how": row["how"],
        "a response that …": row["name"] + (f" ({row['evidence']})" if row["evidence"] and not row["labelled"] else ""),
    }
