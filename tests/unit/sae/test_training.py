"""Training an SAE: it learns, goes on after an interruption as if there had been none, and is read back as it was trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sparserm.sae import training as module
from sparserm.sae.activations import CONTEXT_SIZE, ActivationCache
from sparserm.sae.autoencoder import FINGERPRINT, load_sae
from sparserm.sae.seeds import SeedStability, save_seeds
from sparserm.sae.thresholds import CLEAR
from sparserm.sae.training import SAERecipe, train_sae
from sparserm.types import HookPoint, SparseRMError

HOOK = HookPoint(2)
D, N = 16, 2048
RECIPE = SAERecipe(d_sae=32, k=3, epochs=10, lr=8e-3, batch_size=128)


def make_cache(folder: Path, activations: np.ndarray) -> ActivationCache:
    """The activations on disk, as extraction leaves them."""
    folder.mkdir(parents=True)
    activations.astype(np.float16).tofile(folder / f"{HOOK.name}.f16")
    return ActivationCache(folder, (HOOK,), *activations.shape)


def planted(seed: int = 0, n: int = N) -> np.ndarray:
    """A mean far from zero plus two of ten directions, so that few latents explain everything but the mean."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(99).normal(size=(10, D))
    which = np.argsort(rng.random((n, 10)), axis=1)[:, :2]
    strengths = np.zeros((n, 10))
    np.put_along_axis(strengths, which, rng.uniform(1, 2, (n, 2)), axis=1)
    return 3 + strengths @ (directions / np.linalg.norm(directions, axis=1, keepdims=True))


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> ActivationCache:
    return make_cache(tmp_path_factory.mktemp("cache") / "activations", planted())


@pytest.fixture(scope="module")
def trained(cache, tmp_path_factory) -> Path:
    return train_sae(cache, HOOK, RECIPE, tmp_path_factory.mktemp("sae") / "layer_2", model_name="tiny")


def explained(folder: Path, x: np.ndarray) -> float:
    """Share of the variance that the SAE as it lies on disk explains."""
    inputs = torch.from_numpy(x).float()
    residual = inputs - load_sae(folder).reconstruct(inputs)
    return 1 - float(residual.pow(2).sum() / (inputs - inputs.mean(0)).pow(2).sum())


def _interrupt_at(tokens: int):
    def progress(done: int, total: int, what: str) -> None:
        if done >= tokens:
            raise KeyboardInterrupt

    return progress


def _interrupted(cache: ActivationCache, out: Path, *tokens: int) -> None:
    for at in tokens:
        with pytest.raises(KeyboardInterrupt):
            train_sae(cache, HOOK, RECIPE, out, model_name="tiny", progress=_interrupt_at(at))


def test_training_learns_what_the_activations_are_made_of(trained, cache, tmp_path) -> None:
    short = train_sae(cache, HOOK, replace(RECIPE, epochs=1), tmp_path / "short", model_name="tiny")
    fresh = planted(seed=1)  # drawn as the training tokens were, but not among them
    assert explained(trained, fresh) > 0.9
    assert explained(trained, fresh) > explained(short, fresh) + 0.1


def test_a_latent_fires_from_a_share_of_its_own_usual_maximum_so_that_fewer_than_k_do(trained) -> None:
    sae = load_sae(trained)
    for seed in (0, 1):  # tokens of the training, and others
        z = sae.encode(torch.from_numpy(planted(seed)).float())
        assert RECIPE.k / 2 < (z > 0).float().sum(-1).mean() <= RECIPE.k
        for own in z.T:
            firing = own[own > 0].numpy()
            assert len(firing) == 0 or firing.min() >= 0.9 * CLEAR * np.quantile(firing, 0.99)
    assert len(set(sae.weights["threshold"].tolist())) > 1


def test_whether_a_latent_fires_does_not_depend_on_the_others(trained) -> None:
    sae, x = load_sae(trained), torch.from_numpy(planted(1)).float()
    silenced = replace(sae, weights={**sae.weights, "b_enc": torch.where(torch.arange(32) < 16, -1e6, sae.weights["b_enc"])})
    assert torch.equal(silenced.encode(x)[:, 16:], sae.encode(x)[:, 16:])


