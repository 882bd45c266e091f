"""Online iterative DPO: in each round a policy samples, a reward model ranks and DPO trains; other judges only evaluate.

Source: online iterative alignment with SparseRM (arXiv 2511.07896), by iterative DPO (Xiong et al., 2024); the initial policy
is the reference in all rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sparserm.finetuning.trl_setup import import_trl
from sparserm.pairs.split import prompt_key
from sparserm.policy.dpo import RoundTraining
from sparserm.policy.judges import Judge
from sparserm.policy.measures import PolicyMeasures, conclude, measure_policy
from sparserm.policy.rounds import AlignSettings, Run, require_run
from sparserm.support.files import only_writer, write_json
from sparserm.types import Progress, Prompt, SparseRMError


@dataclass(frozen=True)
class AlignReport:
    """Result of an alignment run.

    Attributes:
        policy: folder of the last round's policy.
        ranker: name of the reward model that ranked the samples.
        measures: of the initial policy and of every round.
        training: of every round.
        features: id and label of the ranking head's features; empty for a classifier.
        conclusion: one sentence on whether the judges agree with the ranker.
    """

    policy: Path
    ranker: str
    measures: tuple[PolicyMeasures, ...]
    training: tuple[RoundTraining, ...]
    features: tuple[tuple[int, str], ...]
    conclusion: str

    def climbed(self) -> list[tuple[int, str, float, float]]:
        """Each feature's id, label, and mean contribution before and after training, largest increase first.

        Empty if all answers before or after training are empty, or the ranker has no features.
        """
        first, last = self.measures[0].features, self.measures[-1].features
        if not first or not last:
            return []
        rows = [(number, label, first[number], last[number]) for number, label in self.features]
        return sorted(rows, key=lambda row: row[2] - row[3])


def align(
    prompts: Sequence[Prompt],
    held_out: Sequence[Prompt],
    ranker: Judge,
    judges: Sequence[Judge],
    folder: Path,
    *,
    policy: str | Path,
    settings: AlignSettings,
    progress: Progress | None = None,
) -> AlignReport:
    """Run online DPO, or resume an interrupted run.

    Args:
        prompts: prompts to train on.
        held_out: prompts to evaluate on, before training and after every round.
        ranker: the reward model that ranks samples for training.
        judges: reward models used only for evaluation.
        folder: folder of the run.
        policy: the initial policy, as in :meth:`~sparserm.policy.language_model.Policy.load`.

    Raises:
        SparseRMError: TRL is not installed, the folder holds another run or one is writing to it, there are too few prompts
            or some are in both sets, two judges are the same or share a name, a prompt is too long, or a round gives no pair.
    """
    _check(prompts, held_out, [ranker, *judges], settings)
    import_trl()  # fails before the first round is sampled
    require_run(folder)
    run = Run(folder, policy, prompts, held_out, ranker, [ranker, *judges], settings, progress)
    run.start.check_room([*prompts, *held_out], settings.max_new_tokens)
    with only_writer(folder):
        run.claim()
        return _align(run, ranker, settings)


def _align(run: Run, ranker: Judge, settings: AlignSettings) -> AlignReport:
    answers = [run.held_out_answers(0)]
    training = []
    for number in range(1, settings.rounds + 1):
        training.append(run.train(number))
        answers.append(run.held_out_answers(number))
    numbers = [number for number, _ in ranker.features]
    measures = tuple(measure_policy(i, one, answers[0], numbers) for i, one in enumerate(answers))
    conclusion = conclude(measures[-1], ranker.name)
    report = AlignReport(
        run.round(settings.rounds) / "policy", ranker.name, measures, tuple(training), ranker.features, conclusion
    )
    write_json(run.folder / "report.json", {**asdict(report), "policy": str(report.policy)})
    return report


def _check(prompts: Sequence[Prompt], held_out: Sequence[Prompt], judges: Sequence[Judge], settings: AlignSettings) -> None:
    both = {prompt_key(prompt) for prompt in prompts} & {prompt_key(prompt) for prompt in held_out}
    names = [judge.name for judge in judges]
    if not prompts or len(held_out) < 2 or both:
        raise SparseRMError(
            f"there are {len(prompts)} prompts to train on and {len(held_out)} held out, {len(both)} of them in both; "
            "expected at least one to train on, at least two held out, and none in both; give other prompts"
        )
    if len(set(names)) < len(names):
        raise SparseRMError(
            f"the ranker and the judges are called {', '.join(names)}; expected different names; rename a folder"
        )
    if len({judge.fingerprint for judge in judges}) < len(judges):
        raise SparseRMError(
            f"of the ranker and the judges {', '.join(names)} two are the same model under different names; expected judges "
            "that take no part in the training; remove the copy"
        )
    if settings.rounds < 1 or settings.samples < 2:
        raise SparseRMError(
            f"got {settings.rounds} rounds with {settings.samples} samples per prompt; expected at least one round and "
            "at least two samples"
        )
