"""TRL's trainers: the tests of ``tests/integration`` that run them, in the environment of this repository."""

from __future__ import annotations

import functools
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

from clients.kinds import Check, Client, Place

ROOT = Path(__file__).parent.parent
FILES = ("tests/integration/test_trl_trainers.py", "tests/integration/test_tool_rollouts.py")


@functools.cache
def _problems(folder: str) -> dict[str, str]:
    """What went wrong in each test, by its name; empty where nothing did."""
    report = Path(folder) / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", f"--junitxml={report}", *FILES]
    ended = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if not report.is_file():
        raise AssertionError(f"pytest exited with {ended.returncode}: {(ended.stdout + ended.stderr)[-300:]}")
    found = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        problems = [part.get("message", "") or part.tag for part in case if part.tag in ("failure", "error", "skipped")]
        found[case.get("name", "")] = "; ".join(problems)
    return found


def _test(name: str, what: str) -> Check:
    def run(place: Place) -> None:
        problems = _problems(place.folder)
        assert name in problems, f"there is no test {name}"
        assert not problems[name], problems[name]

    return Check(what, run)


CLIENT = Client(
    name="TRL",
    package="trl",
    checks=(
        _test(
            "test_a_policy_is_trained_on_rewards_and_shows_which_features_it_climbs[GRPO]",
            "`GRPOTrainer` with `SparseRMReward` on the default backbone",
        ),
        _test(
            "test_a_policy_is_trained_on_rewards_and_shows_which_features_it_climbs[RLOO]",
            "`RLOOTrainer` with `SparseRMReward` on the default backbone",
        ),
        _test(
            "test_a_policy_is_trained_on_pairs_of_its_samples", "`DPOTrainer` with `preference_dataset` on the default backbone"
        ),
        _test(
            "test_an_exported_head_gives_the_same_rewards_and_is_trls_reward_model",
            "`GRPOTrainer` with an exported head as reward model",
        ),
        _test(
            "test_the_last_answer_of_a_rollout_with_tools_is_scored_and_one_without_an_answer_is_left_out",
            "`GRPOTrainer` with tools and Qwen 3's template: the last answer is scored, a rollout without one is left out",
        ),
    ),
    serves=False,
    limit_s=900,
)
