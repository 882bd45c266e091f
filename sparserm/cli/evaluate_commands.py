"""Commands that check heads and pairs: evaluate, audit."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sparserm.cli.common import (
    AsJson,
    Columns,
    Config,
    HeadArgument,
    PairsArgument,
    SkipBad,
    Split,
    app,
    load,
    plain_numbers,
    print_facts,
    print_table,
    printed_json,
    warn,
    warn_truncated,
)
from sparserm.cli.outputs import Force, Output, head_folder, out_option, pairs_file
from sparserm.support.files import to_csv
from sparserm.types import PreferenceData


@app.command()
def evaluate(
    head: HeadArgument,
    pairs: PairsArgument,
    column: Columns = None,
    skip_bad: SkipBad = False,
    split: Split = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a head on preference pairs: accuracy, calibration, slices, worst mistakes, reward benchmark scores."""
    from sparserm.evaluation.report import evaluation_report, summary
    from sparserm.evaluation.reward_benchmarks import score_benchmark
    from sparserm.model import SparseRM
    from sparserm.support.progress import terminal_progress

    data = load(pairs, column, skip_bad, split, config)
    model = SparseRM.from_pretrained(head)
    seen = model.seen_in_training(data)
    warn(seen, data.name)
    with terminal_progress() as progress:
        model.load_backbone(progress)
        report = evaluation_report(model.saved, data, model.represent(data, progress=progress))
    benchmark = score_benchmark(data, report.rewards_chosen, report.rewards_rejected)
    warn_truncated(report.evaluation.n_truncated)
    result = {
        **vars(report.evaluation),
        "ci95": list(report.evaluation.ci95),
        "n_seen_in_training": len(seen),
        "n_skipped": data.n_skipped,
        "head": model.card.name,
        "data": data.name,
    }
    more = summary(report, data.pairs)
    if printed_json(as_json, {**result, **more, "benchmark": asdict(benchmark) if benchmark else None}):
        return
    length = {name: more[name] for name in ("length_correlation", "length_balanced")}
    figures = {**result, **length, "auroc": report.auroc, **plain_numbers(more["calibration"])}
    print_facts(f"{model.card.name} on {data.name}", figures)
    print_table("Slices", more["slices"], by="s", name="s", n="d", accuracy=".3f", ci95=".3f", length_baseline=".3f")
    print_table("Worst mistakes", more["mistakes"], row="d", id="s", category="s", margin="+.3f", chance=".1%")
    if benchmark:
        print_facts(benchmark.name, {"overall": benchmark.overall, **benchmark.sections, **benchmark.details})
        for note in benchmark.notes:
            typer.echo(f"note: {note}", err=True)


@app.command()
def audit(
    pairs: PairsArgument,
    head: Annotated[str | None, typer.Option(help="A head; labels that it contradicts are flagged.")] = None,
    against: Annotated[str | None, typer.Option(help="Pairs to check overlap with, e.g. the test pairs.")] = None,
    out: Annotated[Path | None, out_option(help="CSV file for the flagged rows and their texts.")] = None,
    column: Columns = None,
    skip_bad: SkipBad = False,
    split: Split = None,
    config: Config = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Find mislabelled, duplicate and leaked pairs, and measure how well surface features alone predict the labels."""
    from sparserm.audit import flags as engine

    inputs = {"the pairs": pairs_file(pairs), "the pairs of --against": pairs_file(against)}
    output = Output(out, {**inputs, "the head": head_folder(head)}, force) if out else None
    if output:
        output.check()
    data = load(pairs, column, skip_bad, split, config)
    other = load(against, column, skip_bad) if against else None
    held_out = _held_out_margins(head, data) if head else None
    found = engine.audit(data, held_out=held_out, against=other)
    if output:
        output.write(to_csv(engine.flagged(found.flags, data.pairs)))
    result = {"data": data.name, "head": head, "out": str(out) if out else None, **engine.summary(found, data.pairs)}
    if printed_json(as_json, result):
        return
    reasons = [{"flag": name, "pairs": count, "meaning": engine.REASONS[name]} for name, count in found.counts.items()]
    print_table(f"{data.name}: {found.n} pairs", reasons, flag="s", pairs="d", meaning="s")
    if found.agreement:
        print_facts(f"Agreement of the labels with {head}", asdict(found.agreement))
    low, high = found.surface.ci95
    print_table(
        f"Accuracy of surface features alone: {found.surface.accuracy:.1%} ({low:.1%} to {high:.1%})",
        result["surface"]["rules"],
        name="s",
        mean_chosen=".2f",
        mean_rejected=".2f",
        n_differ="d",
        accuracy=".3f",
        ci95=".3f",
    )


def _held_out_margins(head: str, data: PreferenceData) -> Any:
    from sparserm.audit.flags import held_out_margins
    from sparserm.model import SparseRM
    from sparserm.support.progress import terminal_progress

    model = SparseRM.from_pretrained(head)
    sae = model.load_sae()
    with terminal_progress() as progress:
        model.load_backbone(progress)
        represented = model.represent(data, sae=sae, progress=progress)
    return held_out_margins(model.saved, data, represented, sae)
