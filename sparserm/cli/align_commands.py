"""The command ``align``: online DPO against a reward model, checked by independent judges."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparserm.cli.common import AsJson, app, print_table, printed_json, warn
from sparserm.cli.outputs import RUN, Output, head_folder, out_option, pairs_file
from sparserm.support.defaults import DEFAULT_BACKBONE

if TYPE_CHECKING:
    from sparserm.policy.online_dpo import AlignReport

#: Number of features shown that rose most, and that fell most.
SHOWN = 5


@app.command()
def align(
    prompts: Annotated[
        str, typer.Argument(help="Prompts: a file with a column `prompt`, a file of preference pairs, or a dataset name.")
    ],
    reward: Annotated[
        str,
        typer.Option(
            help="The reward model that ranks samples: a head (a folder, a name, or USER/NAME[@REVISION] of the Hub), or the "
            "folder of a fine-tuned reward model."
        ),
    ],
    out: Annotated[Path, out_option(help="Folder of the run. Repeat the command to resume a stopped run.")],
    judge: Annotated[
        list[str] | None,
        typer.Option(
            help="Like --reward, used only for evaluation; preferably a head or reward model trained on other data. Repeatable."
        ),
    ] = None,
    policy: Annotated[
        str, typer.Option(help="The model to train: a folder, USER/NAME[@REVISION] on the Hugging Face Hub, or smollm2.")
    ] = DEFAULT_BACKBONE,
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds, each of sampling, ranking and DPO.")] = 2,
    n_prompts: Annotated[int, typer.Option("--prompts", min=1, help="Prompts per round.")] = 64,
    samples: Annotated[int, typer.Option(min=2, help="Samples per prompt.")] = 4,
    held_out: Annotated[int, typer.Option(min=2, help="Number of prompts held out for evaluation.")] = 48,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum tokens per response.")] = 64,
    min_margin: Annotated[float, typer.Option(min=0, help="Minimum reward margin of a training pair.")] = 0.0,
    learning_rate: Annotated[float, typer.Option(min=0, help="Learning rate of AdamW.")] = 2e-5,
    beta: Annotated[
        float, typer.Option(min=0, help="DPO's beta: a larger value keeps the policy closer to the initial policy.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed of the prompt split, the sampling and the order of pairs.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train a policy by online DPO on a reward model's ranking, and check the gain with independent judges."""
    from sparserm.pairs.load import read_prompts, split_prompts
    from sparserm.policy.judges import Judge
    from sparserm.policy.online_dpo import align
    from sparserm.policy.rounds import AlignSettings, require_run
    from sparserm.support.progress import terminal_progress

    models = {f"the reward model {one}": head_folder(one) for one in (reward, *(judge or ()))}
    Output(out, {"the prompts": pairs_file(prompts), "the policy": policy, **models}, folder=RUN).check_resumed()
    require_run(out)
    found = read_prompts(prompts)
    warn(found.issues, found.name)
    split = split_prompts(found.prompts, held_out, seed)
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
        f"Judges on {n_held_out} held-out prompts, compared with the initial policy",
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
        "Policy",
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
        print_table("Mean contribution per answer: the ranker's features that rose and fell most", ends, **columns)
    typer.echo(report.conclusion)
    typer.echo(f"The policy is in {report.policy}.")