def test_the_folder_says_what_was_trained_on_what(trained) -> None:
    config = json.loads((trained / "cfg.json").read_text())
    assert sorted(path.name for path in trained.iterdir()) == ["cfg.json", "sae_weights.safetensors"]
    assert (config["architecture"], config["d_in"], config["d_sae"]) == ("jumprelu", D, 32)
    metadata = config["metadata"]
    assert (metadata["model_name"], metadata["hook_name"]) == ("tiny", HOOK.name)
    assert (metadata["training_tokens"], metadata["context_size"]) == (N * RECIPE.epochs, CONTEXT_SIZE)
    assert metadata["l0"] == pytest.approx(3, abs=0.1)
    assert SAERecipe(**metadata["recipe"]) == RECIPE
    assert metadata[FINGERPRINT] == load_sae(trained).fingerprint
    weights = load_file(trained / "sae_weights.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16} and config["dtype"] == "float16"


def test_beyond_five_times_the_usual_norm_nothing_fires(trained, cache) -> None:
    sae, usual = load_sae(trained), np.median(np.linalg.norm(planted(), axis=1))
    assert sae.max_norm == pytest.approx(5 * usual, rel=1e-3)
    x = torch.from_numpy(planted(1)).float()
    sinks = x * 5.5 * usual / x.norm(dim=1, keepdim=True)
    assert not sae.encode(sinks).any() and replace(sae, max_norm=None).encode(sinks).any()


def test_saelens_and_our_reader_see_the_same_sae(trained) -> None:
    from sae_lens import SAE

    theirs, ours = SAE.load_from_disk(trained, dtype="float32"), load_sae(trained)
    x = torch.from_numpy(planted(2, n=200)).float()
    with torch.no_grad():
        torch.testing.assert_close(ours.encode(x), theirs.encode(x), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ours.reconstruct(x), theirs.decode(theirs.encode(x)), atol=1e-4, rtol=1e-4)
    assert theirs.cfg.metadata.hook_name == ours.hook.name == HOOK.name


def test_the_scale_of_the_input_is_folded_into_the_weights(trained, tmp_path) -> None:
    """Activations 64 times as large (exact in float16) are trained on alike and reconstructed 64 times as large."""
    large = train_sae(
        make_cache(tmp_path / "large", 64 * planted().astype(np.float16)), HOOK, RECIPE, tmp_path / "sae", model_name=""
    )
    assert json.loads((large / "cfg.json").read_text())["normalize_activations"] == "none"
    assert explained(large, 64 * planted(1)) == pytest.approx(explained(trained, planted(1)), abs=0.01)
    x = torch.from_numpy(planted(1)).float()
    found, expected = load_sae(large).reconstruct(64 * x) / 64, load_sae(trained).reconstruct(x)
    assert (found - expected).abs().median() < 1e-2


def test_the_decoders_bias_starts_at_the_mean(cache, tmp_path) -> None:
    barely = train_sae(cache, HOOK, replace(RECIPE, epochs=1, batch_size=N, lr=1e-6), tmp_path / "sae", model_name="")
    mean = np.asarray(cache.array(HOOK), np.float64).mean(0)
    np.testing.assert_allclose(load_sae(barely).b_dec.numpy(), mean, rtol=2e-3)


def test_input_statistics_by_hand() -> None:
    x = np.array([[3.0, 4.0], [0.0, 5.0], [0.0, -10.0], [6.0, 8.0]], np.float16)  # norms 5, 5, 10, 10
    scale, mean, median = module._input_statistics(x, seed=0)
    assert median == 7.5
    assert scale == pytest.approx(np.sqrt(2) / 7.5)
    np.testing.assert_allclose(mean, [2.25, 1.75])


def test_the_same_recipe_gives_the_same_bytes_and_another_seed_others(trained, cache, tmp_path) -> None:
    again = train_sae(cache, HOOK, RECIPE, tmp_path / "again", model_name="tiny")
    other = train_sae(cache, HOOK, replace(RECIPE, seed=1), tmp_path / "other", model_name="tiny")
    for name in ("cfg.json", "sae_weights.safetensors"):
        assert (again / name).read_bytes() == (trained / name).read_bytes()
    assert (other / "sae_weights.safetensors").read_bytes() != (trained / "sae_weights.safetensors").read_bytes()


@pytest.mark.parametrize(("tokens", "checkpoints"), [((4000,), 8), ((18_000,), 8), ((3000, 9000, 16_000), 8), ((2000,), 3)])
def test_interrupted_training_ends_with_the_same_weights(trained, cache, tmp_path, monkeypatch, tokens, checkpoints) -> None:
    monkeypatch.setattr(module, "CHECKPOINTS", checkpoints)
    out = tmp_path / "sae"
    _interrupted(cache, out, *tokens)
    assert not (out / "cfg.json").exists()
    train_sae(cache, HOOK, RECIPE, out, model_name="tiny")
    ours, theirs = (load_file(folder / "sae_weights.safetensors") for folder in (out, trained))
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
    assert sorted(path.name for path in out.iterdir()) == ["cfg.json", "sae_weights.safetensors"]


def test_training_goes_on_from_the_last_checkpoint_of_which_one_is_kept(cache, tmp_path) -> None:
    _interrupted(cache, tmp_path, 8000)
    (latest,) = (path for path in (tmp_path / "checkpoint").iterdir() if path.is_dir())
    heard: list[int] = []
    train_sae(cache, HOOK, RECIPE, tmp_path, model_name="tiny", progress=lambda done, total, what: heard.append(done))
    assert heard[0] == int(latest.name) > 8000 - 2 * N * RECIPE.epochs // 9
    assert heard == sorted(heard)


def test_a_checkpoint_that_a_kill_left_unfinished_is_not_used(trained, cache, tmp_path) -> None:
    _interrupted(cache, tmp_path, 5000)
    half = tmp_path / "checkpoint" / "9000"
    half.mkdir()
    (half / "sae_weights.safetensors").write_bytes(b"half")
    train_sae(cache, HOOK, RECIPE, tmp_path, model_name="tiny")
    assert (tmp_path / "sae_weights.safetensors").read_bytes() == (trained / "sae_weights.safetensors").read_bytes()


@pytest.mark.parametrize("changes", [{"d_sae": 40}, {"k": 4}, {"lr": 1e-3}, {"seed": 1}, {"epochs": 11}])
def test_a_checkpoint_of_another_recipe_is_refused_and_kept(cache, tmp_path, changes) -> None:
    _interrupted(cache, tmp_path, 5000)
    before = sorted((tmp_path / "checkpoint").rglob("*"))
    with pytest.raises(SparseRMError, match=r"holds a checkpoint trained with .*repeat that command, or remove the folder"):
        train_sae(cache, HOOK, replace(RECIPE, **changes), tmp_path, model_name="tiny")
    assert sorted((tmp_path / "checkpoint").rglob("*")) == before


def test_a_checkpoint_on_other_activations_is_refused(cache, tmp_path) -> None:
    _interrupted(cache, tmp_path / "sae", 5000)
    with pytest.raises(SparseRMError, match="'n_tokens': 2048"):
        train_sae(make_cache(tmp_path / "more", planted(n=N + 1)), HOOK, RECIPE, tmp_path / "sae", model_name="tiny")


def test_fewer_tokens_than_a_batch_are_refused(tmp_path) -> None:
    cache = make_cache(tmp_path / "few", planted(n=12))
    with pytest.raises(SparseRMError, match="12 tokens of activations are fewer than one batch of 128"):
        train_sae(cache, HOOK, RECIPE, tmp_path / "sae", model_name="")
    assert not (tmp_path / "sae").exists()


def test_a_few_tokens_are_enough_over_several_epochs(tmp_path) -> None:
    cache = make_cache(tmp_path / "few", planted(n=50))
    folder = train_sae(cache, HOOK, RECIPE, tmp_path / "sae", model_name="")
    assert json.loads((folder / "cfg.json").read_text())["metadata"]["training_tokens"] == 384  # of 500, in whole batches


def test_latents_that_stopped_firing_are_counted_as_dead(tmp_path) -> None:
    """Two points and one active latent per token on average: two latents fire, a third where a batch has more of one point, and
    with no patience all others count as dead."""
    points = np.where(np.arange(256)[:, None] % 2, 1.0, -1.0) * np.linspace(1, 2, D)
    cache = make_cache(tmp_path / "points", points)
    recipe = SAERecipe(d_sae=20, k=1, epochs=2, lr=1e-4, batch_size=64, dead_after_steps=1)
    dead = {}
    for patience in (1, 1000):
        folder = train_sae(cache, HOOK, replace(recipe, dead_after_steps=patience), tmp_path / str(patience), model_name="")
        dead[patience] = json.loads((folder / "cfg.json").read_text())["metadata"]["num_dead_features"]
        fires = (load_sae(folder).encode(torch.from_numpy(points).float()) > 0).any(0)
        assert fires.sum() == 2
    assert dead == {1: 17, 1000: 0}


def test_progress_counts_tokens_and_names_the_layer(cache, tmp_path) -> None:
    heard: list[tuple[int, int, str]] = []
    train_sae(cache, HOOK, replace(RECIPE, epochs=1), tmp_path, model_name="", progress=lambda *one: heard.append(one))
    assert [done for done, _, _ in heard] == list(range(0, N, 128))
    assert {(total, what) for _, total, what in heard} == {(N, "SAE of layer 2 (tokens)")}


def test_every_token_is_seen_once_in_every_epoch_in_another_order() -> None:
    x = np.arange(10, dtype=np.float16)[:, None]
    batches = module._Batches(x, replace(RECIPE, batch_size=4), "", 20, None)
    seen = torch.cat([next(batches) for _ in range(5)]).int().ravel().tolist()
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]
    again = module._Batches(x, replace(RECIPE, batch_size=4), "", 20, None)
    again.position = 8
    assert torch.cat([next(again) for _ in range(3)]).int().ravel().tolist() == seen[8:]


