"""Commands for heads, their features and SAEs: features, label, edit, heads, saes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sparserm.cli.common import (
    AsJson,
    Columns,
    Config,
    HeadArgument,
    PairsArgument,
    SkipBad,
    Split,
    TestSplit,
    app,
    load,
    print_facts,
    print_table,
    printed_json,
    readable,
)
from sparserm.cli.outputs import HEAD, Force, Output, check_home, out_option, pairs_file


@app.command()
def features(head: HeadArgument, as_json: AsJson = False) -> None:
    """List the features of a head: firing rates on chosen and rejected responses, weights, and how often each was selected
    on other halves of the prompts."""
    from sparserm.model import SparseRM

    model = SparseRM.from_pretrained(head)
    rows = model.features()
    about = {"head": model.card.name, "hook": model.card.hook, "sae": model.card.sae, "score": model.head.score}
    if not printed_json(as_json, {**about, "features": rows}):
        columns = {"f_chosen": ".1%", "f_rejected": ".1%", "gap": "+.1%", "weight": "+.3f"}
        if model.saved.selected is not None:
            columns["selected"] = ".0%"
        title = f"{model.card.name}, {model.card.hook}, {model.card.sae}, {model.head.score} scores"
        print_table(title, rows, feature="d", label="s", **columns)


@app.command()
def label(
    head: HeadArgument,
    pairs: PairsArgument,
    endpoint: Annotated[
        str, typer.Option(help="URL of an OpenAI-compatible server, ending in /v1. Default: SPARSERM_LABEL_URL.")
    ] = "",
    model: Annotated[
        str, typer.Option(help="Name of its model. Default: SPARSERM_LABEL_MODEL. The key is read from SPARSERM_LABEL_KEY.")
    ] = "",
    column: Columns = None,
    skip_bad: SkipBad = False,
    split: Split = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Label the features of a head automatically, and measure how well each label predicts where its feature fires.

    Labels come from a local rule, or from a language model if an endpoint is given; texts of the pairs are then sent to it.
    """
    from sparserm.features.auto_labels import Rule, label_head
    from sparserm.features.llm_labels import EndpointLabeller, configured_endpoint
    from sparserm.model import SparseRM
    from sparserm.support.progress import terminal_progress

    check_home("labels")
    asked = configured_endpoint(endpoint, model)
    labeller = EndpointLabeller(asked) if asked else Rule()
    data, scorer = load(pairs, column, skip_bad, split, config), SparseRM.from_pretrained(head)
    with terminal_progress() as progress:
        labels = label_head(scorer, data, labeller, progress)
    named = [one for one in labels.values() if one.text is not None]
    result = {
        "head": scorer.card.name,
        "data": data.name,
        "source": labeller.source,
        "n_features": len(labels),
        "n_labelled": len(named),
        "features": [{"feature": feature, **asdict(one)} for feature, one in labels.items()],
    }
    if printed_json(as_json, result):
        return
    rows = [
        {
            "feature": feature,
            "label": one.text or one.shown,
            "detects": one.detection and str(one.detection),
            "examples": one.examples and str(one.examples),
        }
        for feature, one in labels.items()
    ]
    print_table(
        f"{scorer.card.name}: {len(named)} of {len(labels)} features have a reliable label",
        rows,
        feature="d",
        label="s",
        detects="s",
        examples="s",
    )


@app.command()
def edit(
    head: HeadArgument,
    out: Annotated[Path, out_option(help="Folder for the edited head; the original is not changed.")],
    off: Annotated[list[str] | None, typer.Option(help="Features to switch off, e.g. 12,88.")] = None,
    flip: Annotated[list[str] | None, typer.Option(help="Features whose weight changes sign, e.g. 7.")] = None,
    scale: Annotated[list[str] | None, typer.Option(help="Factors to multiply weights by, e.g. 9=0.5,12=2.")] = None,
    test: Annotated[str | None, typer.Option(help="Held-out pairs to measure the edits on.")] = None,
    column: Columns = None,
    skip_bad: SkipBad = False,
    test_split: TestSplit = None,
    config: Config = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Switch off, flip or rescale features, measure the effect on held-out pairs, and save a new head."""
    from sparserm.heads.saved import find_head, head_hash
    from sparserm.model import SparseRM
    from sparserm.support.progress import terminal_progress
    from sparserm.training.editing import held_out_scores, make_edited_head, read_factors, summarise_edits

    edits = read_factors(off or (), flip or (), scale or ())
    folder = find_head(head)
    output = Output(out, {"the head that is edited": folder, "the test pairs": pairs_file(test)}, force, HEAD)
    output.check()
    model, name = SparseRM.from_pretrained(head), folder.name
    make_edited_head(model.saved, name, edits, out.name, None)  # rejects invalid edits before any work
    held_out, measured = None, {}
    if test:
        data = load(test, column, skip_bad, test_split, config)
        with terminal_progress() as progress:
            model.load_backbone(progress)
            held_out = held_out_scores(model.saved, data, model.represent(data, progress=progress))
        measured = summarise_edits(held_out, edits, data)
    else:
        typer.echo(
            "warning: nothing was measured, and the reference rewards are those of the original head; give pairs with --test",
            err=True,
        )
    edited = make_edited_head(model.saved, name, edits, out.name, held_out)
    output.check()  # it may have appeared meanwhile
    SparseRM(edited).save_pretrained(out)
    result = {"out": str(out), "hash": head_hash(edited), **edited.card.training["lineage"], **measured}
    if not printed_json(as_json, result):
        print_facts(f"Head {out}", result)


@app.command()
def heads(as_json: AsJson = False) -> None:
    """List the heads that can be used by name."""
    from sparserm.heads.library import own_folders
    from sparserm.heads.saved import list_heads, read_files

    rows = []
    for name, folder, saved in readable(list_heads() | own_folders(), lambda _, folder: read_files(folder, folder)):
        card = saved.card
        metrics = card.metrics
        rows.append(
            {
                "name": name,
                "layer": card.hook_point.layer,
                "score": saved.head.score,
                "k": len(saved.head.features),
                "hook": card.hook,
                "sae": card.sae,
                "backbone": card.backbone,
                "accuracy": metrics.get("accuracy"),
                "ci95": metrics.get("ci95"),
                "n_test": metrics.get("n"),
                "licence": card.training.get("licence"),
                "path": str(folder),
            }
        )
    if not printed_json(as_json, {"heads": rows}):
        print_table("Heads", rows, name="s", layer="d", score="s", k="d", accuracy=".3f", ci95="s", n_test="d", licence="s")


@app.command()
def saes(as_json: AsJson = False) -> None:
    """List the SAEs that can be used by name."""
    from sparserm.sae.autoencoder import describe_sae, find_saes
    from sparserm.sae.seeds import read_seeds

    rows, stability = [], []
    for name, folder, one in readable(find_saes(), describe_sae):
        seeds = read_seeds(folder, one.d_sae)
        if seeds is not None:
            stability.append(f"{name}: found again with other seeds: {seeds}.")
        rows.append(
            {
                "name": name,
                "hook": one.hook,
                "layer": one.layer,
                "d_sae": one.d_sae,
                "architecture": one.architecture,
                **one.metrics,
                **(seeds.figures() if seeds else {}),
                "path": str(folder),
            }
        )
    if printed_json(as_json, {"saes": rows}):
        return
    measures = {"explained_variance": ".3f", "l0": ".1f", "dead": ".2%", "loss_recovered": ".3f"}
    print_table("Sparse autoencoders", rows, name="s", layer="d", d_sae="d", architecture="s", **measures)
    for line in stability:
        typer.echo(line)
