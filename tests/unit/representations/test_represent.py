"""Pooling and latents equal a computation by hand, and the store spares every second pass of the backbone."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from sparserm.backbone.model import Backbone
from sparserm.representations.represent import (
    FLUSH_EVERY,
    _compute,
    _contents,
    _one_behind,
    count_missing,
    represent,
    represent_pairs,
)
from sparserm.representations.store import Store
from sparserm.representations.values import Representations
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.types import HookPoint, Message, PreferencePair, SparseRMError, Text, pair_texts
from tests.unit.tiny import D_SAE, HIDDEN, firing_sae

HOOK, OTHER = HookPoint(2), HookPoint(1, "mlp_out")


def user(text):
    return (Message("user", text),)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store.sqlite")
    yield store
    store.close()


@pytest.fixture(scope="module")
def texts():
    prompts, responses = ("Hi", "Tell me of the thing"), ("Yes.", "Rather not, no.", "the 🙂")
    return [Text(user(prompt), response) for prompt in prompts for response in responses]


@pytest.fixture(scope="module")
def tokenized(tiny_backbone, texts):
    return [tiny_backbone.tokenize(text.prompt, text.response) for text in texts]


@pytest.fixture(scope="module")
def states(tiny_backbone, texts, tokenized):
    """Per hook, the states of each text's response and of what closes its turn."""
    found = dict(tiny_backbone.hidden_states(tokenized, [HOOK, OTHER]))
    return {hook: [found[i][hook] for i in range(len(texts))] for hook in (HOOK, OTHER)}


def assert_same(one: Representations, other: Representations):
    assert np.array_equal(one.h, other.h)
    assert np.array_equal(one.latents.bits, other.latents.bits)


@pytest.mark.parametrize("hook", [HOOK, OTHER])
def test_mean_pooling_is_the_mean_over_the_responses_own_tokens(tiny_backbone, texts, tokenized, states, hook):
    got = represent(texts, tiny_backbone, {hook: None}, "mean")[hook]
    expected = [state[: text.end - text.start].mean(0).numpy() for text, state in zip(tokenized, states[hook], strict=True)]
    np.testing.assert_allclose(got.h, expected, atol=1e-5)
    assert (got.pooling, got.h.dtype, got.latents) == ("mean", np.float32, None)


@pytest.mark.parametrize("hook", [HOOK, OTHER])
def test_last_pooling_is_the_state_where_the_turn_is_closed(tiny_backbone, texts, tokenized, states, hook):
    got = represent(texts, tiny_backbone, {hook: None}, "last")[hook]
    np.testing.assert_allclose(got.h, [state[-1].numpy() for state in states[hook]], atol=1e-5)
    assert all(len(text.ids) > text.end for text in tokenized)
    assert got.pooling == "last"


