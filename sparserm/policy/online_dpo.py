"""Online iterative DPO: a policy samples, a reward model ranks, DPO trains, round after round; judges look on.

Source: online iterative alignment as SparseRM is meant for (arXiv 2511.07896), by iterative DPO (Xiong et al., 2024): the
reference stays the start in all rounds.
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
from sparserm.policy.rounds import AlignSettings, Run, write_json
from sparserm.types import Progress, Prompt, SparseRMError


@dataclass(frozen=True)
class AlignReport:
    """What came of it.

    Attributes:
        policy: folder of the last round's policy.
        measures: of the start and of every round.
        training: of every round.
        features: number and label of the ranking head's features; empty for a classifier.
        conclusion: whether the judges follow the ranker, in a sentence.
    """

    policy: Path
    ranker: str
    measures: tuple[PolicyMeasures, ...]
    training: tuple[RoundTraining, ...]
    features: tuple[tuple[int, str], ...]
    conclusion: str

    def climbed(self) -> list[tuple[int, str, float, float]]:
        """Number, label, mean contribution at the start and at the end of each feature, what rose most first; none where one
        of both says nothing at all, or the ranker has no features."""
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
    """Run the loop, or what is left of it.

    Args:
        prompts: that the policy is trained on.
        held_out: that it is measured on, before and after.
        judges: reward models that have no part in the training.
        folder: of this run.
        policy: the start, as :meth:`~sparserm.policy.language_model.Policy.load` takes it.

    Raises:
        SparseRMError: TRL is not installed, the folder holds another run, prompts are in both parts or in none, two judges
            are one or have one name, a prompt is too long, or a round gives no pair.
    """
    _check(prompts, held_out, [ranker, *judges], settings)
    import_trl()  # now, and not after the first round's samples
    run = Run(folder, policy, prompts, held_out, ranker, [ranker, *judges], settings, progress)
    run.start.check_room([*prompts, *held_out], settings.max_new_tokens)
    run.claim()
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
    write_json(folder / "report.json", {**asdict(report), "policy": str(report.policy)})
    return report


def _check(prompts: Sequence[Prompt], held_out: Sequence[Prompt], judges: Sequence[Judge], settings: AlignSettings) -> None:
    both = {prompt_key(prompt) for prompt in prompts} & {prompt_key(prompt) for prompt in held_out}
    names = [judge.name for judge in judges]
    if not prompts or len(held_out) < 2 or both:
        raise SparseRMError(
            f"there are {len(prompts)} prompts to train on and {len(held_out)} held out, {len(both)} of them in both; "
            "expected one to train on, two held out, and none in both"
        )
    if len(set(names)) < len(names):
        raise SparseRMError(
            f"the ranker and the judges are called {', '.join(names)}; expected different names; rename a folder"
        )
    if len({judge.fingerprint for judge in judges}) < len(judges):
        raise SparseRMError(
            f"of the ranker and the judges {', '.join(names)} two are the same under different names; expected judges that had "
            "no part in the training; leave the copy out"
        )
    if settings.rounds < 1 or settings.samples < 2:
        raise SparseRMError(
            f"there are {settings.rounds} rounds of {settings.samples} samples; expected one round and two samples at least"
        )
