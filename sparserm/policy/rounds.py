"""The rounds of online DPO and the folder of a run, from which an interrupted run resumes.

Every result is saved as soon as it is computed::

    settings.json                  settings and inputs of the run; a run with others is refused
    round_0/held_out.json          the initial policy's answers to held-out prompts, with all judges' rewards
    round_1/samples.jsonl          samples for the round's prompts, with the ranker's rewards
    round_1/samples.json           the checksum of the samples
    round_1/pairs.jsonl            best and worst samples as preference pairs, in TRL's format
    round_1/policy/                the trained policy, in transformers format
    round_1/training.json          statistics of the training, and the checksums of the policy
    round_1/held_out.json          its answers to held-out prompts, with all judges' rewards
    report.json                    the measures of all rounds

What is read again carries checksums (:mod:`sparserm.policy.records`); a damaged file is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
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
from sparserm.policy.records import check_files, damaged, file_checksums, read_record, write_record
from sparserm.scoring.best_of_n import apart, preference_rows, rank_by
from sparserm.support.files import holds_nothing, replacing_folder, to_jsonl, write_text
from sparserm.support.parsing import parse_json
from sparserm.types import Progress, Prompt, SparseRMError, Text

#: Answers per policy and held-out prompt.
HELD_OUT_SAMPLES = 2


@dataclass(frozen=True)
class AlignSettings:
    """Settings of online DPO.

    Attributes:
        rounds: of sampling, ranking and training.
        prompts: prompts per round; each round takes the next ones, and starts over after the last.
        samples: samples per prompt, of which the best and the worst form a pair.
        max_new_tokens: maximum length of a response.
        min_margin: minimum reward margin of a pair; others are left out.
        learning_rate: of AdamW in each round, decaying linearly to zero. One round of 8 steps moved the default policy by a
            KL of 0.8 nats at 2e-5, 3.0 at 5e-5 and 7.9 at 1e-4.
        beta: of DPO: how strongly the policy is kept near the initial one.
        seed: of the samples and the order of pairs.
    """

    rounds: int = 2
    prompts: int = 64
    samples: int = 4
    max_new_tokens: int = 64
    min_margin: float = 0.0
    learning_rate: float = 2e-5
    beta: float = 0.1
    seed: int = 0


def require_run(folder: Path) -> dict[str, Any] | None:
    """The settings of the run in a folder; None if the folder is missing or empty.

    Raises:
        SparseRMError: it holds other files, or settings that cannot be read.
    """
    try:
        return read_record(folder / "settings.json", fix="restore it from a copy, or give another folder")
    except FileNotFoundError:
        if not holds_nothing(folder):
            raise SparseRMError(
                f"{folder} is not empty and holds no alignment run; expected a new folder or that of a run; give another folder"
            ) from None
        return None


class Run:
    """One run of online DPO: computes the steps of its rounds and stores them in its folder."""

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
        self._loaded: tuple[int, Policy] = (0, self.start)  # the policy used last, and its round

    def claim(self) -> None:
        """Write the run's settings to its folder, which must be empty or hold the same run.

        Raises:
            SparseRMError: the folder holds another run or other files.
        """
        wanted = {
            "policy": folder_fingerprint(resolve(self._start_name)[0]),
            "prompts": _digest(self._prompts),
            "held_out": _digest(self._held_out),
            "ranker": self._ranker.name,
            "judges": {judge.name: judge.fingerprint for judge in self._judges},
            **asdict(self.settings),
        }
        if (found := require_run(self.folder)) is not None:
            # A finished run can be extended by more rounds.
            differ = [name for name in wanted if name != "rounds" and found.get(name) != wanted[name]]
            if differ:
                raise SparseRMError(
                    f"{self.folder} holds a run with other {', '.join(differ)}; expected the same ones to resume it; give "
                    "another folder"
                )
        write_record(self.folder / "settings.json", wanted)

    def round(self, number: int) -> Path:
        """The folder of a round."""
        return self.folder / f"round_{number}"

    def policy(self, number: int) -> Policy:
        """The policy after a round; the initial policy for round 0."""
        if self._loaded[0] != number:
            self._loaded = (number, self.start if number == 0 else Policy.load(self.round(number) / "policy"))
        return self._loaded[1]

    def train(self, number: int) -> RoundTraining:
        """Train the round's policy from the previous one's, unless that is done.

        Raises:
            SparseRMError: a file of the round is damaged.
        """
        done = self.round(number) / "training.json"
        if done.is_file():
            return self._trained(number)
        pairs = self._pairs(number)
        policy = self.policy(number - 1)
        policy = policy.copy() if number == 1 else policy
        self._loaded = (-1, policy)  # of no round while it is trained in place
        training = train_dpo(
            policy,
            self.start,
            pairs,
            learning_rate=self.settings.learning_rate,
            beta=self.settings.beta,
            seed=self.settings.seed + number,
            progress=self._round_progress(number),
        )
        with replacing_folder(self.round(number) / "policy", replace=True) as new:  # of a run stopped before the next line
            policy.save(new)
        files = file_checksums(self.round(number), "policy/**/*")
        write_record(done, {"round": number, **asdict(training), "files": files})
        self._loaded = (number, policy)
        return training

    def _trained(self, number: int) -> RoundTraining:
        """The statistics of a round whose policy was trained; the policy must be as it was saved."""
        path, policy = self.round(number) / "training.json", self.round(number) / "policy"
        found = read_record(path, number)
        kinds = {"pairs": (int,), "steps": (int,), "loss": (int, float), "seconds": (int, float)}
        wrong = [name for name in kinds if type(found.get(name)) not in kinds[name]]
        noted = found.get("files", {})
        if wrong or not isinstance(noted, dict):
            raise damaged(path, f"{', '.join(wrong) or 'files'}: missing or of another type")
        fix = f"delete {path} and repeat the command"
        if not policy.is_dir():
            raise damaged(policy, "it is missing", fix)
        check_files(self.round(number), "policy/**/*", noted, fix)
        return RoundTraining(**{name: found[name] for name in kinds})

    def _pairs(self, number: int) -> list[SampledPair]:
        """The best and worst sample of each of the round's prompts."""
        first = (number - 1) * self.settings.prompts
        size = min(self.settings.prompts, len(self._prompts))
        prompts = [self._prompts[(first + i) % len(self._prompts)] for i in range(size)]
        samples, n = self._samples(number, prompts), self.settings.samples
        sets, nonempty = [], [i for i, (sample, _) in enumerate(samples) if sample.text]
        for place, prompt in enumerate(prompts):
            own = [i for i in nonempty if i // n == place]
            if own:
                sets.append(CandidateSet(prompt, tuple(samples[i][0].text for i in own), tuple(own)))
        ranked = rank_by(Candidates("samples", tuple(sets)), np.array([samples[i][1] for i in nonempty]))
        kept = apart(ranked, self.settings.min_margin)
        if not kept:
            raise SparseRMError(
                f"round {number}: none of {len(prompts)} prompts has two samples whose rewards differ by "
                f"{self.settings.min_margin:g} or more; expected at least one; use more samples or a smaller minimum reward "
                "margin, and another folder"
            )
        write_text(self.round(number) / "pairs.jsonl", to_jsonl(preference_rows(kept)))
        return [
            SampledPair(one.candidates.prompt, *(samples[one.candidates.rows[i]][0] for i in (one.best, one.worst)))
            for one in kept
        ]

    def _samples(self, number: int, prompts: Sequence[Prompt]) -> list[tuple[Sample, float]]:
        """Samples with the ranker's rewards (NaN if empty), in the order of the prompts."""
        path, note = self.round(number) / "samples.jsonl", self.round(number) / "samples.json"
        if not path.is_file():
            drawn = self._draw(number - 1, prompts, self.settings.samples, 2 * number - 1)
            rewards = self._judge(self._ranker, prompts, drawn, number)[0]
            rows = (
                {"prompt": prompt_value(prompt), **_as_row(sample), "reward": _or_none(reward)}
                for prompt, own, values in zip(prompts, drawn, rewards, strict=True)
                for sample, reward in zip(own, values, strict=True)
            )
            note.unlink(missing_ok=True)  # of samples that were deleted
            write_text(path, to_jsonl(rows))
            write_record(note, {"round": number, "files": file_checksums(path.parent, path.name)})
        if note.is_file():  # a run of an earlier version has none
            noted = read_record(note, number).get("files")
            if not isinstance(noted, dict):
                raise damaged(note, "files: missing or of another type")
            check_files(path.parent, path.name, noted)
        try:
            stored = [parse_json(line) for line in path.read_bytes().split(b"\n") if line]
        except ValueError as error:
            raise damaged(path, str(error)) from error
        wanted = [prompt_value(prompt) for prompt in prompts for _ in range(self.settings.samples)]
        vocabulary = self.start.model.get_input_embeddings().weight.shape[0]
        if len(stored) != len(wanted):
            raise damaged(path, f"it has {len(stored)} samples, not {len(wanted)}")
        for line, (row, prompt) in enumerate(zip(stored, wanted, strict=True), 1):
            if not _is_sample(row, prompt, vocabulary):
                raise damaged(path, f"line {line} is not a sample for its prompt")
        return [(_as_sample(row), float("nan") if row["reward"] is None else row["reward"]) for row in stored]

    def _draw(self, number: int, prompts: Sequence[Prompt], n: int, draw: int) -> list[tuple[Sample, ...]]:
        """Sample answers from the policy after a round; ``draw`` differs for every call within a run and seeds it."""
        return self.policy(number).sample(
            prompts,
            n=n,
            max_new_tokens=self.settings.max_new_tokens,
            seed=1000 * self.settings.seed + draw,
            progress=self._round_progress((draw + 1) // 2),
        )

    def _judge(
        self, judge: Judge, prompts: Sequence[Prompt], drawn: Sequence[Sequence[Sample]], stage: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Rewards ``[P, n]`` and contributions ``[P, n, K]``, NaN for empty responses."""
        texts = [Text(prompt, sample.text) for prompt, own in zip(prompts, drawn, strict=True) for sample in own]
        nonempty = [i for i, text in enumerate(texts) if text.response]
        found = judge.judge([texts[i] for i in nonempty], self._round_progress(stage))
        rewards = np.full(len(texts), np.nan)
        rewards[nonempty] = found.rewards
        shape = (len(drawn), len(drawn[0]))
        if found.contributions is None:
            return rewards.reshape(shape), None
        parts = np.full((len(texts), found.contributions.shape[1]), np.nan)
        parts[nonempty] = found.contributions
        return rewards.reshape(shape), parts.reshape(*shape, -1)

    def held_out_answers(self, number: int) -> Answers:
        """The policy's answers to the held-out prompts with all judges' rewards."""
        path = self.round(number) / "held_out.json"
        if not path.is_file():
            write_record(path, self._answer(number))
        stored = read_record(path, number)
        shape, k = (len(self._held_out), HELD_OUT_SAMPLES), len(self._ranker.features)
        try:
            empty = _values(stored["responses"], shape, (str,)) == ""
            array = {
                name: _values(stored[name], shape, kinds).astype(float)
                for name, kinds in (("tokens", (int,)), ("finished", (bool,)), ("divergence", (int, float)))
            }
            rewards = {one.name: _rewards(stored["rewards"][one.name], shape, empty) for one in self._judges}
            parts = None if stored["contributions"] is None else _rewards(stored["contributions"], (*shape, k), empty)
            if (parts is None) != (k == 0):
                raise ValueError(f"expected contributions of {k} features")
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(path, f"an entry is missing or of another kind: {error}") from error
        return Answers(rewards, parts, **array)

    def _answer(self, number: int) -> dict[str, Any]:
        drawn = self._draw(number, self._held_out, HELD_OUT_SAMPLES, 2 * number)
        judged = {judge.name: self._judge(judge, self._held_out, drawn, number) for judge in self._judges}
        parts = judged[self._ranker.name][1]
        flat = [sample for own in drawn for sample in own]
        repeated = [prompt for prompt in self._held_out for _ in range(HELD_OUT_SAMPLES)]
        kl = divergence(self.policy(number), self.start, repeated, flat, self._round_progress(number))
        return {
            "round": number,
            "prompts": [prompt_value(prompt) for prompt in self._held_out],
            "responses": [[sample.text for sample in own] for own in drawn],
            "tokens": [[len(sample.ids) for sample in own] for own in drawn],
            "finished": [[sample.finished for sample in own] for own in drawn],
            "divergence": kl.reshape(len(drawn), -1).tolist(),
            "rewards": {name: _plain(rewards) for name, (rewards, _) in judged.items()},
            "contributions": None if parts is None else _plain(parts),
        }

    def _round_progress(self, number: int) -> Progress | None:
        """The progress callback with the round's number in its labels."""
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


def _is_sample(row: Any, prompt: Any, vocabulary: int) -> bool:
    """Whether a row is a sample for a prompt, of token ids less than ``vocabulary``; an empty one has no reward."""
    return (
        isinstance(row, dict)
        and row.get("prompt") == prompt
        and isinstance(row.get("response"), str)
        and isinstance(row.get("finished"), bool)
        and isinstance(row.get("ids"), list)
        and all(type(one) is int and 0 <= one < vocabulary for one in row["ids"])
        and "reward" in row
        and type(row["reward"]) in ((int, float) if row["response"] else (type(None),))
    )


def _values(found: Any, shape: tuple[int, ...], kinds: Iterable[type]) -> np.ndarray:
    """Nested lists as an array of objects.

    Raises:
        ValueError: it has another shape, or values of other types.
    """
    values = np.array(found, dtype=object)
    if values.shape != shape or not {type(one) for one in values.flat} <= set(kinds):
        raise ValueError(f"expected {' x '.join(map(str, shape))} values of {' or '.join(one.__name__ for one in kinds)}")
    return values


def _rewards(found: Any, shape: tuple[int, ...], empty: np.ndarray) -> np.ndarray:
    """Rewards, or contributions, as :func:`_plain` writes them: None for empty answers only.

    Raises:
        ValueError: they are not like that.
    """
    values = _values(found, shape, (int, float, type(None))).astype(float)
    if not (np.isnan(values).reshape(*empty.shape, -1) == empty[..., None]).all():
        raise ValueError("expected a reward of each answer that is not empty")
    return values


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _plain(values: np.ndarray) -> Any:
    """Nested lists with None for NaN, which JSON does not have."""
    return np.where(np.isnan(values), None, values).tolist()  # type: ignore[call-overload]
