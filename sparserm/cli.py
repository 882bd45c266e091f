"""The command line. Every command prints a table, or with ``--json`` one JSON object on stdout and nothing else there.

A command that cannot do what was asked ends with code 2 and one line on stderr: what was got, what was expected, how to
mend it. Progress and warnings go to stderr too.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn, Optional, TypeVar

import typer
from typer.exceptions import TyperException

from sparserm import __version__
from sparserm.defaults import DEFAULT_BACKBONE, DEFAULT_LAYER, DEFAULT_LAYERS, bundle_dir
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
    Optional[list[str]],  # noqa: UP045  (typer reads this at run time, also on Python 3.10)
    typer.Option("--column", help="Name of a column, as ours=theirs, e.g. prompt=question; can be repeated."),
]

_T = TypeVar("_T")

DEFAULT_SAE = f"{DEFAULT_BACKBONE}/layer_{DEFAULT_LAYER}"

#: Exit code after Ctrl-C.
CANCELLED = 130

#: Findings of one kind are listed up to this many times, then counted.
LISTED = 5


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def score(
    head: HeadOption,
    prompt: PromptOption,
    response: Annotated[str, typer.Option(help="What is to be scored.")],
    as_json: AsJson = False,
) -> None:
    """Reward of one response, and what it is made of."""
    from sparserm.model import SparseRM

    model = SparseRM.from_pretrained(head)
    _load_backbone(model)
    explanation = model.explain(prompt, response)
    beats_chosen, beats_rejected = model.chance_to_beat(explanation.reward)
    result: dict[str, Any] = {
        "reward": explanation.reward,
        "bias": explanation.bias,
        "chance_to_beat_typical_chosen": beats_chosen,
        "chance_to_beat_typical_rejected": beats_rejected,
        "contributions": [vars(part) for part in explanation.contributions],
        "head": model.card.name,
        "hook": model.card.hook,
        "pooling": model.head.pooling,
        "n_tokens": len(explanation.tokens),
        "n_truncated": explanation.n_truncated,
    }
    _warn_truncated(explanation.n_truncated and 1)
    if _printed_json(as_json, result):
        return
    _table(
        f"Reward {explanation.reward:+.3f}",
        result["contributions"],
        feature="d",
        score="+.2f",
        weight="+.3f",
        contribution="+.3f",
    )
    typer.echo(f"The contributions and the bias ({explanation.bias:+.3f}) add up to the reward.")
    typer.echo(
        f"It beats a typical chosen response with chance {beats_chosen:.0%}, a typical rejected one with {beats_rejected:.0%}."
    )


@app.command()
def compare(
    head: HeadOption,
    prompt: PromptOption,
    response: Annotated[list[str], typer.Option(help="Give this twice or more.")],
    as_json: AsJson = False,
) -> None:
    """Rank responses to one prompt and take the margin apart."""
    from sparserm.model import SparseRM

    model = SparseRM.from_pretrained(head)
    _load_backbone(model)
    comparison = model.compare(prompt, response)
    result: dict[str, Any] = {
        "rewards": list(comparison.rewards),
        "ranking": list(comparison.ranking),
        "margin": comparison.margin,
        "contributions": [vars(part) for part in comparison.contributions],
        "head": model.card.name,
    }
    if _printed_json(as_json, result):
        return
    rows = [{"rank": n + 1, "reward": comparison.rewards[i], "response": response[i]} for n, i in enumerate(comparison.ranking)]
    _table("Rewards", rows, rank="d", reward="+.3f", response="s")
    pair = "first minus second" if len(response) == 2 else "best minus next"
    _table(
        f"Margin {comparison.margin:+.3f} ({pair})", result["contributions"],
        feature="d", score_a="+.2f", score_b="+.2f", weight="+.3f", contribution="+.3f",
    )  # fmt: skip


@app.command("best-of-n")
def best_of_n_command(
    candidates: Annotated[Path, typer.Argument(help="JSONL, CSV or Parquet: prompt with responses, or one response a row.")],
    head: HeadOption,
    out: Annotated[Path, typer.Option(help="Where the ranking goes: .jsonl or .csv.")],
    pairs: Annotated[Optional[Path], typer.Option(help="Where best against worst goes, as JSONL for training.")] = None,  # noqa: UP045
    min_margin: Annotated[float, typer.Option(help="Least difference in reward for a pair.")] = 0.0,
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Rank many candidates for each of many prompts, and make preference pairs of the best and the worst."""
    from sparserm import best_of_n
    from sparserm.model import SparseRM
    from sparserm.progress import terminal_progress

    if out.suffix not in (".jsonl", ".csv"):
        raise SparseRMError(f"--out is {out}; expected a name that ends in .jsonl or .csv")
    found = best_of_n.load_candidates(candidates, skip_bad=skip_bad)
    _warn(found.issues, found.name)
    model = SparseRM.from_pretrained(head)
    with terminal_progress() as progress:
        model.load_backbone(progress)
        ranked = best_of_n.rank(model, found, progress=progress)
    rows = best_of_n.ranking_rows(ranked)
    out.write_text(best_of_n.to_jsonl(rows) if out.suffix == ".jsonl" else best_of_n.to_csv(rows), encoding="utf-8")
    made = best_of_n.preference_rows(ranked, min_margin)
    if pairs is not None:
        pairs.write_text(best_of_n.to_jsonl(made), encoding="utf-8")
    result = {
        "out": str(out), "n_prompts": len(ranked), "n_responses": found.n_responses,
        "pairs": str(pairs) if pairs else None, "n_pairs": len(made), "min_margin": min_margin,
        "mean_spread": sum(one.spread for one in ranked) / len(ranked), "head": model.card.name,
    }  # fmt: skip
    if not _printed_json(as_json, result):
        _facts(f"{found.name} ranked by {model.card.name}", result)


