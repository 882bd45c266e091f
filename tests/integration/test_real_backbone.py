"""The shipped head on the real backbone: rewards, explanations, the command line, and the README's example."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sparserm.backbone.model import Backbone
from sparserm.heads.saved import list_heads
from sparserm.model import SparseRM
from sparserm.pairs.load import load_pairs
from tests.commands import Outcome

pytestmark = pytest.mark.backbone
ROOT = Path(__file__).parents[2]
PROMPT = "Do we use only a tenth of our brains?"
RESPONSE = "No. Scans show that nearly all of it is active over a day."


def test_the_reward_is_the_same_alone_and_in_any_batch(head: SparseRM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSERM_STORE", "off")
    others = ["Yes.", "No, " + "and there is more to say about it. " * 12]
    alone = head.score(PROMPT, RESPONSE)[0]
    together = head.score([PROMPT, "Hello", PROMPT, PROMPT], [others[0], others[1], RESPONSE, others[1]])
    assert abs(alone - together[2]) < 1e-4


def test_bfloat16_gives_nearly_the_rewards_of_float32(head: SparseRM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSERM_STORE", "off")
    pairs = load_pairs("truthfulness").pairs[:8]
    prompts = [pair.prompt for pair in pairs] * 2
    responses = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    layer = head.card.hook_point.layer
    half, full = (
        SparseRM(head.saved, Backbone.load("smollm2", through_layer=layer, dtype=dtype)).score(prompts, responses)
        for dtype in ("bfloat16", "float32")
    )
    assert not np.array_equal(half, full)
    assert np.abs(half - full).max() < 0.5 * full.std()
    assert np.corrcoef(half, full)[0, 1] > 0.98


def test_contributions_and_bias_add_up_to_the_reward_that_score_gives(head: SparseRM) -> None:
    explanation = head.explain(PROMPT, RESPONSE)
    assert abs(sum(part.contribution for part in explanation.contributions) + explanation.bias - explanation.reward) < 1e-5
    assert abs(head.score(PROMPT, RESPONSE)[0] - explanation.reward) < 1e-4
    assert "".join(explanation.tokens) == RESPONSE
    assert len(explanation.contributions) <= 64


def test_a_margin_is_the_difference_of_the_rewards(head: SparseRM) -> None:
    comparison = head.compare(PROMPT, [RESPONSE, "Yes, nine tenths are never used."])
    assert abs(comparison.rewards[0] - comparison.rewards[1] - comparison.margin) < 1e-9
    assert abs(sum(part.contribution for part in comparison.contributions) - comparison.margin) < 1e-9


@pytest.mark.parametrize("name", sorted(list_heads()))
def test_every_shipped_head_has_its_test_accuracy_and_licence_and_at_most_64_features(name: str) -> None:
    model = SparseRM.from_pretrained(name)
    low, high = model.card.metrics["ci95"]
    assert low <= model.card.metrics["accuracy"] <= high
    assert model.card.training["licence"]
    assert 1 <= len(model.features()) <= 64


def test_a_process_prints_one_json_object_whose_parts_add_up() -> None:
    arguments = ("score", "--head", "truthfulness", "--prompt", PROMPT, "--response", RESPONSE, "--json")
    command = [sys.executable, "-c", "from sparserm.cli import main; main()", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert abs(sum(part["contribution"] for part in result["contributions"]) + result["bias"] - result["reward"]) < 1e-5


def test_train_and_evaluate_on_starter_pairs(run: Callable[..., Outcome], tmp_path: Path) -> None:
    summary = run("train", "truthfulness", "--out", tmp_path / "head", "--k", "8", "--json").json
    assert summary["n_train"] == len(load_pairs("truthfulness").pairs)
    assert 0 <= summary["accuracy"] <= 1
    result = run("evaluate", tmp_path / "head", "safety", "--json").json
    assert result["ci95"][0] <= result["accuracy"] <= result["ci95"][1]
    assert result["n"] == len(load_pairs("safety").pairs)


def test_the_same_pairs_give_the_same_head_to_the_bit(tmp_path: Path) -> None:
    for name in ("one", "two"):
        SparseRM.fit("truthfulness", k=4, name="same").save_pretrained(tmp_path / name)
    assert (tmp_path / "one/head.safetensors").read_bytes() == (tmp_path / "two/head.safetensors").read_bytes()


def test_a_head_refuses_another_backbone(head: SparseRM) -> None:
    class Other:
        name, fingerprint = "other", "0" * 16

    with pytest.raises(ValueError, match="was trained on backbone"):
        SparseRM(head.saved, Other())  # type: ignore[arg-type]


def test_the_readme_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert code
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(code[1], scope)
    assert np.allclose(scope["same"].score(scope["prompt"], scope["responses"][0]), scope["explanation"].reward, atol=1e-4)
