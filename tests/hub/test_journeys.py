"""From names on the Hub to a head on the Hub, with the Hub's own clients; and what is said where the Hub refuses."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub import journeys
from tests.hub.client import Client
from tests.hub.layouts import llama_scope, saelens_6
from tests.hub.server import Hub
from tests.unit.pairs_data import preference_rows
from tests.unit.tiny import D_SAE, HIDDEN, save_tiny, tiny_model, tiny_tokenizer

#: A release of SAELens's registry, at a layer that the tiny model has.
RELEASE, SAE_ID, HOOK = "pythia-70m-deduped-res-sm", "blocks.2.hook_resid_post", "blocks.2.hook_resid_post"
SAES = "ctigges/pythia-70m-deduped__res-sm_processed"

ME = {"HF_TOKEN": "hf_me"}


def _jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    import pandas as pd

    data = io.BytesIO()
    pd.DataFrame(rows).to_parquet(data)
    return data.getvalue()


def _card(*configs: tuple[str, dict[str, str]]) -> bytes:
    """A data set's README, whose metadata says which files are which split of which configuration."""
    lines = ["---", "configs:"]
    for name, splits in configs:
        lines += [f"- config_name: {name}", "  data_files:"]
        for split, path in splits.items():
            lines += [f"  - split: {split}", f"    path: {path}"]
    return "\n".join([*lines, "---", "# Pairs", ""]).encode()