@app.command()
def train(
    pairs: PairsArgument,
    out: Annotated[Path, typer.Option(help="Folder to write the head to.")],
    layer: Annotated[Optional[int], typer.Option(help="Layer whose shipped SAE is used.")] = None,  # noqa: UP045
    sae: Annotated[Optional[str], typer.Option(help="SAE: a folder, a name of `sparserm saes`, or release:sae_id.")] = None,  # noqa: UP045
    k: Annotated[Optional[int], typer.Option(help="Features of the head.")] = None,  # noqa: UP045
    pooling: Annotated[Optional[str], typer.Option(help="last or mean.")] = None,  # noqa: UP045
    l2: Annotated[Optional[float], typer.Option(help="Ridge penalty; cross-validated where it is not given.")] = None,  # noqa: UP045
    selection: Annotated[Optional[str], typer.Option(help="sparse, frequency, effect_size or random.")] = None,  # noqa: UP045
    avoid_length: Annotated[bool, typer.Option(help="Keep rewards from following the length of responses.")] = False,
    backbone: Annotated[str, typer.Option(help="A folder, a hub name, or smollm2.")] = DEFAULT_BACKBONE,
    test: Annotated[Optional[str], typer.Option(help="Pairs to measure on; else cross-validated over prompts.")] = None,  # noqa: UP045
    column: Columns = None,
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Train a head on preference pairs."""
    from sparserm.pairs import check_leakage
    from sparserm.progress import terminal_progress
    from sparserm.training import train_head

    data = _load(pairs, column, skip_bad)
    test_data = _load(test, column, skip_bad) if test else None
    if test_data:
        _warn(check_leakage(data, test_data), test_data.name)
    with terminal_progress() as progress:
        result = train_head(
            data, backbone=backbone, sae=sae, layer=layer, test=test_data, progress=progress, name=out.name,
            k=k, pooling=pooling, l2=l2, selection=selection, avoid_length=avoid_length,
        )  # fmt: skip
    result.model.save_pretrained(out)
    _warn_truncated(result.n_truncated)
    summary = {"out": str(out), **result.summary()}
    if _printed_json(as_json, summary):
        return
    _facts(f"Head {out}", summary)


@app.command()
def benchmark(
    pairs: PairsArgument,
    out: Annotated[Path, typer.Option(help="JSON file for the cells; the same command goes on where it was stopped.")],
    test: Annotated[Optional[str], typer.Option(help="Pairs to judge on; else a quarter of the prompts is held out.")] = None,  # noqa: UP045
    budgets: Annotated[str, typer.Option(help="Label budgets in pairs.")] = "100,300,1000,all",
    seeds: Annotated[int, typer.Option(min=1, help="Draws of the training pairs.")] = 5,
    fine_tune: Annotated[Optional[list[str]], typer.Option(help="full or lora, one seed: hours on a CPU.")] = None,  # noqa: UP045
    sae: Annotated[str, typer.Option(help="SAE: a folder, a name of `sparserm saes`, or release:sae_id.")] = DEFAULT_SAE,
    backbone: Annotated[str, typer.Option(help="A folder, a hub name, or smollm2.")] = DEFAULT_BACKBONE,
    column: Columns = None,
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Which way of learning is best on these pairs: heads, probes, baselines and fine-tuning at several label budgets."""
    from sparserm.benchmark import Results, Task, read_budgets, run_benchmark
    from sparserm.benchmark_tables import table
    from sparserm.pairs import check_leakage, split_by_prompt
    from sparserm.progress import terminal_progress

    wanted = read_budgets(budgets)
    data = _load(pairs, column, skip_bad)
    if test:
        held_out = _load(test, column, skip_bad)
        _warn(check_leakage(data, held_out), held_out.name)
        task = Task(data.name, data, held_out)
    else:
        task = Task(data.name, *split_by_prompt(data, test_fraction=0.25, seed=0))
    results = Results(out)
    with terminal_progress() as progress:
        run_benchmark(
            results, task, sae=sae, backbone=backbone, budgets=wanted, seeds=seeds,
            fine_tuned=fine_tune or (), progress=progress,
        )  # fmt: skip
    rows = [asdict(row) for row in table(results, task.name)]
    n_train, n_test = len(task.train.pairs), len(task.test.pairs)
    if not _printed_json(as_json, {"out": str(out), "n_train": n_train, "n_test": n_test, "rows": rows}):
        _table(
            f"{task.name}: {n_train} pairs to learn from, judged on {n_test}", rows,
            way="s", budget="d", accuracy=".3f", ci95=".3f", seeds="d", n_parameters=",d", seconds=".1f",
        )  # fmt: skip


@app.command()
def sweep(
    pairs: PairsArgument,
    layers: Annotated[Optional[str], typer.Option(help="Layers, e.g. 10,15; by default all that have an SAE.")] = None,  # noqa: UP045
    k: Annotated[Optional[str], typer.Option(help="Numbers of features, e.g. 8,16,32.")] = None,  # noqa: UP045
    methods: Annotated[Optional[str], typer.Option(help="Selections and dense, e.g. sparse,dense; all by default.")] = None,  # noqa: UP045
    pooling: Annotated[Optional[str], typer.Option(help="last or mean.")] = None,  # noqa: UP045
    out: Annotated[Optional[Path], typer.Option(help="CSV file to write the cells to.")] = None,  # noqa: UP045
    column: Columns = None,
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Layers, numbers of features and methods beside each other, cross-validated over prompts."""
    from sparserm import sweep as engine
    from sparserm.backbone import Backbone
    from sparserm.progress import terminal_progress
    from sparserm.training import fit_settings
    from sparserm.training_job import load_saes, represent_layers

    sizes = _numbers("--k", k, "8,16,32") if k else list(engine.SIZES)
    settings = [fit_settings(k=size, pooling=pooling) for size in sizes][-1]  # each size is checked
    chosen = engine.check_methods(methods.split(",") if methods else engine.METHODS)
    saes = load_saes(_layer_saes(layers))
    data = _load(pairs, column, skip_bad)
    with terminal_progress() as progress:
        through = max(sae.hook.layer for sae in saes.values())
        backbone = Backbone.load(DEFAULT_BACKBONE, through_layer=through, progress=progress)
        represented = represent_layers(data.pairs, backbone, saes, settings.pooling, progress)
        cells = engine.sweep(represented, saes, settings, sizes, chosen, progress)
    if not cells:
        raise SparseRMError(
            f"{data.name} is too small for these features to be cross-validated; give more pairs or a smaller --k"
        )
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        engine.cells_table(cells).to_csv(out, index=False)
    choice, n_prompts = engine.choose(cells), len({pair.prompt for pair in data.pairs})
    result: dict[str, Any] = {
        "data": data.name, "n": len(data.pairs), "n_prompts": n_prompts, "pooling": settings.pooling,
        "out": str(out) if out else None, "cells": [asdict(cell) for cell in cells],
        **{name: asdict(getattr(choice, name)) if choice else None for name in ("best", "simplest")},
    }  # fmt: skip
    if _printed_json(as_json, result):
        return
    title = f"{data.name}, {settings.pooling} pooling: cross-validated over {n_prompts} prompts"
    rows = [{**cell, "k": cell["k"] or None} for cell in result["cells"]]
    _table(title, rows, layer="d", method="s", k="d", accuracy=".3f", ci95=".3f")
    if choice:
        typer.echo(f"Best: {engine.describe(choice.best)}.")
        typer.echo(f"Simplest within its interval: {engine.describe(choice.simplest)}.")
        typer.echo("Both were chosen on these pairs, which flatters them a little: measure the head on others.")


def _layer_saes(layers: str | None) -> tuple[str, ...]:
    """Names of the default backbone's SAEs, one for each layer."""
    from sparserm.sae import list_saes

    if layers:
        return tuple(f"{DEFAULT_BACKBONE}/layer_{layer}" for layer in _numbers("--layers", layers, "10,15,20"))
    found = [one for one in list_saes() if one.name.startswith(f"{DEFAULT_BACKBONE}/")]
    return tuple({one.layer: one.name for one in sorted(found, key=lambda one: one.layer)}.values())


@app.command()
def evaluate(
    head: HeadArgument, pairs: PairsArgument, column: Columns = None, skip_bad: SkipBad = False, as_json: AsJson = False
) -> None:
    """A head on preference pairs: accuracy, calibration, slices, worst mistakes; reward benchmarks by their own rules."""
    from sparserm.evaluation_report import evaluation_report, summary
    from sparserm.model import SparseRM
    from sparserm.progress import terminal_progress
    from sparserm.reward_benchmarks import score_benchmark

    data = _load(pairs, column, skip_bad)
    model = SparseRM.from_pretrained(head)
    seen = model.seen_in_training(data)
    _warn(seen, data.name)
    with terminal_progress() as progress:
        model.load_backbone(progress)
        report = evaluation_report(model.saved, data, model.represent(data, progress=progress))
    benchmark = score_benchmark(data, report.rewards_chosen, report.rewards_rejected)
    _warn_truncated(report.evaluation.n_truncated)
    result = {
        **vars(report.evaluation), "ci95": list(report.evaluation.ci95), "n_seen_in_training": len(seen),
        "n_skipped": data.n_skipped, "head": model.card.name, "data": data.name,
    }  # fmt: skip
    more = summary(report, data.pairs)
    if _printed_json(as_json, {**result, **more, "benchmark": asdict(benchmark) if benchmark else None}):
        return
    length = {name: more[name] for name in ("length_correlation", "length_balanced")}
    figures = {**result, **length, "auroc": report.auroc, **_plain_numbers(more["calibration"])}
    _facts(f"{model.card.name} on {data.name}", figures)
    _table("Slices", more["slices"], by="s", name="s", n="d", accuracy=".3f", ci95=".3f", length_baseline=".3f")
    _table("Worst mistakes", more["mistakes"], row="d", id="s", category="s", margin="+.3f", chance=".1%")
    if benchmark:
        _facts(benchmark.name, {"overall": benchmark.overall, **benchmark.sections, **benchmark.details})
        for note in benchmark.notes:
            typer.echo(f"note: {note}", err=True)


@app.command()
def audit(
    pairs: PairsArgument,
    head: Annotated[Optional[str], typer.Option(help="A head that is asked which labels it contradicts.")] = None,  # noqa: UP045
    against: Annotated[Optional[str], typer.Option(help="Pairs that should share no prompt with these.")] = None,  # noqa: UP045
    out: Annotated[Optional[Path], typer.Option(help="CSV file to write the flagged rows to, with their texts.")] = None,  # noqa: UP045
    column: Columns = None,
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Rows of preference data that deserve a second look, and how far the surface of the responses alone goes."""
    from sparserm import audit as engine

    data = _load(pairs, column, skip_bad)
    other = _load(against, column, skip_bad) if against else None
    held_out = _held_out_margins(head, data) if head else None
    found = engine.audit(data, held_out=held_out, against=other)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        engine.flagged(found.flags, data.pairs).to_csv(out, index=False)
    result = {"data": data.name, "head": head, "out": str(out) if out else None, **engine.summary(found, data.pairs)}
    if _printed_json(as_json, result):
        return
    reasons = [{"flag": name, "pairs": count, "meaning": engine.REASONS[name]} for name, count in found.counts.items()]
    _table(f"{data.name}: {found.n} pairs", reasons, flag="s", pairs="d", meaning="s")
    if found.agreement:
        _facts(f"Labels and {head}", asdict(found.agreement))
    low, high = found.surface.ci95
    _table(
        f"Surface alone ranks {found.surface.accuracy:.1%} as labelled ({low:.1%} to {high:.1%})", result["surface"]["rules"],
        name="s", mean_chosen=".2f", mean_rejected=".2f", n_differ="d", accuracy=".3f", ci95=".3f",
    )  # fmt: skip


def _held_out_margins(head: str, data: PreferenceData) -> Any:
    from sparserm.audit import held_out_margins
    from sparserm.model import SparseRM
    from sparserm.progress import terminal_progress

    model = SparseRM.from_pretrained(head)
    sae = model.load_sae()
    with terminal_progress() as progress:
        model.load_backbone(progress)
        represented = model.represent(data, sae=sae, progress=progress)
    return held_out_margins(model.saved, data, represented, sae)


@app.command()
def features(head: HeadArgument, as_json: AsJson = False) -> None:
    """The features of a head: how often they fire for chosen and rejected responses, and their weights."""
    from sparserm.model import SparseRM

    model = SparseRM.from_pretrained(head)
    rows = model.features()
    if not _printed_json(as_json, {"head": model.card.name, "hook": model.card.hook, "sae": model.card.sae, "features": rows}):
        _table(f"{model.card.name}, {model.card.hook}, {model.card.sae}", rows,
               feature="d", label="s", f_chosen=".1%", f_rejected=".1%", gap="+.1%", weight="+.3f")  # fmt: skip


@app.command()
def label(
    head: HeadArgument,
    pairs: PairsArgument,
    endpoint: Annotated[str, typer.Option(help="OpenAI-compatible server to ask, up to its /v1; or SPARSERM_LABEL_URL.")] = "",
    model: Annotated[str, typer.Option(help="Its model; or SPARSERM_LABEL_MODEL. SPARSERM_LABEL_KEY is its key.")] = "",
    column: Columns = None,
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Label the features of a head by what tells the texts they fire in from others, and measure what each label predicts.

    A local rule does it, unless an endpoint is given: then texts of the pairs are sent there.
    """
    from sparserm.auto_labels import Rule
    from sparserm.label_endpoint import EndpointLabeller, configured_endpoint
    from sparserm.label_job import label_head
    from sparserm.model import SparseRM
    from sparserm.progress import terminal_progress

    asked = configured_endpoint(endpoint, model)
    data, scorer = _load(pairs, column, skip_bad), SparseRM.from_pretrained(head)
    with terminal_progress() as progress:
        labels = label_head(scorer, data, EndpointLabeller(asked) if asked else Rule(), progress)
    named = [one for one in labels.values() if one.text is not None]
    result = {
        "head": scorer.card.name, "data": data.name, "source": asked.model if asked else "rule",
        "n_features": len(labels), "n_labelled": len(named),
        "features": [{"feature": feature, **asdict(one)} for feature, one in labels.items()],
    }  # fmt: skip
    if _printed_json(as_json, result):
        return
    rows = [
        {"feature": feature, "label": one.text or f"unlabelled: {one.reason}", "detects": one.detection and str(one.detection),
         "examples": one.examples and str(one.examples)}
        for feature, one in labels.items()
    ]  # fmt: skip
    _table(f"{scorer.card.name}: {len(named)} of {len(labels)} features have a label that predicts", rows,
           feature="d", label="s", detects="s", examples="s")  # fmt: skip


@app.command()
def edit(
    head: HeadArgument,
    out: Annotated[Path, typer.Option(help="Folder to write the edited head to; the head itself stays as it is.")],
    off: Annotated[Optional[list[str]], typer.Option(help="Features to switch off, e.g. 12,88.")] = None,  # noqa: UP045
    flip: Annotated[Optional[list[str]], typer.Option(help="Features whose weight changes its sign.")] = None,  # noqa: UP045
    scale: Annotated[Optional[list[str]], typer.Option(help="Factors on weights, e.g. 9=0.5,12=2.")] = None,  # noqa: UP045
    test: Annotated[Optional[str], typer.Option(help="Pairs to measure on, of other prompts than in training.")] = None,  # noqa: UP045
    column: Columns = None,
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Switch off, flip or rescale features, measure that on held-out pairs, and save the result as a new head."""
    from sparserm.card import find_head, head_hash
    from sparserm.editing import gather_edit_evidence, make_edited_head, read_factors, summarise_edits
    from sparserm.model import SparseRM
    from sparserm.progress import terminal_progress

    edits = read_factors(off or (), flip or (), scale or ())
    model, name = SparseRM.from_pretrained(head), find_head(head).name
    if out.resolve() == find_head(head).resolve():
        raise SparseRMError(f"--out {out} is the head that is edited, which stays as it is; choose another folder")
    make_edited_head(model.saved, name, edits, out.name, None)  # what cannot be edited is refused before any work
    evidence, measured = None, {}
    if test:
        data = _load(test, column, skip_bad)
        with terminal_progress() as progress:
            model.load_backbone(progress)
            evidence = gather_edit_evidence(model.saved, data, model.represent(data, progress=progress))
        measured = summarise_edits(evidence, edits, data)
    else:
        typer.echo("warning: nothing was measured, and typical rewards stay the parent's; give pairs with --test", err=True)
    edited = make_edited_head(model.saved, name, edits, out.name, evidence)
    SparseRM(edited).save_pretrained(out)
    result = {"out": str(out), "hash": head_hash(edited), **edited.card.training["lineage"], **measured}
    if not _printed_json(as_json, result):
        _facts(f"Head {out}", result)


@app.command()
def heads(as_json: AsJson = False) -> None:
    """The heads that can be used by name."""
    from sparserm.card import list_heads, load_head

    rows = []
    for name, folder, saved in _readable(list_heads(), lambda _, folder: load_head(folder)):
        card = saved.card
        metrics = card.metrics
        rows.append({
            "name": name, "layer": card.hook_point.layer, "hook": card.hook, "sae": card.sae, "backbone": card.backbone,
            "accuracy": metrics.get("accuracy"), "ci95": metrics.get("ci95"), "n_test": metrics.get("n"),
            "licence": card.training.get("licence"), "path": str(folder),
        })  # fmt: skip
    if not _printed_json(as_json, {"heads": rows}):
        _table("Heads", rows, name="s", layer="d", accuracy=".3f", ci95="s", n_test="d", licence="s")


@app.command()
def saes(as_json: AsJson = False) -> None:
    """The SAEs that can be used by name."""
    from sparserm.sae import describe_sae, find_saes

    rows = [
        {"name": name, "hook": one.hook, "layer": one.layer, "d_sae": one.d_sae, "architecture": one.architecture,
         **one.metrics, "path": str(folder)}
        for name, folder, one in _readable(find_saes(), describe_sae)
    ]  # fmt: skip
    if not _printed_json(as_json, {"saes": rows}):
        _table("Sparse autoencoders", rows, name="s", layer="d", d_sae="d", architecture="s",
               explained_variance=".3f", l0=".1f", dead=".2%", loss_recovered=".3f")  # fmt: skip


@app.command("train-sae")
def train_sae_command(
    corpus: Annotated[Path, typer.Argument(help="JSON lines with `messages` or `text`; .gz is read too.")],
    out: Annotated[Path, typer.Option(help="Folder to write layer_<l>/ folders to; repeat the command to resume.")],
    layers: Annotated[str, typer.Option(help="Layers, e.g. 10,15,20.")] = ",".join(map(str, DEFAULT_LAYERS)),
    backbone: Annotated[str, typer.Option(help="A folder, a hub name, or smollm2.")] = DEFAULT_BACKBONE,
    tokens: Annotated[int, typer.Option(help="Tokens of the corpus to train on.")] = 700_000,
    d_sae: Annotated[Optional[int], typer.Option(help="Latents.")] = None,  # noqa: UP045
    k: Annotated[Optional[int], typer.Option(help="Latents active per token (L0).")] = None,  # noqa: UP045
    epochs: Annotated[Optional[int], typer.Option(help="Passes over the activations.")] = None,  # noqa: UP045
    seed: Annotated[Optional[int], typer.Option(help="Of initialisation and shuffling: how stable are features?")] = None,  # noqa: UP045
    as_json: AsJson = False,
) -> None:
    """Train TopK SAEs at several layers on activations from one pass over a corpus, and measure them on held-out text."""
    from sparserm.progress import terminal_progress
    from sparserm.sae_pipeline import train_saes
    from sparserm.sae_training import SAERecipe

    wanted = _numbers("--layers", layers, "10,15,20")
    given = {"d_sae": d_sae, "k": k, "epochs": epochs, "seed": seed}
    changed = {name: value for name, value in given.items() if value is not None}
    with terminal_progress() as progress:
        trained = train_saes(
            corpus, out, layers=wanted, backbone=backbone, n_tokens=tokens, recipe=SAERecipe(**changed), progress=progress
        )
    rows = [{"layer": layer, "path": str(out / f"layer_{layer}"), **quality.to_dict()} for layer, quality in trained.items()]
    if not _printed_json(as_json, {"saes": rows}):
        _table(
            "Measured on held-out text", rows, layer="d", explained_variance=".3f", l0=".1f", dead=".2%", loss_recovered=".3f"
        )


@app.command("app")
def app_command(port: Annotated[int, typer.Option(help="Port to listen on.")] = 8501) -> None:
    """Open the app."""
    os.chdir(bundle_dir())  # where Streamlit looks for .streamlit/config.toml
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    os.execv(sys.executable, command)  # in place of this process: what ends it ends the app


def main() -> None:
    """Entry point: errors become one line on stderr and exit code 2."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except SparseRMError as error:
        _fail(str(error))
    except TyperException as error:
        context = getattr(error, "ctx", None)
        message = getattr(error, "format_message", error.__str__)()
        _fail(message + (f" See `{context.command_path} --help`." if context else ""))
    except (KeyboardInterrupt, typer.Abort):
        code = CANCELLED
    except OSError as error:
        _fail(f"{error.strerror or error}: {error.filename or ''}; check the path, its permissions and the free space")
    if code == CANCELLED:  # Typer makes it of Ctrl-C in a command
        typer.echo("cancelled; what was computed is kept, and the same command goes on from there", err=True)
    raise SystemExit(code or 0)


def _fail(message: str) -> NoReturn:
    typer.echo("error: " + " ".join(message.split()), err=True)
    raise SystemExit(2)


def _numbers(option: str, text: str, example: str) -> list[int]:
    """Whole numbers with commas between them, each once."""
    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise SparseRMError(f"{option} is {text!r}; expected numbers and commas, e.g. {example}") from None


def _load(source: str, columns: Sequence[str] | None, skip_bad: bool) -> PreferenceData:
    from sparserm.pairs import load_pairs

    mapping = {}
    for entry in columns or ():
        ours, separator, theirs = entry.partition("=")
        if not separator or not theirs:
            raise SparseRMError(f"--column {entry!r}; expected ours=theirs, e.g. --column prompt=question")
        mapping[ours] = theirs
    data = load_pairs(source, columns=mapping, skip_bad=skip_bad)
    _warn(data.issues, data.name)
    return data


def _load_backbone(model: Any) -> None:
    from sparserm.progress import terminal_progress

    with terminal_progress() as progress:
        model.load_backbone(progress)


def _readable(folders: Mapping[str, Path], read: Callable[[str, Path], _T]) -> Iterator[tuple[str, Path, _T]]:
    """Name, folder and what is read from it; a folder that cannot be read is left out and named on stderr."""
    for name, folder in folders.items():
        try:
            value = read(name, folder)
        except SparseRMError as error:
            typer.echo(f"warning: {name} is left out: {' '.join(str(error).split())}", err=True)
        else:
            yield name, folder, value


def _warn(issues: Iterable[PairIssue], name: str) -> None:
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


def _warn_truncated(count: int) -> None:
    if count:
        typer.echo(f"warning: {count} texts exceed the backbone's context; the left of their prompts was cut", err=True)


def _printed_json(as_json: bool, result: Mapping[str, Any]) -> bool:
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False, allow_nan=False))
    return as_json


def _table(title: str, rows: Sequence[Mapping[str, Any]], **columns: str) -> None:
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


def _facts(title: str, facts: Mapping[str, Any]) -> None:
    _table(title, [{"": name.replace("_", " "), "value": value} for name, value in facts.items()], **{"": "s", "value": "s"})


def _plain_numbers(values: Mapping[str, Any]) -> dict[str, Any]:
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
