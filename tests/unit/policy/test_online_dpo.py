"""The loop with a tiny policy: what is measured is what was judged, a stopped run goes on, another run is kept out."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from sparserm.model import SparseRM
from sparserm.pairs.parsing import parse_pairs
from sparserm.policy.judges import Judge, Judgement
from sparserm.policy.language_model import Policy
from sparserm.policy.online_dpo import align
from sparserm.policy.rounds import AlignSettings
from sparserm.types import Message, SparseRMError
from tests.unit.pairs_data import preference_rows
from tests.unit.tiny import save_tiny_sae

PROMPTS = [(Message("user", f"Question {i}"),) for i in range(6)]
SETTINGS = AlignSettings(rounds=2, prompts=3, samples=3, max_new_tokens=6, learning_rate=1e-3)


def letters(text: str) -> float:
    return sum(map(ord, text)) / 100


class Stub(Judge):
    """Likes high letters, or low ones; counts how often it was asked."""

    asked = 0

    def judge(self, texts, progress=None):
        type(self).asked += 1
        return Judgement(np.array([self.model * letters(text.response) for text in texts], float))

    @property
    def features(self):
        return ()


@pytest.fixture
def run(tiny_folder, tmp_path):
    def go(settings=SETTINGS, ranker=None, judges=None, folder=tmp_path / "run", progress=None):
        ranker, judges = ranker or Stub("ranker", 1, "a"), judges or [Stub("against", -1, "b")]
        return align(PROMPTS[:4], PROMPTS[4:], ranker, judges, folder, policy=tiny_folder, settings=settings, progress=progress)

    return go


def test_every_round_is_kept_and_measured(run, tmp_path, tiny_folder) -> None:
    steps = []
    report = run(progress=lambda done, total, what: steps.append(what))
    assert [one.round for one in report.measures] == [0, 1, 2] and len(report.training) == 2
    start = report.measures[0]
    assert start.kl == 0 and start.judges["ranker"].win_rate == 0.5
    assert report.measures[2].kl > 0
    for name, sign in (("ranker", 1), ("against", -1)):
        assert report.measures[1].judges[name].reward == pytest.approx(
            sign * report.measures[1].judges["ranker"].reward, abs=1e-9
        )
    folder = tmp_path / "run"
    rows = [json.loads(line) for line in (folder / "round_1" / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 9 and all(row["reward"] == letters(row["response"]) for row in rows if row["response"])
    # The second round takes the prompts that the first left, and begins again.
    second = [json.loads(line)["prompt"] for line in (folder / "round_2" / "samples.jsonl").read_text().splitlines()]
    assert second[::3] == ["Question 3", "Question 0", "Question 1"]
    for line in (folder / "round_1" / "pairs.jsonl").read_text().splitlines():
        pair = json.loads(line)
        assert pair["score_chosen"] == letters(pair["chosen"]) > pair["score_rejected"] == letters(pair["rejected"])
    trained = Policy.load(report.policy).model.parameters()
    assert not all(torch.equal(a, b) for a, b in zip(trained, Policy.load(tiny_folder).model.parameters(), strict=True))
    assert json.loads((folder / "report.json").read_text())["conclusion"] == report.conclusion
    assert {what.partition(":")[0] for what in steps} == {"Round 0", "Round 1", "Round 2"}


def test_a_stopped_run_goes_on_and_comes_to_the_same(run, tmp_path) -> None:
    whole = run(folder=tmp_path / "whole")

    def stop(done, total, what):
        if what == "Round 2: training (steps)":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(progress=stop)
    asked = Stub.asked
    again = run()
    assert Stub.asked == asked + 2  # the last round's answers, and nothing that was judged before
    assert again.measures == whole.measures
    assert run() == again and Stub.asked == asked + 2


def test_more_rounds_go_on_from_the_last(run) -> None:
    one = run(replace(SETTINGS, rounds=1))
    two = run()
    assert two.measures[:2] == one.measures and len(two.measures) == 3


@pytest.mark.parametrize(
    ("change", "said"), [({"seed": 1}, "other seed"), ({"samples": 2, "beta": 0.2}, "other samples, beta")]
)
def test_another_run_is_kept_out_of_the_folder(run, change, said) -> None:
    run(replace(SETTINGS, rounds=1))
    with pytest.raises(SparseRMError, match=said):
        run(replace(SETTINGS, **change))


def test_another_ranker_among_the_same_judges_is_another_run(run) -> None:
    one, two = Stub("one", 1, "a"), Stub("two", -1, "b")
    run(replace(SETTINGS, rounds=1), ranker=one, judges=[two])
    with pytest.raises(SparseRMError, match="other ranker;"):
        run(ranker=two, judges=[one])


def test_a_round_that_was_not_noted_as_trained_is_trained_again(run, tmp_path) -> None:
    whole = run(replace(SETTINGS, rounds=1))
    for name in ("training.json", "held_out.json"):
        (tmp_path / "run" / "round_1" / name).unlink()
    (tmp_path / "run" / "round_1" / "policy" / "model.safetensors").write_bytes(b"half of it")
    assert run(replace(SETTINGS, rounds=1)).measures == whole.measures


def test_a_run_that_was_killed_at_its_first_write_begins_anew(run, tmp_path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / f".settings.json.{'0f' * 16}").write_text("{")
    assert len(run(replace(SETTINGS, rounds=1)).measures) == 2


def test_a_folder_with_something_else_in_it_is_left_alone(run, tmp_path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(SparseRMError, match="not empty"):
        run(folder=tmp_path)


def test_what_cannot_be_run_is_refused(run, tiny_folder, tmp_path) -> None:
    with pytest.raises(SparseRMError, match="ranker, ranker; expected different names"):
        run(judges=[Stub("ranker", 2, "c")])
    with pytest.raises(SparseRMError, match="the same model under different names"):
        run(judges=[Stub("copy", 1, "a")])
    with pytest.raises(SparseRMError, match="leaves no room"):
        run(replace(SETTINGS, max_new_tokens=500))
    assert not (tmp_path / "run").exists()
    with pytest.raises(SparseRMError, match="2 of them in both"):
        align(PROMPTS, PROMPTS[4:], Stub("r", 1, "a"), (), tmp_path / "x", policy=tiny_folder, settings=SETTINGS)
    with pytest.raises(SparseRMError, match="at least two samples"):
        run(replace(SETTINGS, samples=1))
    with pytest.raises(SparseRMError, match=r"differ by 1e\+06 or more"):
        run(replace(SETTINGS, min_margin=1e6))


def test_a_heads_features_account_for_what_the_policy_gained(run, tiny_folder, tmp_path) -> None:
    sae = save_tiny_sae(tmp_path / "tiny-sae")
    model = SparseRM.fit(parse_pairs(preference_rows(), "tiny"), backbone=tiny_folder, sae=sae, k=3, l2=0.01, name="tiny")
    model.save_pretrained(tmp_path / "my-head")
    report = run(ranker=Judge.load(tmp_path / "my-head"))
    rewards = [one.judges["my-head"].reward for one in report.measures]
    climbed = report.climbed()
    assert sorted(number for number, *_ in climbed) == sorted(model.head.features.tolist())
    changes = [after - before for *_, before, after in climbed]
    assert changes == sorted(changes, reverse=True)
    assert sum(changes) == pytest.approx(rewards[-1] - rewards[0], abs=1e-6)
