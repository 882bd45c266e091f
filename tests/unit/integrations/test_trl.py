"""Heads as TRL asks for them: rewards in both formats, what each feature gave, and datasets in the form that was given."""

from __future__ import annotations

import numpy as np
import pytest

from sparserm.integrations.trl import SparseRMReward, best_of_n_dataset, preference_dataset
from sparserm.model import SparseRM
from sparserm.pairs.parsing import parse_pairs
from sparserm.representations.store import stored
from sparserm.types import Message, SparseRMError
from tests.unit.pairs_data import preference_rows
from tests.unit.tiny import save_tiny_sae

PROMPTS = ["How do I boil an egg?", "And two?"]
SAMPLES = [["please boil it", "go away", "never"], ["of course, gladly", "shut up"]]


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


@pytest.fixture(scope="module", params=["projection", "gated"])
def model(request, tiny_backbone, tmp_path_factory) -> SparseRM:
    k, threshold = {"projection": (3, None), "gated": (12, 15.0)}[request.param]
    sae = save_tiny_sae(tmp_path_factory.mktemp("saes") / "tiny-sae", threshold=threshold)
    found = SparseRM.fit(parse_pairs(preference_rows(), "tiny"), backbone=tiny_backbone, sae=sae, k=k, l2=0.01, name="tiny")
    assert found.head.score == request.param
    return found


def test_rewards_are_the_models_in_both_formats(model):
    reward = SparseRMReward(model)
    completions = ["please boil it", "never"]
    expected = model.score(PROMPTS, completions)
    got = reward(prompts=PROMPTS, completions=completions, completion_ids=[[1], [2]], trainer_state=None, column=[1, 2])
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert all(type(one) is float for one in got)
    conversational = reward(prompts=[*map(user, PROMPTS)], completions=[*map(assistant, completions)])
    np.testing.assert_allclose(conversational, expected, atol=1e-6)


def test_what_features_give_adds_up_to_the_mean_reward(model):
    logged = {}
    reward = SparseRMReward(model)
    got = reward(prompts=PROMPTS, completions=["please boil it", "never"], log_metric=logged.__setitem__)
    assert len(logged) == len(model.head.features)
    assert len(logged) == 3 or model.head.score == "gated"
    assert sum(logged.values()) + model.head.bias == pytest.approx(np.mean(got))
    assert all(name.startswith(f"sparserm_tiny/{feature}") for name, feature in zip(logged, model.head.features, strict=True))
    assert reward.__name__ == "sparserm_tiny"


@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_completion_gets_the_least_of_the_training_responses(model, empty):
    least = min(model.saved.quantiles_chosen[0], model.saved.quantiles_rejected[0])
    logged = {}
    got = SparseRMReward(model)(prompts=PROMPTS, completions=[empty, "never"], log_metric=logged.__setitem__)
    assert got == pytest.approx([least, model.score(PROMPTS[1], "never")[0]])
    assert sum(logged.values()) + model.head.bias == pytest.approx(got[1])  # of what was said
    nothing = SparseRMReward(model)(prompts=[user(PROMPTS[0])], completions=[assistant(empty)], log_metric=None)
    assert nothing == [least]


def test_what_a_policy_says_is_not_stored(model):
    SparseRMReward(model)(prompts=["A question nobody asked?"], completions=["an answer nobody gave"])
    with stored() as store:
        assert store.count() == 0


def test_unusable_completions_say_what_was_expected(model):
    with pytest.raises(SparseRMError, match="pass text, or one assistant message"):
        SparseRMReward(model)(prompts=PROMPTS[:1], completions=[user("I am the user")])


@pytest.mark.parametrize(
    "silent", [[{"role": "assistant", "content": None}], [{"from": "gpt", "value": ""}], [Message("assistant", " ")]]
)
def test_a_message_without_text_is_an_empty_completion(model, silent):
    assert SparseRMReward(model)(prompts=PROMPTS[:1], completions=[silent]) == [model.saved.least_reward]


def test_a_silent_user_is_no_completion(model):
    with pytest.raises(SparseRMError):
        SparseRMReward(model)(prompts=PROMPTS[:1], completions=[[{"role": "user", "content": ""}]])


CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "clock", "arguments": {}}}]}
RETURNED = {"role": "tool", "name": "clock", "content": "six"}


