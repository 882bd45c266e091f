"""Ray Data on a local cluster of two workers: the rows and rewards of the local engine, also when a worker is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time

import pandas as pd
import pytest

from sparserm.heads.inputs import load_parts
from sparserm.integrations.ray import RayEngine, _gpu_share
from sparserm.model import SparseRM
from sparserm.pairs.parsing import parse_pairs
from sparserm.pairs.parts import cut
from sparserm.representations import files
from sparserm.representations.files import represent_file
from sparserm.representations.shards import LATENTS_IN, PAIRS_IN
from sparserm.scoring import bulk
from sparserm.scoring.bulk import score_file
from sparserm.types import SparseRMError
from tests.unit.pairs_data import preference_rows
from tests.unit.tiny import save_tiny_sae

ray = pytest.importorskip("ray")
ENGINES = {"local": None, "ray": RayEngine(workers=2)}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two processors, and a data folder that the workers inherit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSERM_HOME", str(tmp_path_factory.mktemp("ray-home")))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield os.environ["SPARSERM_HOME"]
        ray.shutdown()


@pytest.fixture
def head(request, cluster, monkeypatch, tmp_path, tiny_folder):
    """A head whose backbone the workers find, since they see the same data folder; gated where a test asks for it."""
    monkeypatch.setenv("SPARSERM_HOME", cluster)
    monkeypatch.setattr(bulk, "cut", lambda source, **part: cut(source, 4, **part))
    data = parse_pairs(preference_rows(), "train")
    gated = getattr(request, "param", "projection") == "gated"
    sae = save_tiny_sae(tmp_path / "tiny-sae", threshold=15 if gated else None)
    model = SparseRM.fit(data, backbone=tiny_folder, sae=sae, k=4, l2=0.1, selection="frequency")
    assert model.head.score == ("gated" if gated else "projection")
    model.save_pretrained(tmp_path / "head")
    return tmp_path / "head"


def _workers() -> list[int]:
    """Process numbers of this test's own cluster's actors: children of the raylet that is our child."""
    listed = subprocess.run(["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    ours = {pid for pid, parent, arguments in rows if "raylet" in arguments and parent == str(os.getpid())}
    return [int(pid) for pid, parent, arguments in rows if "ray::MapWorker" in arguments and parent in ours]


def test_the_rows_and_rewards_are_those_of_the_local_engine_though_a_worker_is_killed(head, tmp_path):
    path = tmp_path / "pairs.jsonl"
    pd.DataFrame(preference_rows(160, 40, seed=3)).to_json(path, orient="records", lines=True)
    local = score_file(path, head, tmp_path / "local")
    killed: list[tuple[int, int]] = []

    def kill_one() -> None:
        while not (done := len(list((tmp_path / "ray").glob("part-*")))):
            time.sleep(0.01)
        killed.append((_workers()[0], done))
        os.kill(killed[0][0], signal.SIGKILL)

    thread = threading.Thread(target=kill_one, daemon=True)
    thread.start()
    scored = score_file(path, head, tmp_path / "ray", engine=RayEngine(workers=2))
    thread.join(10)
    assert killed and killed[0][0] not in _workers()
    assert killed[0][1] < 20  # of 40 parts: midway
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "ray"), pd.read_parquet(tmp_path / "local"))
    assert (scored.n_pairs, scored.accuracy) == (local.n_pairs, local.accuracy)


def test_what_a_user_can_mend_is_said_in_one_line(head, tmp_path, monkeypatch):
    """Also where only a worker sees it."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in preference_rows(8, 2, seed=5)))

    def changed(scoring, parts, finished):
        path.write_text(path.read_text() + "\n")
        RayEngine(workers=1)(scoring, parts, finished)

    with pytest.raises(SparseRMError, match=r"pairs\.jsonl has changed since it was first read"):
        score_file(path, head, tmp_path / "out", engine=changed)


def test_pairs_are_represented_as_by_the_local_engine(cluster, monkeypatch, tmp_path, tiny_folder):
    monkeypatch.setenv("SPARSERM_HOME", cluster)
    monkeypatch.setattr(files, "PART_ROWS", 8)
    path = tmp_path / "pairs.jsonl"
    pd.DataFrame(preference_rows(40, 10, seed=3)).to_json(path, orient="records", lines=True)
    sae, backbone = load_parts(tiny_folder, save_tiny_sae(tmp_path / "tiny-sae", threshold=15), None)
    done = [represent_file(path, backbone, sae, tmp_path / name, engine=engine) for name, engine in ENGINES.items()]
    assert [one.n_pairs for one in done] == [40, 40]
    for table in (PAIRS_IN, LATENTS_IN):
        local, distributed = (pd.read_parquet(tmp_path / name / table) for name in ENGINES)
        pd.testing.assert_frame_equal(local, distributed)


def test_workers_do_not_wait_for_gpus_that_are_not_there(cluster, monkeypatch):
    assert _gpu_share(ray, 2) == {}
    monkeypatch.setenv("SPARSERM_DEVICE", "cuda:1")
    with pytest.raises(SparseRMError, match=r"has no GPU, expected at least one for SPARSERM_DEVICE=cuda:1"):
        _gpu_share(ray, 2)


@pytest.mark.parametrize(
    ("gpus", "workers", "share"), [(2, 1, 1), (2, 2, 1), (2, 3, 0.5), (1, 3, 0.3333), (2, 5, 0.3333), (1, 7, 0.1428)]
)
def test_more_workers_than_gpus_share_them(monkeypatch, gpus, workers, share):
    monkeypatch.setenv("SPARSERM_DEVICE", "cuda")
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": float(gpus)})
    assert _gpu_share(ray, workers) == {"num_gpus": share, "runtime_env": {"env_vars": {"SPARSERM_DEVICE": "cuda"}}}


@pytest.mark.parametrize("head", ["projection", "gated"], indirect=True)
def test_either_engine_goes_on_where_the_other_was_stopped(head, tmp_path):
    path = tmp_path / "pairs.parquet"
    pd.DataFrame(preference_rows(40, 10, seed=4)).to_parquet(path)
    score_file(path, head, tmp_path / "out")
    whole = pd.read_parquet(tmp_path / "out")
    for file in sorted((tmp_path / "out").glob("part-*"))[3:]:
        file.unlink()
    again = score_file(path, head, tmp_path / "out", engine=RayEngine(workers=1))
    assert again.n_done_before == 12
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out"), whole)
    score_file(path, head, tmp_path / "out", engine=RayEngine(workers=1))  # nothing is left to do
