"""SAEs by name from SAELens's registry, through its own loaders and a hub with the files of the real repositories."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.hub.client import Client
from tests.hub.layouts import D_IN, D_SAE, READ, REFUSED, SIZES, Layout, Refused, dictionary_learning, saelens_6, sparsify
from tests.hub.server import Hub

#: Loaders that no release of the registry names: SAELens has them for other code to call.
UNUSED = ("sparsify",)

GUIDE = Path(__file__).parents[2] / "docs" / "own-models.md"


# Journeys: they run in the client's process.


def compare(name: str, sizes: Mapping[str, Any], centred: bool) -> dict[str, Any]:
    """Our reading of an SAE of the registry beside SAELens's."""
    import torch
    from sae_lens import SAE

    from sparserm.sae.autoencoder import load_sae

    _set_sizes(name.partition(":")[0], sizes)
    ours, theirs = load_sae(name), SAE.from_pretrained(*name.split(":", 1), device="cpu", dtype="float32")
    x = 1 + 2 * torch.randn(4, 9, ours.d_in, generator=torch.Generator().manual_seed(1))
    seen = x - x.mean(-1, keepdim=True) if centred else x  # what TransformerLens's model gives
    with torch.no_grad():
        z = theirs.encode(seen)
        reconstruction = theirs(seen)
    return {
        "architecture": ours.architecture,
        "hook": ours.hook.name,
        "active": float((z > 0).float().mean()),
        "encode": float((ours.encode(x) - z).abs().max()),
        "decode": float((ours.reconstruct(seen) - reconstruction).abs().max()) if not centred else 0.0,
    }


def load(name: str) -> tuple[str, str, int]:
    from sparserm.sae.autoencoder import load_sae

    sae = load_sae(name)
    return sae.name, sae.hook.name, sae.d_sae


def load_for_a_head(name: str) -> None:
    from sparserm.sae.autoencoder import load_sae

    load_sae(name, may_download=False)


