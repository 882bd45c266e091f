"""Commands that train: train, sweep, benchmark, train-sae."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from sparserm.cli.common import (
    DEFAULT_SAE,
    AsJson,
    BackboneOption,
    Columns,
    Config,
    EngineOption,
    PairsArgument,
    PairsOrRepresentations,
    SkipBad,
    Split,
    TestSplit,
    Workers,
    app,
    column_names,
    engine_of,
    load,
    load_or_open,
    numbers,
    print_facts,
    print_table,
    printed_json,
    warn,
    warn_truncated,
)
from sparserm.cli.outputs import HEAD, RUN, Force, Output, out_option, pairs_file, sae_folder
from sparserm.support.defaults import DEFAULT_BACKBONE, DEFAULT_LAYERS
from sparserm.support.files import to_csv
from sparserm.types import PreferenceData, SparseRMError

if TYPE_CHECKING:
    from sparserm.representations.files import RepresentedPairs
    from sparserm.training.sweep import SweepCell
    from sparserm.training.train import TrainedHead

_Pairs = TypeVar("_Pairs", "PreferenceData", "PreferenceData | RepresentedPairs")

#: Help of the option `--score`.
SCORE_HELP = (
    "gated: a feature counts at the tokens where it fires and is zero elsewhere. projection: the paper's, which counts every "
    "token. Default: gated, but projection for a TopK SAE, whose features have no thresholds of their own."
)
#: Help of the option `--sae`.
SAE_HELP = "SAE: a folder, a name listed by `sparserm saes`, release:sae_id, or user/repository[@revision]:folder of the Hub."

ScoreOption = Annotated[str | None, typer.Option(help=SCORE_HELP)]
PoolingOption = Annotated[str | None, typer.Option(help="Pooling over the response's tokens: mean (default) or last.")]


@app.command()
def train(
    pairs: PairsOrRepresentations,
    out: Annotated[Path, out_option(help="Folder for the head.")],
    layer: Annotated[int | None, typer.Option(help="Layer of the shipped SAE: 10, 15 or 20. Default: 15.")] = None,
    sae: Annotated[str | None, typer.Option(help=SAE_HELP)] = None,
    score: ScoreOption = None,
    k: Annotated[
        int | None,
        typer.Option(
            help="Gated: maximum number of features, 64 at most and by default; the pairs decide how many are kept. "
            "Projection: number of features, 32 at most and by default."
        ),
    ] = None,
    pooling: PoolingOption = None,
    l2: Annotated[
        float | None, typer.Option(help="Ridge penalty. Default: 0.05 if gated, chosen by cross-validation for projections.")
    ] = None,
    selection: Annotated[
        str | None,
        typer.Option(
            help="Feature selection. Gated: stable (default), frequency or random. Projection: sparse (default), frequency, "
            "effect_size or random."
        ),
    ] = None,
    avoid_length: Annotated[bool, typer.Option(help="Keep margins from following the length of responses.")] = False,
    named: Annotated[bool, typer.Option(help="Gated: about five in six features have a label.")] = False,
    backbone: BackboneOption = DEFAULT_BACKBONE,
    test: Annotated[str | None, typer.Option(help="Test pairs. Default: cross-validation over prompts.")] = None,
    column: Columns = None,
    skip_bad: SkipBad = False,
    split: Split = None,
    test_split: TestSplit = None,
    config: Config = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Train a head on preference pairs."""
    from sparserm.support.progress import terminal_progress
    from sparserm.training.train import train_head

    inputs = {"the pairs": pairs_file(pairs), "the test pairs": pairs_file(test), "the backbone": backbone}
    output = Output(out, {**inputs, "the SAE": sae_folder(sae)}, force, HEAD)
    output.check()
    data, test_data = _train_and_test(pairs, test, column, skip_bad, (split, test_split), config, load_or_open)
    with terminal_progress() as progress:
        result = train_head(
            data,
            backbone=backbone,
            sae=sae,
            layer=layer,
            test=test_data,
            progress=progress,
            name=out.name,
            score=score,
            k=k,
            pooling=pooling,
            l2=l2,
            selection=selection,
            avoid_length=avoid_length,
            named=named,
        )
    output.check()  # it may have appeared meanwhile
    result.model.save_pretrained(out)
    _report_trained(result, out, as_json)