def test_the_last_answer_of_a_rollout_with_tools_is_scored(model):
    rollouts = [[CALL, RETURNED, *assistant("please boil it")], [CALL, RETURNED, RETURNED, *assistant(" ")]]
    got = SparseRMReward(model)(prompts=[*map(user, PROMPTS)], completions=rollouts)
    assert got == pytest.approx([model.score(PROMPTS[0], "please boil it")[0], model.saved.least_reward])


def test_rollouts_that_end_before_an_answer_get_none_and_are_told(model, caplog):
    rollouts = [[CALL], assistant("never"), [CALL, RETURNED], [CALL, RETURNED, CALL]]
    logged = {}
    got = SparseRMReward(model)(prompts=[user(PROMPTS[0])] * 4, completions=rollouts, log_metric=logged.__setitem__)
    assert got == [None, pytest.approx(model.score(PROMPTS[0], "never")[0]), None, None]
    assert sum(logged.values()) + model.head.bias == pytest.approx(got[1])  # of what was answered
    assert "3 of 4 rollouts end before an answer (2 with a call of a tool, 1 with what a tool returned)" in caplog.text


def test_a_conversation_instead_of_a_rollout_is_refused(model):
    with pytest.raises(SparseRMError, match="pass text, or one assistant message"):
        SparseRMReward(model)(prompts=PROMPTS[:1], completions=[[*assistant("hi"), *user("and?"), *assistant("hello")]])


@pytest.mark.parametrize("form", ["texts", "messages"])
def test_pairs_for_dpo_are_the_best_against_the_worst_in_the_form_given(model, form):
    conversational = form == "messages"
    prompts = [*map(user, PROMPTS)] if conversational else PROMPTS
    samples = [[*map(assistant, own)] for own in SAMPLES] if conversational else SAMPLES
    found = preference_dataset(model, prompts, samples)
    assert found.column_names == ["prompt", "chosen", "rejected", "score_chosen", "score_rejected"]
    for row, prompt, asked, own in zip(found, prompts, PROMPTS, SAMPLES, strict=True):
        rewards = model.score([asked] * len(own), own)
        best, worst = own[rewards.argmax()], own[rewards.argmin()]
        assert row["prompt"] == prompt
        expected = (assistant(best), assistant(worst)) if conversational else (best, worst)
        assert (row["chosen"], row["rejected"]) == expected
        assert (row["score_chosen"], row["score_rejected"]) == pytest.approx((rewards.max(), rewards.min()))


def test_a_margin_leaves_out_prompts_and_says_so_where_none_is_left(model):
    spreads = [np.ptp(model.score([prompt] * len(own), own)) for prompt, own in zip(PROMPTS, SAMPLES, strict=True)]
    between = float(np.mean(spreads))
    assert preference_dataset(model, PROMPTS, SAMPLES, min_margin=between)["prompt"][:] == [PROMPTS[int(np.argmax(spreads))]]
    with pytest.raises(SparseRMError, match=r"none of 2 prompts .* differ by 1000 or more; .* lower min_margin"):
        preference_dataset(model, PROMPTS, SAMPLES, min_margin=1000)
    with pytest.raises(SparseRMError, match="none of 2 prompts has two samples"):
        preference_dataset(model, PROMPTS, [["same", "same"], ["alone"]])


def test_best_of_n_keeps_the_best_sample_of_each_prompt(model):
    found = best_of_n_dataset(model, [*map(user, PROMPTS)], [["", *SAMPLES[0]], SAMPLES[1]])
    assert found["prompt"][:] == [*map(user, PROMPTS)]
    for row, prompt, own in zip(found, PROMPTS, SAMPLES, strict=True):
        rewards = model.score([prompt] * len(own), own)
        assert row["completion"] == assistant(own[rewards.argmax()])
        assert row["score"] == pytest.approx(rewards.max())


@pytest.mark.parametrize(
    ("prompts", "samples", "message"),
    [
        (PROMPTS, SAMPLES[:1], "got 2 prompts and 1 lists"),
        (PROMPTS, [["a"], []], "1 of them empty"),
        ([PROMPTS[0], user(PROMPTS[1])], SAMPLES, "some prompts are texts and some are messages"),
    ],
)
def test_samples_that_do_not_fit_their_prompts_are_refused(model, prompts, samples, message):
    with pytest.raises(SparseRMError, match=message):
        best_of_n_dataset(model, prompts, samples)
