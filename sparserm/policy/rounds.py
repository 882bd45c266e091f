"""The folder of one run of online DPO, what is done in a round, and how a run that was stopped goes on.

Everything is kept as it arises::

    settings.json                  what the run is of; another run is refused this folder
    round_0/held_out.json          the start's answers to held-out prompts, judged
    round_1/samples.jsonl          samples to the round's prompts, with the ranker's rewards
    round_1/pairs.jsonl            best against worst, in TRL's format
    round_1/policy/                the trained policy, a model of Transformers
    round_1/held_out.json          its answers, judged
    report.json                    the measures of all rounds
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparserm.backbone.model import folder_fingerprint, resolve
from sparserm.pairs.candidates import Candidates, CandidateSet
from sparserm.pairs.messages import prompt_value
from sparserm.policy.dpo import RoundTraining, SampledPair, train_dpo
from sparserm.policy.judges import Judge
from sparserm.policy.language_model import Policy, Sample, divergence
from sparserm.policy.measures import Answers
from sparserm.scoring.best_of_n import apart, preference_rows, rank_by
from sparserm.support.files import to_jsonl, write_json, write_text
from sparserm.types import Progress, Prompt, SparseRMError, Text

#: Answers of each policy to each held-out prompt.
HELD_OUT_SAMPLES = 2


@dataclass(frozen=True)
class AlignSettings:
    """How the loop is run.

    Attributes:
        rounds: of sampling, ranking and training.
        prompts: of each round; rounds take others in turn, and begin again where there are no more.
        samples: to each prompt, from which the best and the worst make a pair.
        max_new_tokens: of a response.
        min_margin: pairs whose rewards differ by less are left out.
        learning_rate: of AdamW in each round, falling linearly to zero. One round of 8 steps with the default policy moved
            it by 0.8 nats at 2e-5, 3.0 at 5e-5 and 7.9 at 1e-4.
        beta: of DPO: how strongly the policy is kept near the start.
        seed: of samples and order of pairs.
    """

    rounds: int = 2
    prompts: int = 64
    samples: int = 4
    max_new_tokens: int = 64
    min_margin: float = 0.0
    learning_rate: float = 2e-5
    beta: float = 0.1
    seed: int = 0


class Run:
    """The files of one run, and the policy that was used last."""

    def __init__(
        self,
        folder: Path,
        start: str | Path,
        prompts: Sequence[Prompt],
        held_out: Sequence[Prompt],
        ranker: Judge,
        judges: Sequence[Judge],
        settings: AlignSettings,
        progress: Progress | None,
    ) -> None:
        self.folder, self.settings = folder, settings
        self._start_name, self._prompts, self._held_out = start, prompts, held_out
        self._ranker, self._judges, self._progress = ranker, judges, progress
        self.start = Policy.load(start, progress)
        self._held: tuple[int, Policy] = (0, self.start)

    def claim(self) -> None:
        """Take an empty folder, or one that this very run was begun in.

        Raises:
            SparseRMError: another run, or something else, is there.
        """
        wanted = {
            "policy": folder_fingerprint(resolve(self._start_name)[0]),
            "prompts": _digest(self._prompts),
            "held_out": _digest(self._held_out),
            "ranker": self._ranker.name,
            "judges": {judge.name: judge.fingerprint for judge in self._judges},
            **asdict(self.settings),
        }
        path = self.folder / "settings.json"
        if path.is_file():
            there = json.loads(path.read_text(encoding="utf-8"))
            # More rounds go on from the last one.
            differ = [name for name in wanted if name != "rounds" and there.get(name) != wanted[name]]
            if differ:
                raise SparseRMError(
                    f"{self.folder} holds a run with other {', '.join(differ)}; expected the same ones to go on with it; give "
                    "another folder"
                )
        elif self.folder.is_dir() and any(not one.name.startswith(".settings.json.") for one in self.folder.iterdir()):
            raise SparseRMError(f"{self.folder} is not empty and holds no run of this kind; give another folder")
        write_json(path, wanted)

    def round(self, number: int) -> Path:
        """The folder of a round."""
        return self.folder / f"round_{number}"

    def policy(self, number: int) -> Policy:
        """The policy after a round, 0 being the start."""
        if self._held[0] != number:
            self._held = (number, self.start if number == 0 else Policy.load(self.round(number) / "policy"))
        return self._held[1]

    def train(self, number: int) -> RoundTraining:
        """The round's policy, from the one before."""
        done = self.round(number) / "training.json"
        if done.is_file():
            return RoundTraining(**json.loads(done.read_text(encoding="utf-8")))
        pairs = self._pairs(number)
        policy = self.policy(number - 1)
        policy = policy.copy() if number == 1 else policy
        self._held = (-1, policy)  # while it is trained it is no round's
        training = train_dpo(
            policy,
            self.start,
            pairs,
            learning_rate=self.settings.learning_rate,
            beta=self.settings.beta,
            seed=self.settings.seed + number,
            progress=self._told(number),
        )
        shutil.rmtree(self.round(number) / "policy", ignore_errors=True)  # of a run that was stopped while it wrote
        policy.save(self.round(number) / "policy")
        write_json(done, asdict(training))
        self._held = (number, policy)
        return training

    def _pairs(self, number: int) -> list[SampledPair]:
        """Of each of the round's prompts its best sample against its worst."""
        first = (number - 1) * self.settings.prompts
        size = min(self.settings.prompts, len(self._prompts))
        prompts = [self._prompts[(first + i) % len(self._prompts)] for i in range(size)]
        samples, n = self._samples(number, prompts), self.settings.samples
        sets, said = [], [i for i, (sample, _) in enumerate(samples) if sample.text]
        for place, prompt in enumerate(prompts):
            own = [i for i in said if i // n == place]
            if own:
                sets.append(CandidateSet(prompt, tuple(samples[i][0].text for i in own), tuple(own)))
        ranked = rank_by(Candidates("samples", tuple(sets)), np.array([samples[i][1] for i in said]))
        kept = apart(ranked, self.settings.min_margin)
        if not kept:
            raise SparseRMError(
                f"round {number}: of {len(prompts)} prompts none has two samples whose rewards differ by "
                f"{self.settings.min_margin:g} or more; expected one at least; take more samples or a smaller margin, and "
                "another folder"
            )
        write_text(self.round(number) / "pairs.jsonl", to_jsonl(preference_rows(kept)))
        return [
            SampledPair(one.candidates.prompt, *(samples[one.candidates.rows[i]][0] for i in (one.best, one.worst)))
            for one in kept
        ]

    def _samples(self, number: int, prompts: Sequence[Prompt]) -> list[tuple[Sample, float]]:
        """The samples of prompt after prompt with the ranker's rewards, NaN for an empty one."""
        path = self.round(number) / "samples.jsonl"
        if not path.is_file():
            drawn = self._draw(number - 1, prompts, self.settings.samples, 2 * number - 1)
            rewards = self._judge(self._ranker, prompts, drawn, number)[0]
            rows = (
                {"prompt": prompt_value(prompt), **_as_row(sample), "reward": _or_none(reward)}
                for prompt, own, values in zip(prompts, drawn, rewards, strict=True)
                for sample, reward in zip(own, values, strict=True)
            )
            write_text(path, to_jsonl(rows))
        kept = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        return [(_as_sample(row), float("nan") if row["reward"] is None else row["reward"]) for row in kept]

    def _draw(self, number: int, prompts: Sequence[Prompt], n: int, draw: int) -> list[tuple[Sample, ...]]:
        """Answers of the policy after a round; ``draw`` is another for every set of samples of the run."""
        return self.policy(number).sample(
            prompts,
            n=n,
            max_new_tokens=self.settings.max_new_tokens,
            seed=1000 * self.settings.seed + draw,
            progress=self._told((draw + 1) // 2),
        )

    def _judge(
        self, judge: Judge, prompts: Sequence[Prompt], drawn: Sequence[Sequence[Sample]], stage: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Rewards ``[P, n]`` and contributions ``[P, n, K]``, NaN where a response is empty."""
        texts = [Text(prompt, sample.text) for prompt, own in zip(prompts, drawn, strict=True) for sample in own]
        said = [i for i, text in enumerate(texts) if text.response]
        found = judge.judge([texts[i] for i in said], self._told(stage))
        rewards = np.full(len(texts), np.nan)
        rewards[said] = found.rewards
        shape = (len(drawn), len(drawn[0]))
        if found.contributions is None:
            return rewards.reshape(shape), None
        parts = np.full((len(texts), found.contributions.shape[1]), np.nan)
        parts[said] = found.contributions
        return rewards.reshape(shape), parts.reshape(*shape, -1)

    def held_out_answers(self, number: int) -> Answers:
        """The policy's answers to the held-out prompts, judged."""
        path = self.round(number) / "held_out.json"
        if not path.is_file():
            write_json(path, self._answer(number))
        kept = json.loads(path.read_text(encoding="utf-8"))
        array = {name: np.array(kept[name], float) for name in ("tokens", "finished", "divergence")}
        parts = None if kept["contributions"] is None else np.array(kept["contributions"], float)
        return Answers({name: np.array(one, float) for name, one in kept["rewards"].items()}, parts, **array)

    def _answer(self, number: int) -> dict[str, Any]:
        drawn = self._draw(number, self._held_out, HELD_OUT_SAMPLES, 2 * number)
        judged = {judge.name: self._judge(judge, self._held_out, drawn, number) for judge in self._judges}
        parts = judged[self._ranker.name][1]
        flat = [sample for own in drawn for sample in own]
        repeated = [prompt for prompt in self._held_out for _ in range(HELD_OUT_SAMPLES)]
        moved = divergence(self.policy(number), self.start, repeated, flat, self._told(number))
        return {
            "prompts": [prompt_value(prompt) for prompt in self._held_out],
            "responses": [[sample.text for sample in own] for own in drawn],
            "tokens": [[len(sample.ids) for sample in own] for own in drawn],
            "finished": [[sample.finished for sample in own] for own in drawn],
            "divergence": moved.reshape(len(drawn), -1).tolist(),
            "rewards": {name: _plain(rewards) for name, (rewards, _) in judged.items()},
            "contributions": None if parts is None else _plain(parts),
        }

    def _told(self, number: int) -> Progress | None:
        """Progress that says which round it is of."""
        progress = self._progress
        if progress is None:
            return None
        return lambda done, total, what: progress(done, total, f"Round {number}: {what[0].lower()}{what[1:]}")


def _digest(prompts: Sequence[Prompt]) -> str:
    values = [prompt_value(prompt) for prompt in prompts]
    return hashlib.sha256(json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _as_row(sample: Sample) -> dict[str, Any]:
    return {"response": sample.text, "ids": list(sample.ids), "finished": sample.finished}


def _as_sample(row: dict[str, Any]) -> Sample:
    return Sample(row["response"], tuple(row["ids"]), row["finished"])


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _plain(values: np.ndarray) -> Any:
    """Nested lists, None for NaN: JSON has no such number."""
    return np.where(np.isnan(values), None, values).tolist()  # type: ignore[call-overload]