def _train_and_test(
    pairs: str,
    test: str | None,
    column: Sequence[str] | None,
    skip_bad: bool,
    splits: tuple[str | None, str | None],
    config: str | None,
    read: Callable[[str, Sequence[str] | None, bool, str | None, str | None], _Pairs] = load,
) -> tuple[_Pairs, _Pairs | None]:
    """The training pairs, and the test pairs if given, with a warning of prompts that are in both.

    Args:
        splits: of the training pairs and of the test pairs; the latter alone means a split of the same dataset.
    """
    from sparserm.pairs.split import check_leakage
    from sparserm.representations.files import texts_of

    train_split, test_split = splits
    data = read(pairs, column, skip_bad, train_split, config)
    held_out = test or (pairs if test_split else None)
    test_data = read(held_out, column, skip_bad, test_split, config if held_out == pairs else None) if held_out else None
    if test_data:
        warn(check_leakage(texts_of(data), texts_of(test_data)), texts_of(test_data).name)
    return data, test_data


def _report_trained(result: TrainedHead, out: Path, as_json: bool) -> None:
    """Print what was trained and what it learned, with warnings."""
    warn_truncated(result.n_truncated)
    summary = {"out": str(out), **result.summary()}
    verdict, warnings = result.learned.verdict, result.learned.warnings
    if printed_json(as_json, {**summary, "verdict": verdict, "warnings": warnings}):
        return
    print_facts(f"Head {out}", summary)
    for sentence in verdict:
        typer.echo(sentence)
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)


@app.command()
def represent(
    pairs: PairsArgument,
    out: Annotated[Path, out_option(help="Folder for the Parquet files. Repeat the command to resume a stopped run.")],
    layer: Annotated[int | None, typer.Option(help="Layer of the shipped SAE: 10, 15 or 20. Default: 15.")] = None,
    sae: Annotated[str | None, typer.Option(help=SAE_HELP)] = None,
    pooling: Annotated[str, typer.Option(help="Pooling over the response's tokens: mean or last.")] = "mean",
    backbone: BackboneOption = DEFAULT_BACKBONE,
    column: Columns = None,
    split: Split = None,
    config: Config = None,
    engine: EngineOption = "local",
    workers: Workers = 2,
    as_json: AsJson = False,
) -> None:
    """Represent any number of pairs into Parquet files, for `sparserm train FOLDER` and `sparserm insights FOLDER`."""
    from sparserm.heads.fitting import fit_settings
    from sparserm.heads.inputs import load_parts
    from sparserm.representations.files import represent_file
    from sparserm.support.progress import terminal_progress

    chosen, run = fit_settings(pooling=pooling).pooling, engine_of(engine, workers)
    inputs = {"the pairs": pairs_file(pairs), "the backbone": backbone, "the SAE": sae_folder(sae)}
    Output(out, inputs, folder=RUN).check_resumed()
    with terminal_progress() as progress:
        dictionary, model = load_parts(backbone, sae, layer, progress)
        done = represent_file(
            pairs,
            model,
            dictionary,
            out,
            pooling=chosen,
            columns=column_names(column),
            split=split,
            config=config,
            engine=run,
            progress=progress,
        )
    if done.n_unusable:
        typer.echo(f"warning: {done.n_unusable} rows cannot be used; the reason is in the column `problem`", err=True)
    warn_truncated(done.n_truncated)
    if not printed_json(as_json, vars(done)):
        print_facts(f"{pairs} represented", vars(done))