def test_tokens_are_counted(tiny_folder, tokenized):
    backbone = Backbone.load(tiny_folder, dtype="float32")
    backbone.chat.max_length = len(tokenized[0].ids)
    short, long = (Text(user("Hi" + "." * n), "Yes.") for n in (0, 7))
    got = represent([short, long], backbone, {HOOK: None}, "mean")[HOOK]
    assert got.n_tokens.tolist() == [4, 4]
    assert got.n_truncated.tolist() == [0, 7]


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_latents_rate_peak_and_gated_projection_are_over_the_responses_own_tokens(
    tiny_backbone, texts, tokenized, states, pooling
):
    sae = firing_sae(HOOK)
    latents = represent(texts, tiny_backbone, {HOOK: sae}, pooling, strengths=True)[HOOK].strengths
    dense, peaks, gated = np.zeros((3, len(texts), D_SAE), np.float32)
    for row, (start, end) in enumerate(zip(latents.indptr, latents.indptr[1:], strict=False)):
        assert (np.diff(latents.indices[start:end]) > 0).all()
        dense[row, latents.indices[start:end]] = latents.rate[start:end]
        peaks[row, latents.indices[start:end]] = latents.peak[start:end]
        gated[row, latents.indices[start:end]] = latents.gated[start:end]
    w = sae.weights
    directions = w["W_dec"] / w["W_dec"].norm(dim=1, keepdim=True)
    for row, (text, state) in enumerate(zip(tokenized, states[HOOK], strict=True)):
        h = state[: text.end - text.start] - w["b_dec"]
        pre = h @ w["W_enc"] + w["b_enc"]
        projected = torch.where(pre > 0, h @ directions.T, torch.zeros_like(pre))
        np.testing.assert_allclose(gated[row], projected.mean(0).numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(dense[row], (pre > 0).float().mean(0).numpy(), atol=1e-6)
        np.testing.assert_allclose(peaks[row], pre.amax(0).clamp(min=0).numpy(), rtol=1e-4, atol=1e-5)
    assert latents.d_sae == D_SAE
    assert 0 < (dense > 0).mean() < 1
    assert ((dense > 0) & (dense < 1)).any()


def test_a_latent_that_never_fires_leaves_empty_rows(tiny_backbone, texts):
    sae = firing_sae(HOOK)
    sae.weights["b_enc"].fill_(-1e6)
    latents = represent(texts, tiny_backbone, {HOOK: sae}, "mean", strengths=True)[HOOK].strengths
    assert latents.indptr.tolist() == [0] * (len(texts) + 1)
    assert len(latents.indices) == len(latents.rate) == 0


def test_several_hook_points_take_one_pass_each_with_its_own_sae(tiny_backbone, texts, rows):
    saes = {HOOK: firing_sae(HOOK), OTHER: firing_sae(OTHER, seed=1), HookPoint(0): None}
    together = represent(texts, tiny_backbone, saes, "mean")
    passes = len(rows)
    assert together[HookPoint(0)].latents is None
    for hook in (HOOK, OTHER):
        assert_same(together[hook], represent(texts, tiny_backbone, {hook: saes[hook]}, "mean")[hook])
    assert len(rows) == 3 * passes


def test_a_second_call_with_the_store_never_runs_the_backbone(tiny_backbone, texts, store, rows):
    first = represent(texts, tiny_backbone, {HOOK: firing_sae(HOOK)}, "mean", store=store)[HOOK]
    assert rows
    rows.clear()
    second = represent(texts[::-1], tiny_backbone, {HOOK: firing_sae(HOOK)}, "mean", store=store)[HOOK]
    assert not rows
    assert_same(second.take(np.arange(len(texts))[::-1]), first)


def test_both_poolings_are_stored_whichever_is_asked_for(tiny_backbone, texts, store, rows):
    represent(texts, tiny_backbone, {HOOK: firing_sae(HOOK)}, "mean", store=store)
    rows.clear()
    last = represent(texts, tiny_backbone, {HOOK: firing_sae(HOOK)}, "last", store=store)[HOOK]
    assert not rows
    assert_same(last, represent(texts, tiny_backbone, {HOOK: firing_sae(HOOK)}, "last")[HOOK])


def test_strengths_are_stored_beside_where_latents_are_active(tiny_backbone, texts, store, rows):
    active = represent(texts, tiny_backbone, {HOOK: firing_sae(HOOK)}, "mean", store=store)[HOOK]
    rows.clear()
    strong = represent(texts, tiny_backbone, {HOOK: firing_sae(HOOK)}, "mean", strengths=True, store=store)[HOOK]
    assert not rows
    for activity in ("any", "most"):
        frequency = active.latents.frequency(activity)
        np.testing.assert_array_equal(frequency, strong.strengths.frequency(activity))
        assert 0 < frequency.mean() < 1
    with pytest.raises(SparseRMError, match=r"have no latent strengths; represent the pairs .* strengths=True"):
        _ = active.strengths


def test_the_store_serves_another_process_of_the_same_model(tiny_backbone, tiny_folder, texts, store, rows):
    represent(texts, tiny_backbone, {HOOK: firing_sae(HOOK)}, "mean", store=store)
    rows.clear()
    again = Backbone.load(tiny_folder, dtype="float32", through_layer=2)
    represent(texts, again, {HOOK: firing_sae(HOOK)}, "mean", store=Store(store.path))
    assert not rows


def test_what_is_stored_is_not_tokenised(tiny_backbone, texts, store, monkeypatch):
    first = represent(texts, tiny_backbone, {HOOK: None}, "mean", store=store)[HOOK]
    monkeypatch.setattr(type(tiny_backbone.chat), "many", lambda *given: pytest.fail("tokenised"))
    again = represent(texts, tiny_backbone, {HOOK: None}, "mean", store=store)[HOOK]
    assert np.array_equal(again.n_tokens, first.n_tokens) and np.array_equal(again.h, first.h)


def test_texts_that_read_alike_when_joined_are_kept_apart(tiny_backbone, store, rows):
    """Where a prompt ends and a response begins is part of a text, and so is who said what."""
    one, two = Text(user("Hi"), "there 'x', 'y'"), Text(user("Hi there"), "'x', 'y'")
    said = Text((Message("user", "Hi"), Message("assistant", "a"), Message("user", "b")), "c")
    other = Text((Message("user", "Hi"), Message("user", "a"), Message("user", "b")), "c")
    for text in (one, two, said, other):
        represent([text], tiny_backbone, {HOOK: None}, "mean", store=store)
    assert len(rows) == 4


def test_a_template_that_says_something_else_today_is_computed_anew(tiny_folder, texts, store, rows):
    for day in ("Monday", "Tuesday", "Monday"):
        backbone = Backbone.load(tiny_folder, dtype="float32")
        backbone.chat.template = day + backbone.chat.template
        represent(texts, backbone, {HOOK: None}, "mean", store=store)
    assert sum(len(row.spans) for row in rows) == 2 * len(texts)


def test_another_context_length_is_computed_anew(tiny_folder, texts, store, rows):
    backbone = Backbone.load(tiny_folder, dtype="float32")
    represent(texts, backbone, {HOOK: None}, "mean", store=store)
    backbone.chat.max_length -= 1
    n = len(rows)
    represent(texts, backbone, {HOOK: None}, "mean", store=store)
    assert len(rows) == 2 * n


def test_where_texts_that_are_truncated_keep_their_opening_they_are_computed_anew(tiny_folder, texts, store, rows):
    backbone = Backbone.load(tiny_folder, dtype="float32")
    represent(texts, backbone, {HOOK: None}, "mean", store=store)
    backbone.chat.opening = (1,)
    n = len(rows)
    represent(texts, backbone, {HOOK: None}, "mean", store=store)
    assert len(rows) == 2 * n


def test_only_texts_that_the_store_lacks_are_computed(tiny_backbone, texts, store, rows):
    represent(texts[:2], tiny_backbone, {HOOK: None}, "mean", store=store)
    rows.clear()
    represent(texts, tiny_backbone, {HOOK: None}, "mean", store=store)
    assert sum(len(row.spans) for row in rows) == len(texts) - 2


def test_another_model_dtype_hook_or_sae_is_computed_anew(tiny_backbone, tiny_folder, texts, store, rows):
    represent(texts, tiny_backbone, {HOOK: firing_sae(HOOK)}, "mean", store=store)
    other_dtype = Backbone.load(tiny_folder, dtype="bfloat16")
    other_model = Backbone.load(tiny_folder, dtype="float32")
    other_model.fingerprint = "another"
    for backbone, saes in (
        (other_dtype, {HOOK: None}),
        (other_model, {HOOK: None}),
        (tiny_backbone, {OTHER: None}),
        (tiny_backbone, {HOOK: firing_sae(HOOK, seed=1)}),
    ):
        rows.clear()
        represent(texts, backbone, saes, "mean", store=store)
        assert rows


@pytest.mark.parametrize("kept", [True, False])
def test_a_text_that_occurs_twice_is_computed_once(tiny_backbone, texts, store, rows, kept):
    twice = [texts[0], texts[1], texts[0], texts[0]]
    got = represent(twice, tiny_backbone, {HOOK: firing_sae(HOOK)}, "mean", store=store if kept else None)[HOOK]
    assert sum(len(row.spans) for row in rows) == 2
    for i in (2, 3):
        assert_same(got.take(np.array([i])), got.take(np.array([0])))
    assert not np.array_equal(got.h[0], got.h[1])


def test_without_a_store_nothing_is_remembered(tiny_backbone, texts, rows):
    represent(texts, tiny_backbone, {HOOK: None}, "mean")
    n = len(rows)
    represent(texts, tiny_backbone, {HOOK: None}, "mean")
    assert len(rows) == 2 * n


def test_pairs_of_one_prompt_share_a_group(tiny_backbone):
    prompts = ["a", "b", "a", "c", "b"]
    pairs = [PreferencePair(user(prompt), f"yes {i}", f"no {i}") for i, prompt in enumerate(prompts)]
    system = (Message("system", "Be brief."), *user("a"))
    pairs.append(PreferencePair(system, "yes", "no"))
    groups = represent_pairs(pairs, tiny_backbone, {HOOK: None}, "mean")[HOOK].groups
    assert groups.tolist() == [0, 1, 0, 2, 1, 3]


def test_responses_with_the_same_text_share_a_number(tiny_backbone):
    pairs = [PreferencePair(user(str(i)), *sides) for i, sides in enumerate([("yes", "no"), ("well", "yes"), ("no", "well ")])]
    found = represent_pairs(pairs, tiny_backbone, {HOOK: None}, "mean")[HOOK]
    numbers = dict(zip(["yes", "well", "no", "well "], found.texts.ravel()[[0, 1, 2, 5]], strict=True))
    assert len(set(numbers.values())) == 4
    assert found.texts.tolist() == [[numbers[a] for a in ("yes", "well", "no")], [numbers[a] for a in ("no", "yes", "well ")]]
    assert np.array_equal(found.take(np.array([2, 0])).texts, found.texts[:, [2, 0]])


def test_pairs_keep_their_order_and_sides(tiny_backbone):
    pairs = [
        PreferencePair(user(p), c, r) for p, c, r in [("Hi", "Yes.", "No!"), ("Why?", "Because.", "the"), ("Hi", "A", "B")]
    ]
    got = represent_pairs(pairs, tiny_backbone, {HOOK: firing_sae(HOOK)}, "last")[HOOK]
    for i, pair in enumerate(pairs):
        for side, response in ((got.chosen, pair.chosen), (got.rejected, pair.rejected)):
            alone = represent([Text(pair.prompt, response)], tiny_backbone, {HOOK: firing_sae(HOOK)}, "last")[HOOK]
            np.testing.assert_allclose(side.h[i], alone.h[0], atol=1e-4)
            assert np.array_equal(side.take(np.array([i])).latents.bits, alone.latents.bits)
    np.testing.assert_array_equal(got.differences, got.chosen.h - got.rejected.h)


@pytest.mark.parametrize("cores", [1, 2])
def test_interrupted_work_goes_on_where_it_was(tiny_backbone, store, rows, monkeypatch, request, cores):
    monkeypatch.setattr("sparserm.backbone.model.CPU_BATCH_TOKENS", 256)
    request.addfinalizer(functools.partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(cores)
    n = 4 * FLUSH_EVERY
    many = [Text(user(f"Question {i}" + " the" * 30), f"Answer {i}") for i in range(n)]

    def cancel(done, *_):
        if done >= FLUSH_EVERY:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        represent(many, tiny_backbone, {HOOK: None}, "mean", store=store, progress=cancel)
    computed = sum(len(row.spans) for row in rows)
    assert FLUSH_EVERY <= computed < n
    kept = store.count() // 3  # both poolings and the number of tokens
    in_a_pass = 256 // min(len(row.ids) for row in rows) + 1
    ahead = 0 if cores == 1 else (2 * cores + 1) * in_a_pass
    assert kept >= FLUSH_EVERY
    assert computed - FLUSH_EVERY - ahead < kept <= computed
    rows.clear()
    resumed = represent(many, tiny_backbone, {HOOK: None}, "mean", store=store)[HOOK]
    assert sum(len(row.spans) for row in rows) == n - kept
    np.testing.assert_allclose(resumed.h, represent(many, tiny_backbone, {HOOK: None}, "mean")[HOOK].h, atol=1e-4)


def test_a_stored_nan_is_computed_again(tiny_backbone, texts, store, rows):
    tokenized = tiny_backbone.chat.many(texts)
    for blobs in _compute(_contents(texts, tiny_backbone), tokenized, tiny_backbone, {HOOK: None}, None):
        bad = np.full(HIDDEN, np.nan, np.float32).tobytes()
        store.put_many({key: bad if len(blob) == len(bad) else blob for key, blob in blobs.items()})
    rows.clear()
    again = represent(texts, tiny_backbone, {HOOK: None}, "mean", store=store)[HOOK]
    assert rows and np.isfinite(again.h).all()
    rows.clear()
    stored = represent(texts, tiny_backbone, {HOOK: None}, "mean", store=store)[HOOK]
    assert not rows and np.array_equal(stored.h, again.h)


def test_passes_and_runs_of_any_size_give_what_each_text_gives_alone(tiny_backbone, monkeypatch):
    saes = {HOOK: firing_sae(HOOK), OTHER: firing_sae(OTHER, seed=1)}
    many = [Text(user("Hi" * (i % 5)), "the bird " * (1 + i % 7)) for i in range(FLUSH_EVERY + 9)]
    alone = [represent([text], tiny_backbone, saes, "mean", strengths=True) for text in many]
    for at_once in (1, 30, 10**6):  # tokens whose latents are computed together, also of longer texts
        monkeypatch.setattr("sparserm.representations.represent.CPU_ACTIVATIONS", at_once * D_SAE)
        monkeypatch.setattr("sparserm.representations.represent.LEAST_ENCODED", min(at_once, 128))
        monkeypatch.setattr("sparserm.backbone.model.CPU_BATCH_TOKENS", 150)
        together = represent(many, tiny_backbone, saes, "mean", strengths=True)
        for hook, got in together.items():
            for i, want in enumerate(alone):
                one = got.take(np.array([i]))
                np.testing.assert_allclose(one.h, want[hook].h, atol=1e-5)
                assert np.array_equal(one.strengths.indices, want[hook].strengths.indices)
                np.testing.assert_allclose(one.strengths.peak, want[hook].strengths.peak, atol=1e-4)
                np.testing.assert_allclose(one.strengths.gated, want[hook].strengths.gated, atol=1e-4)
                np.testing.assert_allclose(one.strengths.rate, want[hook].strengths.rate, atol=1e-6)


def test_no_more_tokens_are_encoded_at_once_however_long_a_text_is(tiny_backbone, monkeypatch):
    sizes: list[int] = []
    encode = SparseAutoencoder.encode
    monkeypatch.setattr(SparseAutoencoder, "encode", lambda self, x: (sizes.append(len(x)), encode(self, x))[1])
    monkeypatch.setattr("sparserm.representations.represent.CPU_ACTIVATIONS", 1)
    monkeypatch.setattr("sparserm.representations.represent.LEAST_ENCODED", 5)
    represent([Text(user("Hi"), "the bird " * 12), Text(user("Hi"), "a")], tiny_backbone, {HOOK: firing_sae(HOOK)}, "mean")
    assert max(sizes) == 5 and sum(sizes) > 12


def test_a_computed_nan_is_refused_naming_the_text_and_not_stored(tiny_folder, store):
    backbone = Backbone.load(tiny_folder, dtype="float32")
    texts = [Text(user("Hi"), "Yes."), Text(user("Why?"), "Because the 🙂")]
    first, second = (set(backbone.tokenize(text.prompt, text.response).ids) for text in texts)
    backbone.model.embed_tokens.weight[min(second - first)] = float("nan")
    with pytest.raises(SparseRMError, match=r"is NaN or infinite for text 2 of 2 .*check its weights"):
        represent(texts, backbone, {HOOK: None}, "mean", store=store)
    assert store.count() == 0


def test_one_is_given_when_the_next_has_been_begun():
    said = []

    def items(n):
        for i in range(n):
            said.append(f"begin {i}")
            yield i

    assert [list(_one_behind(items(n))) for n in range(3)] == [[], [0], [0, 1]]
    said.clear()
    for i in _one_behind(items(3)):
        said.append(f"take {i}")
    assert said == ["begin 0", "begin 1", "take 0", "begin 2", "take 1", "take 2"]


def test_no_texts_have_representations_of_no_rows(tiny_backbone):
    assert represent([], tiny_backbone, {HOOK: None}, "mean")[HOOK].h.shape == (0, HIDDEN)
    assert represent([], tiny_backbone, {HOOK: firing_sae(HOOK)}, "mean")[HOOK].latents.frequency("any").tolist() == [0] * D_SAE
    latents = represent([], tiny_backbone, {HOOK: firing_sae(HOOK)}, "mean", strengths=True)[HOOK].strengths
    assert (latents.indptr.tolist(), latents.indices.size, latents.rate.size) == ([0], 0, 0)


def test_what_is_missing_is_what_would_be_run(tiny_backbone, store, rows):
    pairs = [PreferencePair(user("Hi"), "Yes.", "No!"), PreferencePair(user("Why?"), "Because.", "Yes.")]
    saes = {HOOK: firing_sae(HOOK)}
    responses, tokens = count_missing(pair_texts(pairs), tiny_backbone, saes, "mean", store)
    assert (responses, count_missing(pair_texts(pairs), tiny_backbone, saes, "mean", None)) == (4, (4, tokens))
    represent_pairs(pairs[:1], tiny_backbone, {HOOK: None}, "mean", store=store)
    assert count_missing(pair_texts(pairs), tiny_backbone, {HOOK: None}, "mean", store)[0] == 2
    assert count_missing(pair_texts(pairs), tiny_backbone, saes, "mean", store)[0] == 4  # of the first pair the latents
    represent_pairs(pairs, tiny_backbone, saes, "last", store=store)
    n = len(rows)
    for strengths in (False, True):
        assert count_missing(pair_texts(pairs), tiny_backbone, saes, "mean", store, strengths=strengths) == (0, 0)
    assert len(rows) == n


def test_an_sae_goes_to_a_device_whole_and_stays_itself_where_it_is():
    sae = firing_sae(HOOK)
    assert sae.to(torch.device("cpu")) is sae
    elsewhere = sae.to(torch.device("meta"))
    assert {weight.device.type for weight in elsewhere.weights.values()} == {"meta"}
    assert elsewhere.encode(torch.zeros(3, HIDDEN, device="meta")).shape == (3, D_SAE)