def test_weights_that_do_not_fit_float16_are_refused_and_nothing_is_left(cache, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "_input_statistics", lambda activations, seed: (1e-9, np.full(D, 1.0, np.float32), 1.0))
    with pytest.raises(SparseRMError, match="do not fit float16 or are not finite; train with a lower lr"):
        train_sae(cache, HOOK, replace(RECIPE, epochs=1), tmp_path, model_name="")
    assert not (tmp_path / "cfg.json").exists() and not (tmp_path / "sae_weights.safetensors").exists()


def test_training_that_could_not_begin_leaves_nothing_that_stops_the_next(cache, tmp_path, monkeypatch) -> None:
    def fail(*given: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_trainer", fail)
        with pytest.raises(RuntimeError):
            train_sae(cache, HOOK, RECIPE, tmp_path, model_name="")
    train_sae(cache, HOOK, replace(RECIPE, epochs=1), tmp_path, model_name="")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k": 33}, "k of the SAE is 33 active latents of 32, expected 32 or fewer"),
        ({"k": 0}, "k of the SAE is 0, expected 1 or more"),
        ({"d_sae": 0}, "d_sae of the SAE is 0, expected 1 or more"),
        ({"epochs": 0}, "epochs of the SAE is 0, expected 1 or more"),
        ({"batch_size": -1}, "batch_size of the SAE is -1, expected 1 or more"),
        ({"lr": 0.0}, "lr of the SAE is 0.0, expected a number above 0"),
        ({"lr": float("nan")}, "lr of the SAE is nan, expected a number above 0"),
    ],
)
def test_impossible_recipes_are_refused(wrong, message) -> None:
    with pytest.raises(SparseRMError, match=message):
        replace(RECIPE, **wrong)


@pytest.mark.parametrize("content", ["", "{"])
def test_a_broken_note_of_the_recipe_is_refused(cache, tmp_path, content) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "recipe.json").write_text(content)
    with pytest.raises(SparseRMError, match=r"recipe\.json cannot be read .*; remove .*checkpoint to start again"):
        train_sae(cache, HOOK, replace(RECIPE, epochs=1), tmp_path, model_name="")


def test_a_new_sae_does_not_keep_what_was_measured_of_one_before(cache, tmp_path) -> None:
    save_seeds(SeedStability(1, np.ones(4), np.ones(4)), tmp_path)
    train_sae(cache, HOOK, RECIPE, tmp_path, model_name="tiny")
    assert {path.name for path in tmp_path.iterdir()} == {"cfg.json", "sae_weights.safetensors"}