@app.command()
def sweep(
    pairs: PairsArgument,
    layers: Annotated[str | None, typer.Option(help="Layers, e.g. 10,15. Default: all that have an SAE.")] = None,
    score: ScoreOption = None,
    k: Annotated[
        str | None,
        typer.Option(
            help="Numbers of features (gated: maximum numbers), e.g. 8,16,32. Default: 4,8,16,24,32 (gated: 4,8,16,32,64)."
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Feature selections (see `sparserm train --help`), and dense for the dense probe, e.g. stable,dense. "
            "Default: all that the score has."
        ),
    ] = None,
    pooling: PoolingOption = None,
    sae: Annotated[list[str] | None, typer.Option(help=f"Instead of --layers, repeatable. {SAE_HELP}")] = None,
    backbone: BackboneOption = DEFAULT_BACKBONE,
    out: Annotated[Path | None, out_option(help="CSV file for the results.")] = None,
    column: Columns = None,
    skip_bad: SkipBad = False,
    split: Split = None,
    config: Config = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Compare layers, numbers of features and selection methods by cross-validation over prompts."""
    from sparserm.backbone.model import Backbone
    from sparserm.heads.fitting import fit_settings
    from sparserm.heads.inputs import load_saes, represent_layers
    from sparserm.support.progress import terminal_progress
    from sparserm.training import sweep as engine

    sizes = numbers("--k", k, "8,16,32") if k else None
    # Checks every size; the largest is checked again with the SAEs.
    settings = [fit_settings(k=size, pooling=pooling, score=score) for size in (sorted(sizes) if sizes else [None])][-1]
    chosen = engine.check_methods(methods.split(",") if methods else engine.METHODS)
    names = tuple(sae) if sae else _layer_saes(layers, backbone)
    inputs = {"the pairs": pairs_file(pairs), "the backbone": backbone, **{f"the SAE {one}": sae_folder(one) for one in names}}
    output = Output(out, inputs, force) if out else None
    if output:
        output.check()
    saes = load_saes(names)
    data = load(pairs, column, skip_bad, split, config)
    with terminal_progress() as progress:
        through = max(sae.hook.layer for sae in saes.values())
        model = Backbone.load(backbone, through_layer=through, progress=progress)
        represented = represent_layers(data.pairs, model, saes, settings, progress)
        cells = engine.sweep(represented, saes, settings, sizes, chosen, progress)
    if not cells:
        raise SparseRMError(f"{data.name} is too small to cross-validate heads of this size; give more pairs or a smaller --k")
    if output:
        output.write(to_csv(engine.cells_table(cells)))
    _report_sweep(data, settings.pooling, out, cells, as_json)


def _report_sweep(data: PreferenceData, pooling: str, out: Path | None, cells: Sequence[SweepCell], as_json: bool) -> None:
    """Print the results of a sweep with the best and the simplest head."""
    from sparserm.training import sweep as engine

    choice, n_prompts = engine.choose(cells), len({pair.prompt for pair in data.pairs})
    result: dict[str, Any] = {
        "data": data.name,
        "n": len(data.pairs),
        "n_prompts": n_prompts,
        "pooling": pooling,
        "out": str(out) if out else None,
        "cells": [asdict(cell) for cell in cells],
        **{name: asdict(getattr(choice, name)) if choice else None for name in ("best", "simplest")},
    }
    if printed_json(as_json, result):
        return
    title = f"{data.name}, {pooling} pooling: accuracy by cross-validation over {n_prompts} prompts"
    rows = [{**cell, "k": cell["k"] or None} for cell in result["cells"]]
    print_table(title, rows, layer="d", method="s", k="d", accuracy=".3f", ci95=".3f")
    if choice:
        typer.echo(f"Best: {engine.describe(choice.best)}.")
        typer.echo(f"Simplest within its confidence interval: {engine.describe(choice.simplest)}.")
        typer.echo("Both were chosen on these pairs, so their accuracy is slightly optimistic: measure the head on others.")


def _layer_saes(layers: str | None, backbone: str) -> tuple[str, ...]:
    """Names of the backbone's SAEs, one per layer.

    Raises:
        SparseRMError: the backbone has no SAE.
    """
    from sparserm.sae.autoencoder import list_saes

    if layers:
        return tuple(f"{backbone}/layer_{layer}" for layer in numbers("--layers", layers, "10,15,20"))
    found = [one for one in list_saes() if one.name.startswith(f"{backbone}/")]
    if not found:
        raise SparseRMError(f"no SAE found under {backbone}/ (see `sparserm saes`); give SAEs of different layers with --sae")
    return tuple({one.layer: one.name for one in sorted(found, key=lambda one: one.layer)}.values())


@app.command()
def benchmark(
    pairs: PairsArgument,
    out: Annotated[Path, out_option(help="JSON file for the results. Repeat the command to resume a stopped run.")],
    test: Annotated[str | None, typer.Option(help="Test pairs. Default: a quarter of the prompts is held out.")] = None,
    budgets: Annotated[str, typer.Option(help="Label budgets: numbers of training pairs.")] = "100,300,1000,all",
    seeds: Annotated[int, typer.Option(min=1, help="Random draws of the training pairs per budget.")] = 5,
    fine_tune: Annotated[
        list[str] | None,
        typer.Option(help="Also fine-tune reward models with TRL: full or lora. One draw; hours on a CPU. Repeatable."),
    ] = None,
    sae: Annotated[str, typer.Option(help=SAE_HELP)] = DEFAULT_SAE,
    backbone: BackboneOption = DEFAULT_BACKBONE,
    column: Columns = None,
    skip_bad: SkipBad = False,
    split: Split = None,
    test_split: TestSplit = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Compare heads, probes, baselines and fine-tuned reward models on your pairs, at several label budgets."""
    from sparserm.benchmark.results import Results, Task
    from sparserm.benchmark.run import read_budgets, run_benchmark
    from sparserm.benchmark.tables import table
    from sparserm.pairs.split import split_by_prompt
    from sparserm.support.progress import terminal_progress

    wanted = read_budgets(budgets)
    inputs = {"the pairs": pairs_file(pairs), "the test pairs": pairs_file(test), "the backbone": backbone}
    Output(out, {**inputs, "the SAE": sae_folder(sae)}).check_resumed()
    results = Results(out)
    results.read()  # refuses a file of something else
    data, test_data = _train_and_test(pairs, test, column, skip_bad, (split, test_split), config)
    task = Task(data.name, *((data, test_data) if test_data else split_by_prompt(data, test_fraction=0.25, seed=0)))
    with terminal_progress() as progress:
        run_benchmark(
            results,
            task,
            sae=sae,
            backbone=backbone,
            budgets=wanted,
            seeds=seeds,
            fine_tuned=fine_tune or (),
            progress=progress,
        )
    rows = [asdict(row) for row in table(results.read(), task.name)]
    n_train, n_test = len(task.train.pairs), len(task.test.pairs)
    head = results.head(task.name)
    if printed_json(as_json, {"out": str(out), "n_train": n_train, "n_test": n_test, "rows": rows, "head": head}):
        return
    typer.echo(f"{task.name}: {n_train} training pairs, tested on {n_test} pairs of other prompts.")
    _print_budgets(rows, wanted)
    if head:
        _print_head(head, n_train)


def _print_budgets(rows: list[dict[str, Any]], budgets: Sequence[int | None]) -> None:
    for budget in budgets:
        shown = [
            {
                "method": row["way"],
                "accuracy": row["accuracy"],
                "interval": row["ci95"],
                "draws": row["seeds"],
                "parameters": row["n_parameters"],
                "seconds": row["seconds"],
            }
            for row in rows
            if row["budget"] == budget
        ]
        title = "All pairs" if budget is None else f"{budget:,} pairs"
        if shown:  # a budget above the number of pairs has no rows
            print_table(title, shown, method="s", accuracy=".3f", interval=".3f", draws="d", parameters=",d", seconds=".1f")
    typer.echo(
        "Parameters: trained parameters. Seconds: fitting on computed representations; for fine-tuning, the whole training."
    )


def _print_head(head: dict[str, Any], n_train: int) -> None:
    faithful, balanced = head["faithfulness"], head["balanced"]
    print_facts(
        f"Head of {head['k']} features, trained on all {n_train} pairs",
        {
            "correlation of margins with length (Spearman)": head["length"]["margin_spearman"],
            "length-balanced accuracy": balanced and balanced["accuracy"],
            "largest error: sum of contributions": faithful["feature_sum"],
            "largest error: predicted effect of steering the backbone": faithful["steer"],
            "standard deviation of rewards": faithful["spread"],
            "overlap of features selected from other prompts (Jaccard)": head["jaccard"],
            "overlap expected by chance": head["chance"],
        },
    )


@app.command("train-sae")
def train_sae_command(
    corpus: Annotated[Path, typer.Argument(help="JSON lines (.gz too) with `messages` or `text`.")],
    out: Annotated[Path, out_option(help="Folder for the SAEs, as layer_<l>/. Repeat the command to resume a stopped run.")],
    layers: Annotated[str, typer.Option(help="Layers to train an SAE at.")] = ",".join(map(str, DEFAULT_LAYERS)),
    backbone: BackboneOption = DEFAULT_BACKBONE,
    tokens: Annotated[int, typer.Option(help="Number of tokens to train on.")] = 700_000,
    d_sae: Annotated[int | None, typer.Option(help="Number of latents. Default: 4,608.")] = None,
    k: Annotated[int | None, typer.Option(help="Latents active per token, on average (L0). Default: 64.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the activations. Default: 4.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of initialisation and shuffling. Default: 0.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train BatchTopK SAEs at several layers from one pass over a corpus, and evaluate them on held-out text."""
    from sparserm.sae.training import SAERecipe, train_saes
    from sparserm.support.progress import terminal_progress

    wanted = numbers("--layers", layers, "10,15,20")
    Output(out, {"the corpus": corpus, "the backbone": backbone}, folder=RUN).check_resumed()
    given = {"d_sae": d_sae, "k": k, "epochs": epochs, "seed": seed}
    changed = {name: value for name, value in given.items() if value is not None}
    with terminal_progress() as progress:
        trained = train_saes(
            corpus, out, layers=wanted, backbone=backbone, n_tokens=tokens, recipe=SAERecipe(**changed), progress=progress
        )
    rows = [{"layer": layer, "path": str(out / f"layer_{layer}"), **quality.to_dict()} for layer, quality in trained.items()]
    if not printed_json(as_json, {"saes": rows}):
        print_table(
            "Evaluated on held-out text", rows, layer="d", explained_variance=".3f", l0=".1f", dead=".2%", loss_recovered=".3f"
        )
