"""Judges are heads or classifiers, told apart by what lies in the folder."""

from __future__ import annotations

import numpy as np
import pytest

from sparserm.finetuning.reward_model import FineTuningSettings, fine_tune
from sparserm.model import SparseRM
from sparserm.pairs.parsing import parse_pairs
from sparserm.policy.judges import Judge
from sparserm.types import Message, SparseRMError, Text
from tests.unit.pairs_data import preference_rows
from tests.unit.tiny import save_tiny_sae

TEXTS = [Text((Message("user", f"How do I boil {n} eggs?"),), said) for n in (1, 2) for said in ("please boil", "go away")]


@pytest.fixture(params=["projection", "gated"])
def head_folder(request, tiny_folder, tmp_path):
    sae = save_tiny_sae(tmp_path / "tiny-sae", threshold=15 if request.param == "gated" else None)
    model = SparseRM.fit(parse_pairs(preference_rows(), "tiny"), backbone=tiny_folder, sae=sae, k=3, l2=0.01, name="tiny")
    model.save_pretrained(tmp_path / "my-head")
    return tmp_path / "my-head"


def test_a_heads_rewards_are_its_own_and_its_features_add_up_to_them(head_folder) -> None:
    judge = Judge.load(head_folder)
    found = judge.judge(TEXTS)
    model = SparseRM.from_pretrained(head_folder)
    assert judge.name == "my-head"
    np.testing.assert_allclose(found.rewards, model.score([t.prompt for t in TEXTS], [t.response for t in TEXTS]), atol=1e-6)
    np.testing.assert_allclose(found.contributions.sum(1) + model.head.bias, found.rewards, atol=1e-9)
    assert [number for number, _ in judge.features] == model.head.features.tolist()


def test_a_classifiers_rewards_are_its_logits(tiny_folder, tmp_path) -> None:
    pairs = parse_pairs(preference_rows(), "tiny").pairs[:8]
    tuned = fine_tune(pairs, FineTuningSettings("full", 1e-3, 1), str(tiny_folder))
    tuned.save(tmp_path / "reward-model")
    judge = Judge.load(tmp_path / "reward-model")
    found = judge.judge(TEXTS)
    assert judge.name == "reward-model" and judge.features == () and found.contributions is None
    np.testing.assert_allclose(found.rewards, tuned.rewards(TEXTS), rtol=0.05, atol=0.05)  # saved in bfloat16


def test_a_fingerprint_tells_heads_apart(head_folder) -> None:
    assert Judge.load(head_folder).fingerprint != Judge.load("safety").fingerprint


def test_what_is_neither_is_refused(tmp_path, tiny_folder) -> None:
    with pytest.raises(SparseRMError, match=r"no reward model 'nothing'.*truthfulness"):
        Judge.load("nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SparseRMError, match="holds neither a head"):
        Judge.load(tmp_path / "empty")
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "adapter_config.json").write_text("{}")
    with pytest.raises(SparseRMError, match="merge them"):
        Judge.load(tmp_path / "adapters")
    with pytest.raises(SparseRMError, match="2 labels, expected a decoder"):  # a language model as it came
        Judge.load(tiny_folder)


def test_no_texts_have_no_rewards(head_folder, tiny_folder, tmp_path) -> None:
    """A policy that says nothing leaves nothing to judge."""
    judge = Judge.load(head_folder)
    assert judge.judge([]).contributions.shape == (0, len(judge.features)) and judge.features
    tuned = fine_tune(parse_pairs(preference_rows(), "tiny").pairs[:4], FineTuningSettings("full", 1e-3, 1), str(tiny_folder))
    assert tuned.rewards([]).shape == (0,)
