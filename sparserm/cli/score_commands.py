"""Commands that score responses: score, compare, best-of-n."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sparserm.cli.common import (
    AsJson,
    Columns,
    Config,
    EngineOption,
    HeadOption,
    PromptOption,
    SkipBad,
    Split,
    Workers,
    app,
    column_names,
    engine_of,
    load_backbone,
    note_thinking,
    print_facts,
    print_table,
    printed_json,
    warn,
    warn_truncated,
)
from sparserm.cli.outputs import RUN, Force, Output, check_all, head_folder, out_option, pairs_file
from sparserm.pairs.candidates import load_candidates
from sparserm.support.files import to_csv, to_jsonl
from sparserm.types import SparseRMError


@app.command()
def score(
    head: HeadOption,
    pairs: Annotated[
        str | None, typer.Argument(help="Preference pairs to score instead of one response; the scores go to --out.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="The user's message.")] = None,
    response: Annotated[str | None, typer.Option(help="The response to score.")] = None,
    out: Annotated[
        Path | None, out_option(help="Folder for the scores as Parquet files. Repeat the command to resume a stopped run.")
    ] = None,
    column: Columns = None,
    split: Split = None,
    config: Config = None,
    engine: EngineOption = "local",
    workers: Workers = 2,
    as_json: AsJson = False,
) -> None:
    """Score one response and explain its reward, or score all pairs of a file of any size."""
    if pairs is not None:
        if prompt is not None or response is not None or out is None:
            raise SparseRMError(
                "a file of pairs takes --out and neither --prompt nor --response; expected "
                "`sparserm score PAIRS --head HEAD --out FOLDER`"
            )
        _score_file(pairs, head, out, column, (split, config), engine, workers, as_json)
    elif prompt is None or response is None:
        raise SparseRMError("nothing to score; expected --prompt and --response, or a file of pairs and --out")
    elif out is not None or column or split or config or engine != "local":
        raise SparseRMError("--out, --column, --split, --config and --engine are for a file of pairs; remove them, or give one")
    else:
        _score_response(head, prompt, response, as_json)


def _score_file(
    pairs: str,
    head: str,
    out: Path,
    columns: list[str] | None,
    part: tuple[str | None, str | None],
    engine: str,
    workers: int,
    as_json: bool,
) -> None:
    """Score the pairs of a source, or of a split and configuration of a dataset."""
    from sparserm.scoring.bulk import score_file, scoring_warnings
    from sparserm.support.progress import terminal_progress

    run = engine_of(engine, workers)
    Output(out, {"the pairs": pairs_file(pairs), "the head": head_folder(head)}, folder=RUN).check_resumed()
    with terminal_progress() as progress:
        scored = score_file(
            pairs, head, out, columns=column_names(columns), split=part[0], config=part[1], engine=run, progress=progress
        )
    warn(scoring_warnings(Path(scored.out)), scored.source)
    if scored.n_unusable:
        typer.echo(
            f"warning: {scored.n_unusable} rows are invalid and have no rewards; the reason is in the column `problem`",
            err=True,
        )
    if scored.n_truncated:
        typer.echo(f"warning: {scored.n_truncated} pairs exceed the backbone's context; see the column `tokens_cut`", err=True)
    if not printed_json(as_json, vars(scored)):
        print_facts(f"{pairs} scored by {scored.head}", vars(scored))


def _score_response(head: str, prompt: str, response: str, as_json: bool) -> None:
    from sparserm.model import SparseRM

    model = SparseRM.from_pretrained(head)
    load_backbone(model)
    explanation = model.explain(prompt, response)
    beats_chosen, beats_rejected = model.chance_to_beat(explanation.reward)
    result: dict[str, Any] = {
        "reward": explanation.reward,
        "bias": explanation.bias,
        "chance_to_beat_typical_chosen": beats_chosen,
        "chance_to_beat_typical_rejected": beats_rejected,
        "contributions": model.contribution_rows(explanation),
        "head": model.card.name,
        "hook": model.card.hook,
        "pooling": model.head.pooling,
        "score": model.head.score,
        "n_tokens": len(explanation.tokens),
        "n_truncated": explanation.n_truncated,
    }
    warn_truncated(explanation.n_truncated and 1)
    note_thinking([response])
    if printed_json(as_json, result):
        return
    _print_contributions(f"Reward {explanation.reward:+.3f}", result["contributions"], model.head.score)
    typer.echo(f"The contributions and the bias ({explanation.bias:+.3f}) add up to the reward.")
    typer.echo(f"Win probability vs. a typical chosen response: {beats_chosen:.0%}, vs. a rejected one: {beats_rejected:.0%}.")


def _print_contributions(title: str, rows: list[dict[str, Any]], score: str) -> None:
    """Print the contributions; of a gated head only those of features that fire, with the number of the others."""
    shown = [row for row in rows if score == "projection" or row["fires"]]
    columns = {"feature": "d", "label": "s", **({"activation": ".2f"} if score == "gated" else {})}
    print_table(title, shown, **columns, score="+.2f", weight="+.3f", contribution="+.3f")
    if score == "gated":
        silent = len(rows) - len(shown)
        typer.echo(f"{len(shown)} of {len(rows)} features fire; {silent} are silent and contribute nothing.")


@app.command()
def compare(
    head: HeadOption,
    prompt: PromptOption,
    response: Annotated[list[str], typer.Option(help="A response; give two or more.")],
    as_json: AsJson = False,
) -> None:
    """Rank responses to one prompt, and explain the margin between the best two."""
    from sparserm.model import SparseRM

    model = SparseRM.from_pretrained(head)
    load_backbone(model)
    comparison = model.compare(prompt, response)
    warn_truncated(sum(cut > 0 for cut in comparison.n_truncated))
    note_thinking(response)
    result: dict[str, Any] = {
        "rewards": list(comparison.rewards),
        "ranking": list(comparison.ranking),
        "margin": comparison.margin,
        "contributions": [vars(part) for part in comparison.contributions],
        "head": model.card.name,
        "n_truncated": list(comparison.n_truncated),
    }
    if printed_json(as_json, result):
        return
    rows = [{"rank": n + 1, "reward": comparison.rewards[i], "response": response[i]} for n, i in enumerate(comparison.ranking)]
    print_table("Rewards", rows, rank="d", reward="+.3f", response="s")
    pair = "first minus second" if len(response) == 2 else "best minus next"
    gated = model.head.score == "gated"
    parts = [part for part in result["contributions"] if not gated or part["score_a"] or part["score_b"]]
    print_table(
        f"Margin {comparison.margin:+.3f} ({pair})",
        parts,
        feature="d",
        label="s",
        score_a="+.2f",
        score_b="+.2f",
        weight="+.3f",
        contribution="+.3f",
    )
    if gated:
        typer.echo(f"{len(result['contributions']) - len(parts)} features are silent in both and contribute nothing.")


@app.command("best-of-n")
def best_of_n_command(
    candidates: Annotated[
        Path, typer.Argument(help="JSONL, CSV or Parquet file: a prompt with its responses per row, or one response per row.")
    ],
    head: HeadOption,
    out: Annotated[Path, out_option(help="File for the ranking: .jsonl or .csv.")],
    pairs: Annotated[
        Path | None, out_option(help="JSONL file for preference pairs of the best and the worst response.")
    ] = None,
    min_margin: Annotated[float, typer.Option(help="Minimum reward margin of a pair.")] = 0.0,
    skip_bad: SkipBad = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Rank the candidate responses of many prompts, and make preference pairs of the best and the worst."""
    from sparserm.model import SparseRM
    from sparserm.scoring import best_of_n
    from sparserm.support.progress import terminal_progress

    if out.suffix not in (".jsonl", ".csv"):
        raise SparseRMError(f"--out is {out}; expected a name that ends in .jsonl or .csv")
    inputs = {"the candidates": candidates, "the head": head_folder(head)}
    ranking = Output(out, inputs, force)
    chosen = Output(pairs, inputs, force, option="--pairs") if pairs else None
    check_all(*(output for output in (ranking, chosen) if output))
    found = load_candidates(candidates, skip_bad=skip_bad)
    warn(found.issues, found.name)
    model = SparseRM.from_pretrained(head)
    with terminal_progress() as progress:
        model.load_backbone(progress)
        ranked = best_of_n.rank(model, found, progress=progress)
    warn_truncated(n_truncated := best_of_n.count_truncated(ranked))
    rows = best_of_n.ranking_rows(ranked)
    ranking.write(to_jsonl(rows) if out.suffix == ".jsonl" else to_csv(rows))
    made = best_of_n.preference_rows(ranked, min_margin)
    if chosen:
        chosen.write(to_jsonl(made))
    result = {
        "out": str(out),
        "n_prompts": len(ranked),
        "n_responses": found.n_responses,
        "pairs": str(pairs) if pairs else None,
        "n_pairs": len(made),
        "min_margin": min_margin,
        "mean_spread": sum(one.spread for one in ranked) / len(ranked),
        "n_truncated": n_truncated,
        "head": model.card.name,
    }
    if not printed_json(as_json, result):
        print_facts(f"{found.name} ranked by {model.card.name}", result)
