"""The command that trains a policy on what a reward model says: align."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparserm.cli.common import AsJson, app, print_table, printed_json
from sparserm.support.defaults import DEFAULT_BACKBONE

if TYPE_CHECKING:
    from sparserm.policy.online_dpo import AlignReport

#: Features that are shown of those that rose and of those that fell.
SHOWN = 5


@app.command()
def align(
    prompts: Annotated[str, typer.Argument(help="Prompts: a file with a column prompt, preference pairs, or a dataset name.")],
    reward: Annotated[str, typer.Option(help="What ranks: a head, or the folder of a fine-tuned reward model.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command goes on where it was stopped.")],
    judge: Annotated[
        list[str] | None, typer.Option(help="A head or reward model of other data, which only looks on; give several.")
    ] = None,
    policy: Annotated[str, typer.Option(help="What to train: a folder, a hub name, or smollm2.")] = DEFAULT_BACKBONE,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of sampling, ranking and DPO.")] = 2,
    n_prompts: Annotated[int, typer.Option("--prompts", min=1, help="Prompts of a round.")] = 64,
    samples: Annotated[int, typer.Option(min=2, help="Samples to each prompt.")] = 4,
    held_out: Annotated[int, typer.Option(min=2, help="Prompts that are held out to measure on.")] = 48,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a response, at most.")] = 64,
    min_margin: Annotated[float, typer.Option(min=0, help="Leave out pairs whose rewards differ by less.")] = 0.0,
    learning_rate: Annotated[float, typer.Option(min=0, help="Of AdamW in each round.")] = 2e-5,
    beta: Annotated[float, typer.Option(min=0, help="How strongly DPO keeps the policy near the start.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the split of prompts, the samples and the order of pairs.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train a policy by online DPO on a head's ranking of its samples, and see whether independent judges follow."""
    from sparserm.pairs.load import load_prompts, split_prompts
    from sparserm.policy.judges import Judge
    from sparserm.policy.online_dpo import align
    from sparserm.policy.rounds import AlignSettings
    from sparserm.support.progress import terminal_progress

    split = split_prompts(load_prompts(prompts), held_out, seed)
    ranker, judges = Judge.load(reward), [Judge.load(one) for one in judge or ()]
    settings = AlignSettings(rounds, n_prompts, samples, max_new_tokens, min_margin, learning_rate, beta, seed)
    with terminal_progress() as progress:
        report = align(split.train, split.held_out, ranker, judges, out, policy=policy, settings=settings, progress=progress)
    result = {**asdict(report), "policy": str(report.policy), "n_prompts": len(split.train), "n_held_out": len(split.held_out)}
    if not printed_json(as_json, result):
        _print(report, len(split.held_out))


def _print(report: AlignReport, n_held_out: int) -> None:
    rows: list[dict[str, Any]] = [
        {"round": one.round, "judge": name + " (ranks)" * (name == report.ranker), **asdict(judge)}
        for one in report.measures
        for name, judge in one.judges.items()
        if one.round
    ]
    print_table(
        f"On {n_held_out} held-out prompts, against the start's answers",
        rows,
        round="d",
        judge="s",
        win_rate=".3f",
        win_ci95=".3f",
        gain="+.2f",
        gain_ci95="+.2f",
        verdict="s",
    )
    print_table(
        "The policy",
        [asdict(one) for one in report.measures],
        round="d",
        tokens=".1f",
        finished=".1%",
        empty=".1%",
        kl=".2f",
        kl_ci95=".2f",
    )
    climbed = [
        {"feature": number, "label": label, "start": before, "end": after, "change": after - before}
        for number, label, before, after in report.climbed()
    ]
    if climbed:
        ends = climbed if len(climbed) <= 2 * SHOWN else climbed[:SHOWN] + climbed[-SHOWN:]
        columns = {"feature": "d", "label": "s", "start": "+.3f", "end": "+.3f", "change": "+.3f"}
        print_table("What the ranker's features give an answer: those that rose and fell most", ends, **columns)
    typer.echo(report.conclusion)
    typer.echo(f"The policy is in {report.policy}.")