def compare_sparsify(name: str) -> float:
    """The largest difference to SAELens's reading; its loader expects ``W_dec`` as earlier versions of sparsify stored it."""
    import torch
    from sae_lens import SAE
    from sae_lens.loading.pretrained_sae_loaders import sparsify_huggingface_loader

    from sparserm.sae.autoencoder import load_sae

    def transposed(**given: Any) -> Any:
        cfg, state, rest = sparsify_huggingface_loader(**given)
        return cfg, {**state, "W_dec": state["W_dec"].T.contiguous()}, rest

    ours = load_sae(name)
    theirs = SAE.from_pretrained(*name.split(":"), device="cpu", dtype="float32", converter=transposed)
    x = torch.randn(4, 9, ours.d_in, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return float((ours.reconstruct(x) - theirs(x)).abs().max())


def loaders() -> dict[str, list[str]]:
    """Names of SAELens's loaders, and those that releases of its registry have."""
    from sae_lens.loading.pretrained_sae_loaders import NAMED_PRETRAINED_SAE_LOADERS
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    named = {one.conversion_func or "sae_lens" for one in get_pretrained_saes_directory().values()}
    return {"all": sorted(NAMED_PRETRAINED_SAE_LOADERS), "named": sorted(named)}


def _set_sizes(release: str, sizes: Mapping[str, Any]) -> None:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    found = get_pretrained_saes_directory()[release]
    found.config_overrides = {**(found.config_overrides or {}), **sizes}  # type: ignore[dict-item]


# What is read.


@pytest.mark.parametrize("layout", READ, ids=str)
def test_an_sae_of_the_registry_is_what_saelens_makes_of_it(layout: Layout, hub: Hub, client: Client) -> None:
    hub.add("models", layout.repository, layout.files(layout.path))
    found = client(compare, f"{layout.release}:{layout.sae_id}", layout.sizes, layout.centred)
    assert (found["architecture"], found["hook"]) == (layout.architecture, layout.hook)
    assert 0.02 < found["active"] < 0.95  # otherwise nothing would be compared
    assert found["encode"] < 1e-4 and found["decode"] < 1e-4


def test_a_release_may_be_separated_by_a_slash(hub: Hub, client: Client) -> None:
    layout = next(one for one in READ if one.shown == "sae_lens 6, Matryoshka")
    hub.add("models", layout.repository, layout.files(layout.path))
    name = f"{layout.release}:{layout.sae_id}"
    assert client(load, f"{layout.release}/{layout.sae_id}") == (name, layout.hook, D_SAE)
    assert client(load_for_a_head, name) is None  # it is in the cache now


def test_a_folder_of_any_repository_is_read_as_one_on_this_machine(hub: Hub, client: Client) -> None:
    files = {**saelens_6("layer_3", "model.layers.3"), **saelens_6("a/mlp", "blocks.1.hook_mlp_out")}
    hub.add("models", "me/saes", {**files, **sparsify("layers.7"), "other/weights.bin": b"not asked for"})
    assert client(load, "me/saes:layer_3") == ("me/saes:layer_3", "blocks.3.hook_resid_post", D_SAE)
    assert client(load, "me/saes:a/mlp") == ("me/saes:a/mlp", "blocks.1.hook_mlp_out", D_SAE)
    assert client(load, "me/saes:layers.7") == ("me/saes:layers.7", "blocks.7.hook_resid_post", D_SAE)
    assert client(compare_sparsify, "me/saes:layers.7") < 1e-4
    assert not [path for _, path in hub.requests if "weights.bin" in path]


# What is refused.


@pytest.mark.parametrize("one", REFUSED, ids=str)
def test_what_cannot_be_used_is_refused_before_its_weights_are_downloaded(one: Refused, hub: Hub, client: Client) -> None:
    hub.add("models", one.repository, one.configuration)
    assert one.reason in client.refused(load, f"{one.release}:{one.sae_id}")
    asked = [path for method, path in hub.requests if method == "GET" and one.repository in path]
    assert not [path for path in asked if path.endswith((".npz", ".pt"))]


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harmed"),)


def test_a_pickle_that_runs_code_is_refused(hub: Hub, client: Client, tmp_path: Path, monkeypatch) -> None:
    layout = next(one for one in READ if one.shown == "dictionary_learning_1 BatchTopKSAE")
    files = dictionary_learning(layout.path, "BatchTopKSAE")
    hub.add("models", layout.repository, {**files, f"{layout.path}/ae.pt": pickle.dumps(Harmful())})
    error = client.refused(load, f"{layout.release}:{layout.sae_id}")
    assert "SAELens could not load" in error and "Weights only load failed" in error


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2-small-res-jb:blocks.99.hook_resid_pre", "no SAE .*; expected one of its 13, such as blocks.9.hook"),
        ("me/none:layer_3", "cannot be downloaded: the Hub has no model me/none that you may read; check the name"),
        ("me/saes:../saes", "names no folder of the repository; expected user/repository:folder"),
        ("me/saes:layer_4", "has no cfg.json; expected a folder with cfg.json"),
        ("me/saes:pickled", "neither sae_weights.safetensors .* nor sae.safetensors .* are pickles and are not read"),
        ("no-release:layer_3", "no SAE 'no-release:layer_3': expected a folder, .*, release:sae_id of SAELens's registry"),
    ],
)
def test_a_name_that_is_wrong_says_what_to_give(name: str, expected: str, hub: Hub, client: Client) -> None:
    pickled = {"pickled/cfg.json": b"{}", "pickled/ae.pt": b""}
    hub.add("models", "me/saes", {**saelens_6("layer_3", "model.layers.3"), **pickled})
    assert re.search(expected, client.refused(load, name))


def test_a_head_does_not_make_us_download_its_sae(hub: Hub, client: Client) -> None:
    hub.add("models", "stranger/saes", saelens_6("layer_3", "model.layers.3"))
    for name in ("stranger/saes:layer_3", "gemma-scope-9b-pt-res-canonical:layer_9/width_16k/canonical"):
        assert "is not downloaded because only a head names it" in client.refused(load_for_a_head, name)
    assert not [path for _, path in hub.requests if "stranger" in path or "gemma-scope-9b" in path]


# The registry as a whole.


def test_every_loader_of_the_registry_is_tested_and_in_the_guide(client: Client) -> None:
    found = client(loaders)
    assert set(found["named"]) == {one.loader for one in (*READ, *REFUSED)}
    assert set(found["all"]) == {*found["named"], *UNUSED}
    table = re.findall(r"^\| `(\w+)` \|", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(table) == found["all"]


def test_the_sizes_of_the_layouts_are_their_only_change() -> None:
    assert {"d_in": D_IN, "d_sae": D_SAE} == SIZES
    assert all(set(one.sizes) <= {*SIZES, "activation_fn_kwargs"} for one in READ)