@pytest.fixture(scope="module")
def shared(hub: Hub, tmp_path_factory) -> Hub:
    """The hub with a model in shards, SAEs, and data sets in several forms."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder, max_shard_size="60KB")
    tiny_tokenizer().save_pretrained(folder)
    (folder / "original").mkdir()
    (folder / "original" / "params.json").write_text("{}")
    hub.add("models", "org/model", folder)
    hub.add("models", SAES, saelens_6("2-res-sm", HOOK, HIDDEN, D_SAE))
    train, test = preference_rows(), preference_rows(12, 6, seed=1)
    splits = {"train": "data/train*", "test": "data/test*"}
    hard = {"train": "hard/train*", "test": "hard/test*"}
    jsonl, parquet = {"train": _jsonl(train), "test": _jsonl(test)}, {"train": _parquet(test), "test": _parquet(train)}
    files = {f"data/{name}-00000.jsonl": data for name, data in jsonl.items()}
    files |= {f"hard/{name}.parquet": data for name, data in parquet.items()}
    hub.add("datasets", "org/pairs", {**files, "README.md": _card(("default", splits), ("hard", hard))})
    hub.add("datasets", "org/configs", {**files, "README.md": _card(("easy", splits), ("hard", hard))})
    hub.add("datasets", "org/test-only", {"test.parquet": parquet["test"]})
    prefs = {"train_prefs": "data/train*", "test_prefs": "data/test*"}
    hub.add("datasets", "org/prefs", {**files, "README.md": _card(("default", prefs))})
    return hub


@pytest.fixture(scope="module")
def elsewhere(hub: Hub, tmp_path_factory) -> Iterator[Client]:
    """Another machine: its cache is empty too."""
    client = Client(hub.url, tmp_path_factory.mktemp("elsewhere"))
    yield client
    client.close()


@pytest.fixture(scope="module")
def head(shared: Hub, client: Client, tmp_path_factory) -> tuple[Path, list[float]]:
    """A head trained from three names, with rewards."""
    folder = tmp_path_factory.mktemp("head") / "kindness"
    return folder, client(journeys.fit, "org/pairs", "org/model", f"{RELEASE}/{SAE_ID}", folder)


# There and back.


def test_a_head_is_trained_from_three_names(head, shared: Hub) -> None:
    folder, rewards = head
    card = json.loads((folder / "config.json").read_text())
    assert (card["backbone"], card["sae"], card["hook"]) == ("org/model", f"{RELEASE}:{SAE_ID}", HOOK)
    assert card["training"]["n_pairs"] == 40 and len(set(rewards)) == 3
    shards = {path.rpartition("/")[2] for _, path in shared.requests if "model-0000" in path}
    assert len(shards) > 2  # the model came in shards
    assert not [path for _, path in shared.requests if "original/" in path]


def test_a_download_reports_its_bytes_and_is_cancelled_and_goes_on(shared: Hub, tmp_path: Path) -> None:
    fresh = Client(shared.url, tmp_path)
    try:
        seen, ended = fresh(journeys.download_in_parts, "org/model", 3)
        assert (len(seen), ended) == (3, "cancelled")
        whole, ended = fresh(journeys.download_in_parts, "org/model", None)
        assert ended == "done" and len(whole) > 10
        assert whole == sorted(whole) and whole[-1][0] == whole[-1][1] > 100
        assert fresh(journeys.download_in_parts, "org/model", None) == ([], "done")
        assert "the Hub has no model org/none that you may read" in fresh.refused(journeys.download_in_parts, "org/none", None)
    finally:
        fresh.close()


def test_a_pushed_head_loads_by_name_elsewhere_and_then_without_the_hub(
    head, shared: Hub, client: Client, elsewhere: Client, tmp_path: Path
) -> None:
    folder, rewards = head
    pushed = ("export", str(folder), "--format", "head", "--out", str(tmp_path / "out"), "--push-to-hub", "me/kind", "--json")
    assert json.loads(client(journeys.command, *pushed, **ME))["address"] == f"{shared.url}/me/kind"
    assert elsewhere(journeys.load_head, "me/kind") == "kindness"
    error = elsewhere.refused(journeys.score, "me/kind")
    assert "backbone 'org/model' was not found on this machine" in error and "with `hf download org/model`" in error
    elsewhere(journeys.download, "org/model")
    assert elsewhere(journeys.score, "me/kind")[0] == rewards
    assert "is not downloaded because only a head names it" in elsewhere.refused(journeys.sae_of_head, "me/kind")
    elsewhere(journeys.load_sae, f"{RELEASE}:{SAE_ID}")
    assert elsewhere(journeys.sae_of_head, "me/kind") == f"{RELEASE}:{SAE_ID}"

    with shared.stopped():
        again, seconds = elsewhere(journeys.score, "me/kind")
        assert again == rewards and seconds < 10
        assert elsewhere(journeys.sae_of_head, "me/kind") == f"{RELEASE}:{SAE_ID}"
        assert "the Hub cannot be reached" in elsewhere.refused(journeys.load_head, "me/other")


def test_training_from_names_works_again_without_the_hub(head, shared: Hub, client: Client, tmp_path: Path) -> None:
    names = ("org/pairs", "org/model", f"{RELEASE}:{SAE_ID}")
    with shared.stopped():
        assert client(journeys.fit, *names, tmp_path / "again") == head[1]
        for journey, name in ((journeys.load_pairs, "org/others"), (journeys.load_backbone, "org/other")):
            error = client.refused(journey, name)
            assert "the Hub cannot be reached" in error and "check the network" in error
        error = client.refused(journeys.export_and_push, head[0], tmp_path / "out", "head", "me/kind", **ME)
        assert "upload to 'me/kind' on the Hub failed: the Hub cannot be reached" in error and "by hand" in error


def test_the_same_where_the_hub_is_forbidden(head, shared: Hub, client: Client, tmp_path: Path) -> None:
    folder = Path(client(journeys.download, "org/model")).parents[4]
    offline = Client(shared.url, folder, HF_HUB_OFFLINE="1")
    try:
        asked = len(shared.requests)
        assert offline(journeys.fit, "org/pairs", "org/model", f"{RELEASE}:{SAE_ID}", tmp_path / "head") == head[1]
        for journey, name in (
            (journeys.load_pairs, "org/others"),
            (journeys.load_backbone, "org/other"),
            (journeys.load_head, "me/other"),
            (journeys.load_sae, "me/other:layer_1"),
            (journeys.load_sae, "gpt2-small-res-jb:blocks.8.hook_resid_pre"),
        ):
            assert "HF_HUB_OFFLINE" in offline.refused(journey, name)
        assert len(shared.requests) == asked
    finally:
        offline.close()


def test_a_pushed_classifier_is_loaded_by_transformers(head, shared: Hub, client: Client, elsewhere: Client, tmp_path) -> None:
    folder, _ = head
    address = client(journeys.export_and_push, folder, tmp_path / "out", "classifier", "me/classifier", **ME)
    assert address == f"{shared.url}/me/classifier"
    assert ("POST", "/me/classifier.git/info/lfs/objects/batch") in shared.requests  # large files go another way
    expected = client(journeys.score_in_float32, str(folder), "org/model")
    assert elsewhere(journeys.classify, "me/classifier") == pytest.approx(expected, abs=1e-4)
    assert elsewhere(journeys.load_head, "me/classifier") == "kindness"


def test_a_second_push_is_a_second_version(head, shared: Hub, client: Client, elsewhere: Client, tmp_path: Path) -> None:
    client(journeys.export_and_push, head[0], tmp_path / "out", "head", "me/twice", **ME)
    assert elsewhere(journeys.load_head, "me/twice") == "kindness"
    config = json.loads((head[0] / "config.json").read_text())
    again = tmp_path / "again"
    again.mkdir()
    (again / "config.json").write_text(json.dumps({**config, "name": "kinder"}))
    (again / "head.safetensors").write_bytes((head[0] / "head.safetensors").read_bytes())
    client(journeys.export_and_push, again, tmp_path / "out", "head", "me/twice", **ME)
    assert elsewhere(journeys.load_head, "me/twice") == "kinder"


@pytest.mark.parametrize(
    ("repo", "token", "expected"),
    [
        ("me/kind", {}, "the Hub does not know who you are; log in with `hf auth login`"),
        ("me/kind", {"HF_TOKEN": "hf_expired"}, "the Hub does not know your token; log in with `hf auth login` again"),
        ("you/kind", ME, "your token has no right to this on you/kind; log in"),
        ("a/b/c", ME, "'a/b/c' is not a name of the Hub, which are USER/NAME"),
    ],
)
def test_a_push_that_is_not_allowed(repo: str, token: dict[str, str], expected: str, head, client: Client, tmp_path) -> None:
    error = client.refused(journeys.export_and_push, head[0], tmp_path / "out", "head", repo, **token)
    assert f"upload to '{repo}' on the Hub failed: {expected}" in error
    assert "is complete and can be uploaded by hand" in error
    assert (tmp_path / "out" / "head.safetensors").is_file()


# Data sets.


@pytest.mark.parametrize(("name", "n"), [("org/pairs", 40), ("org/test-only", 40)])
def test_the_pairs_of_a_data_set(name: str, n: int, shared: Hub, client: Client) -> None:
    assert client(journeys.load_pairs, name) == (name, n)


def test_a_data_set_without_the_split_says_which_there_are(shared: Hub, client: Client) -> None:
    error = client.refused(journeys.load_pairs, "org/prefs")
    assert "train_prefs" in error and "test_prefs" in error


def test_a_data_set_without_a_default_configuration_says_which_there_are(shared: Hub, client: Client) -> None:
    error = client.refused(journeys.load_pairs, "org/configs")
    assert "org/configs has several configs: expected one of easy, hard; choose one, e.g. config='easy'" in error


def test_the_split_and_the_configuration_that_are_asked_for_are_read(shared: Hub, client: Client) -> None:
    name, n = client(journeys.load_pairs, "org/configs", "test", "easy")
    assert name == "org/configs (easy, test)" and n > 0
    assert client(journeys.load_pairs, "org/prefs", "test_prefs")[0] == "org/prefs (test_prefs)"
    assert "has no split 'none': expected one of train, test" in client.refused(journeys.load_pairs, "org/pairs", "none")


# What goes wrong.


def test_a_download_that_breaks_off_is_resumed(shared: Hub, client: Client, tmp_path: Path) -> None:
    shared.add("models", "org/long", save_tiny(tmp_path / "model"))
    with shared.fault("/stored/", times=1, cut=True) as fault:
        assert client(journeys.at_once, journeys.load_backbone, "org/long") == (4, HIDDEN)
        assert fault.times == 0
    assert 206 in shared.statuses  # the rest of the file, and no more


@pytest.mark.parametrize(
    ("journey", "name", "file", "result"),
    [
        (journeys.load_backbone, "org/broken", "/stored/", (4, HIDDEN)),
        (journeys.load_pairs, "org/broken", "train.jsonl", ("org/broken", 40)),
        (journeys.load_head, "me/broken", "/stored/", "kindness"),
        (journeys.load_sae, "org/broken:layer_2", "/stored/", "org/broken:layer_2"),
        (journeys.load_sae, "llama_scope_lxr_8x:l6r_8x", "/stored/", "llama_scope_lxr_8x:l6r_8x"),
    ],
)
def test_a_download_that_breaks_off_for_good_says_so_and_can_be_repeated(
    journey, name: str, file: str, result: Any, head, shared: Hub, client: Client, tmp_path: Path
) -> None:
    shared.add("models", "me/broken", head[0])
    shared.add("datasets", "org/broken", {"train.jsonl": _jsonl(preference_rows())})
    shared.add("models", "fnlp/Llama3_1-8B-Base-LXR-8x", llama_scope("Llama3_1-8B-Base-L6R-8x"))
    model = save_tiny(tmp_path / "model")
    files = {path.name: path.read_bytes() for path in model.iterdir()}
    shared.add("models", "org/broken", {**files, **saelens_6("layer_2", HOOK)})
    with shared.fault(file, cut=True, kept=0):
        assert "the download broke off; try again" in client.refused(journeys.at_once, journey, name)
    assert client(journey, name) == result


def test_a_repository_without_the_revision(shared: Hub, client: Client, tmp_path: Path) -> None:
    repository = shared.add("models", "org/no-main", save_tiny(tmp_path / "model"))
    repository.branches["old"] = repository.branches.pop("main")
    error = client.refused(journeys.load_backbone, "org/no-main")
    assert "org/no-main has no revision 'main'; give one of its branches, tags or commits, as org/no-main@REVISION" in error
    assert client(journeys.load_backbone, "org/no-main@old") == (4, HIDDEN)
    assert client(journeys.download_revision, "org/no-main", "v9") == "RevisionNotFoundError"
    assert client(journeys.download_revision, "org/no-main", "old").endswith(repository.branches["old"])


@pytest.mark.parametrize(
    ("journey", "name", "kind"),
    [
        (journeys.load_backbone, "org/gated", "models"),
        (journeys.load_pairs, "org/gated", "datasets"),
        (journeys.load_head, "org/gated", "models"),
        (journeys.load_sae, "org/gated:layer_2", "models"),
        (journeys.load_sae, "gemma-scope-2b-pt-res-canonical:layer_3/width_16k/canonical", "models"),
        (journeys.load_sae, "llama_scope_lxr_8x:l5r_8x", "models"),
    ],
)
def test_a_gated_repository_says_to_accept_its_licence_and_log_in(
    journey, name: str, kind: str, head, shared: Hub, client: Client, tmp_path: Path
) -> None:
    repository = {"gemma": "google/gemma-scope-2b-pt-res", "llama": "fnlp/Llama3_1-8B-Base-LXR-8x"}.get(name[:5], "org/gated")
    files = {"config.json": b"{}", "head.safetensors": b"", "layer_2/cfg.json": b"{}", "train.jsonl": b"{}"}
    shared.add(kind, repository, files, gated=True, accepted=("friend",))
    page = f"{shared.url}/{'datasets/' if kind == 'datasets' else ''}{repository}"
    login = f"{repository} is gated: accept its licence on {page}, then log in with `hf auth login`"
    assert login in client.refused(journey, name)
    assert f"{repository} is gated, and your account has no access: accept its licence" in client.refused(journey, name, **ME)


def test_a_token_that_is_not_valid_is_said(shared: Hub, client: Client) -> None:
    for journey in (journeys.load_backbone, journeys.load_pairs, journeys.load_head):
        error = client.refused(journey, "org/unread", HF_TOKEN="hf_expired")
        assert "the Hub does not know your token; log in with `hf auth login` again" in error


def test_a_gated_model_is_read_by_who_has_access(shared: Hub, client: Client, tmp_path: Path) -> None:
    shared.add("models", "org/for-me", save_tiny(tmp_path / "model"), gated=True, accepted=("me",))
    assert client(journeys.load_backbone, "org/for-me", **ME) == (4, HIDDEN)


@pytest.mark.parametrize(
    ("journey", "name"),
    [
        (journeys.load_backbone, "org/busy"),
        (journeys.load_pairs, "org/busy"),
        (journeys.load_head, "org/busy"),
        (journeys.load_sae, "org/busy:layer_2"),
    ],
)
def test_a_limit_on_requests_says_how_long_to_wait(journey, name: str, shared: Hub, client: Client) -> None:
    with shared.fault("org/busy", status=429, headers={"Retry-After": "40"}):
        error = client.refused(journey, name)
    assert "the Hub limits how much it answers (429); try again in 40 seconds, or log in" in error


def test_a_limit_while_files_are_downloaded_is_waited_for(shared: Hub, client: Client, tmp_path: Path) -> None:
    shared.add("models", "org/slow", save_tiny(tmp_path / "model"))
    with shared.fault("/stored/", times=2, status=429, headers={"Retry-After": "1"}) as fault:
        assert client(journeys.at_once, journeys.load_backbone, "org/slow") == (4, HIDDEN)
        assert fault.times == 0


def test_a_hub_that_is_down_is_not_a_wrong_name(shared: Hub, client: Client) -> None:
    with shared.fault("org/down", status=503):
        for journey in (journeys.load_backbone, journeys.load_pairs, journeys.load_head):
            assert "the Hub is down (status 503); try again later" in client.refused(journey, "org/down")


@pytest.mark.parametrize(
    ("journey", "name", "expected"),
    [
        (journeys.load_backbone, "org/none", "the Hub has no model org/none that you may read; check the name, or"),
        (journeys.load_pairs, "org/none", "the Hub has no dataset org/none that you may read; check the name, or"),
        (journeys.load_head, "org/none", "the Hub has no model org/none that you may read; check the name, or"),
        (journeys.load_head, "org/model", "the repository org/model of the Hugging Face Hub holds no head; expected config"),
        (journeys.load_backbone, "org/model@", "'org/model@' is not a name of the Hub, which are USER/NAME or USER/NAME@REV"),
        (journeys.load_backbone, "org/model@../x", "no folder org/model@../x: expected a folder written by save_pretrained"),
        (journeys.load_backbone, "org/model@v9", "org/model has no revision 'v9'; give one of its branches, tags or commits"),
        (journeys.load_head, "org/model@v9", "org/model has no revision 'v9'; give one of its branches, tags or commits"),
        (
            journeys.load_sae,
            "org/model@v9:layer_1",
            "org/model has no revision 'v9'; give one of its branches, tags or commits",
        ),
        (journeys.load_pairs, "org/pairs@v9", "org/pairs has no revision 'v9'; give one of its branches, tags or commits"),
        (journeys.load_backbone, "org/pickled", "expected config.json, tokenizer files and safetensors weights"),
    ],
)
def test_a_name_that_is_wrong_says_what_is_expected(journey, name: str, expected: str, shared: Hub, client: Client) -> None:
    config = tiny_model().config.to_json_string().encode()
    shared.add("models", "org/pickled", {"config.json": config, "pytorch_model.bin": b"", "README.md": b""})
    assert re.search(re.escape(expected), client.refused(journey, name))


@pytest.fixture(scope="module")
def versions(head, shared: Hub, tmp_path_factory) -> dict[str, dict[str, str]]:
    """Commits of a model, SAEs and pairs by branch: ``old/1``, and ``main``, which is another."""
    model = save_tiny(tmp_path_factory.mktemp("old"), seed=1)
    old = {path.name: path.read_bytes() for path in model.iterdir()}
    new = {path.name: path.read_bytes() for path in save_tiny(tmp_path_factory.mktemp("new"), seed=2).iterdir()}
    files = {
        ("models", "org/versions"): (old, new),
        ("models", "org/sae-versions"): tuple(saelens_6("a", HOOK, HIDDEN, D_SAE, seed=seed) for seed in (1, 2)),
        ("datasets", "org/pair-versions"): tuple({"train.jsonl": _jsonl(preference_rows(n))} for n in (48, 24)),
    }
    commits = {}
    for (kind, name), (first, second) in files.items():
        repository = shared.add(kind, name, first)
        repository.branches["old/1"] = repository.branches["main"]
        repository.commit(second)
        commits[name] = dict(repository.branches)
    return commits


def test_a_head_keeps_the_revisions_that_it_was_trained_on(
    versions, shared: Hub, client: Client, elsewhere: Client, tmp_path: Path
) -> None:
    names = [f"org/{name}@old/1" for name in ("pair-versions", "versions", "sae-versions")]
    rewards = client(journeys.fit, names[0], names[1], f"{names[2]}:a", tmp_path / "head")
    card = json.loads((tmp_path / "head" / "config.json").read_text())
    assert (card["backbone"], card["sae"]) == (names[1], f"{names[2]}:a")
    assert card["training"]["data"] == names[0] and card["training"]["n_pairs"] == 48

    error = elsewhere.refused(journeys.score, str(tmp_path / "head"))
    assert f"backbone {names[1]!r} was not found" in error and "`hf download org/versions --revision old/1`" in error
    elsewhere(journeys.download, "org/versions", "old/1")
    assert elsewhere(journeys.score, str(tmp_path / "head"))[0] == rewards
    elsewhere(journeys.load_backbone, "org/versions")  # the main branch beside it changes nothing
    elsewhere(journeys.load_sae, f"{names[2]}:a")
    with shared.stopped():
        assert elsewhere(journeys.score, str(tmp_path / "head"))[0] == rewards
        assert elsewhere(journeys.sae_of_head, str(tmp_path / "head")) == f"{names[2]}:a"
        assert client(journeys.fit, names[0], names[1], f"{names[2]}:a", tmp_path / "again") == rewards


def test_a_branch_and_a_commit_are_revisions_of_everything(versions, shared: Hub, client: Client) -> None:
    for revision, n in (("old/1", 48), ("main", 24), (versions["org/pair-versions"]["old/1"], 48)):
        name = f"org/pair-versions@{revision}"
        assert client(journeys.load_pairs, name) == (name, n)
    assert client(journeys.load_pairs, "org/pair-versions") == ("org/pair-versions", 24)
    prints = {client(journeys.fingerprint, f"org/versions{at}") for at in ("@old/1", "@main", "")}
    assert len(prints) == 2
    saes = {client(journeys.sae_fingerprint, f"org/sae-versions{at}:a") for at in ("@old/1", "@main", "")}
    assert len(saes) == 2
    with shared.stopped():  # the latest in the cache is not taken for another
        assert client(journeys.load_pairs, "org/pair-versions@old/1") == ("org/pair-versions@old/1", 48)
        assert client(journeys.load_pairs, "org/pair-versions") == ("org/pair-versions", 24)
        assert "the Hub cannot be reached" in client.refused(journeys.load_pairs, "org/pair-versions@other")


def test_splits_and_configurations_are_those_of_the_revision(shared: Hub, client: Client) -> None:
    repository = shared.add("datasets", "org/split-later", {"test.jsonl": _jsonl(preference_rows())})
    repository.branches["v1"] = repository.branches["main"]
    files = {f"{name}.jsonl": _jsonl(preference_rows()) for name in ("a", "b")}
    repository.commit({**files, "README.md": _card(("default", {name: f"{name}.jsonl" for name in ("a", "b")}))})
    assert client(journeys.load_pairs, "org/split-later@v1") == ("org/split-later@v1", 40)
    error = client.refused(journeys.load_pairs, "org/split-later@main")
    assert "org/split-later@main has several splits: expected one of a, b" in error
    assert client(journeys.load_pairs, "org/split-later@main", "b") == ("org/split-later@main (b)", 40)


def test_a_head_of_the_hub_has_revisions(head, shared: Hub, client: Client, elsewhere: Client, tmp_path: Path) -> None:
    client(journeys.export_and_push, head[0], tmp_path / "out", "head", "me/versions", **ME)
    repository = shared.repositories["models", "me/versions"]
    repository.branches["v1.0"] = repository.branches["main"]
    files = dict(repository.commits[repository.branches["main"]])
    config = json.loads(files["config.json"])
    repository.commit({**files, "config.json": json.dumps({**config, "name": "kinder"}).encode()})
    assert elsewhere(journeys.load_head, "me/versions@v1.0") == "kindness"
    assert elsewhere(journeys.load_head, "me/versions") == elsewhere(journeys.load_head, "me/versions@main") == "kinder"
    assert elsewhere(journeys.name_of_head, "me/versions@v1.0") == "versions@v1.0"
    with shared.stopped():
        assert elsewhere(journeys.load_head, "me/versions@v1.0") == "kindness"
        assert "the Hub cannot be reached" in elsewhere.refused(journeys.load_head, "me/versions@v2")


def test_a_judge_is_a_head_of_the_hub(head, shared: Hub, client: Client, tmp_path: Path) -> None:
    folder, rewards = head
    client(journeys.export_and_push, folder, tmp_path / "out", "head", "me/judge", **ME)
    shared.repositories["models", "me/judge"].branches["v1"] = shared.repositories["models", "me/judge"].branches["main"]
    name, judged = client(journeys.judge, "me/judge@v1")
    assert name == "judge@v1" and judged == pytest.approx(rewards, abs=1e-4)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_bytes(_jsonl([{"prompt": f"Question {i}?"} for i in range(8)]))
    feature = str(json.loads((folder / "config.json").read_text())["features"][0])
    client(journeys.command, "edit", str(folder), "--off", feature, "--out", str(tmp_path / "edited"), "--json")
    given = (
        "align",
        str(prompts),
        "--reward",
        str(tmp_path / "edited"),
        "--judge",
        "me/judge",
        "--policy",
        "org/model",
        "--json",
    )
    small = ("--rounds", "1", "--prompts", "4", "--samples", "2", "--held-out", "2", "--max-new-tokens", "4")
    found = json.loads(client(journeys.command, *given, *small, "--out", str(tmp_path / "run")))
    assert list(found["measures"][1]["judges"]) == ["edited", "judge"]
    error = client.refused(journeys.judge, "me/no-judge")
    assert "no reward model 'me/no-judge': no head 'me/no-judge'" in error and "the Hub has no model me/no-judge" in error
    assert error.endswith("or give the folder of a sequence classifier")


def test_a_revision_without_the_hub_says_how_to_download_it(shared: Hub, client: Client, tmp_path: Path) -> None:
    offline = Client(shared.url, tmp_path, HF_HUB_OFFLINE="1")
    try:
        expected = "HF_HUB_OFFLINE forbids downloads; unset it, or run `hf download "
        assert f"{expected}org/model --revision v1` first" in offline.refused(journeys.load_backbone, "org/model@v1")
        error = offline.refused(journeys.load_pairs, "org/pairs@v1")
        assert f"{expected}org/pairs --repo-type dataset --revision v1` first" in error
    finally:
        offline.close()


def test_a_folder_with_an_at_sign_in_its_name_is_a_folder(head, shared: Hub, client: Client, tmp_path: Path) -> None:
    shutil.copytree(head[0], tmp_path / "me" / "kind@v1")
    (tmp_path / "me" / "pairs@v1.jsonl").write_bytes(_jsonl(preference_rows()))
    model = save_tiny(tmp_path / "org" / "model@main")
    for path, data in saelens_6("me/saes@v1", HOOK, HIDDEN, D_SAE).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    asked = len(shared.requests)
    for folder in (tmp_path, Path()):
        assert client(journeys.load_head_in, tmp_path, str(folder / "me" / "kind@v1")) == "kindness"
        assert client(journeys.in_folder, tmp_path, journeys.load_backbone, str(folder / "org" / "model@main")) == (4, HIDDEN)
        sae = str(folder / "me" / "saes@v1")
        assert client(journeys.in_folder, tmp_path, journeys.load_sae, sae) == sae
        pairs = str(folder / "me" / "pairs@v1.jsonl")
        assert client(journeys.in_folder, tmp_path, journeys.load_pairs, pairs) == ("pairs@v1.jsonl", 40)
    assert "no head" in client.refused(journeys.load_head_in, tmp_path, "me/kind@v2")  # there is a folder me: a path
    assert model.is_dir() and len(shared.requests) == asked


def test_a_folder_that_is_mistyped_is_not_looked_up(shared: Hub, client: Client, tmp_path: Path) -> None:
    (tmp_path / "heads").mkdir()
    asked = len(shared.requests)
    for name in (str(tmp_path / "heads" / "kind"), "./heads/kind", "heads/kind", "kind", "a/b/c"):
        assert "no head" in client.refused(journeys.load_head_in, tmp_path, name)
    assert len(shared.requests) == asked


def test_the_token_is_known(shared: Hub, client: Client) -> None:
    assert client(journeys.whoami, **ME) == "me"
