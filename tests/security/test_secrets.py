"""Keys reach the labelling server alone: no error, label, job or log has them. The data folder is private to the user."""

from __future__ import annotations

import base64
import json
import os
import stat
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest
import torch

from sparserm import jobs
from sparserm.features import llm_labels
from sparserm.features.auto_labels import Unlabelled
from sparserm.features.llm_labels import KEY, MODEL, URL, Endpoint, configured_endpoint
from sparserm.heads.labels import save_label
from sparserm.jobs.worker import work
from sparserm.pairs.sources import keep_upload
from sparserm.support.defaults import home
from sparserm.support.files import replacing_folder, write_text
from sparserm.types import SparseRMError
from tests.unit.features.fake_endpoint import completion

SECRET = 'sk-"very/secret+key=1'


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@there/v1",
        "http://hunter2@there/v1",
        "https://there/v1?key=hunter2",
        "https://there/v1#hunter2",
        "http://user:hunter2@there:port/v1",
        "http://[hunter2/v1",
        "ftp://user:hunter2@there/v1",
    ],
)
def test_an_address_with_a_password_is_refused_without_showing_it(url: str) -> None:
    for environment in ({URL: url, MODEL: "a"}, {URL: url}):
        with pytest.raises(SparseRMError) as error:
            configured_endpoint(environment=environment)
        assert "hunter2" not in str(error.value) and "--" not in str(error.value)
    with pytest.raises(SparseRMError):
        Endpoint(url, "a")


@pytest.mark.parametrize("url", ["http://", "http://:80/v1", "http://the re/v1", "http://there\n/v1", "http://there:99999/v1"])
def test_an_address_that_is_none_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(SparseRMError):
        configured_endpoint(environment={URL: url, MODEL: "a"})


@pytest.mark.parametrize("key", ["hunter2\n", "hunter2\r\nX-Other: 1", "hunter2 ", "hunter2\N{EM DASH}", "hunter2\x00"])
def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(SparseRMError, match=KEY) as error:
        configured_endpoint(environment={URL: "http://there/v1", MODEL: "a", KEY: key})
    assert "hunter2" not in str(error.value)


def test_the_key_and_the_path_are_not_in_what_is_shown_of_an_endpoint(serve) -> None:
    endpoint = Endpoint("http://127.0.0.1:9/hunter2/v1", "a", SECRET)
    assert SECRET not in repr(endpoint)
    with pytest.raises(SparseRMError, match=r"http://127\.0\.0\.1:9 cannot be reached") as error:
        endpoint.ask("Hi")
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("status", [200, 401, 500])
@pytest.mark.parametrize(
    "echo",
    [
        SECRET,
        f"Authorization: Bearer {SECRET}",
        json.dumps({"got": SECRET}),
        quote(SECRET, safe=""),
        base64.b64encode(SECRET.encode()).decode(),
        " " * 1980 + SECRET,
    ],
)
def test_a_server_that_repeats_the_key_does_not_get_it_into_an_error(serve, status: int, echo: str) -> None:
    for answer in (echo, completion(echo), completion(json.dumps({"label": echo}))):
        endpoint = Endpoint(serve(lambda _, answer=answer: (status, answer)).url, "a", SECRET)
        try:
            said = str(endpoint.ask("Hi"))
        except (SparseRMError, Unlabelled) as error:
            said = f"{error}{error.__cause__}"
        for secret in (SECRET, "very/secret", quote(SECRET, safe=""), base64.b64encode(SECRET.encode()).decode().rstrip("=")):
            assert secret not in said


@pytest.fixture
def raw_server():
    """``raw_server(answer)`` starts a server that calls ``answer(handler)`` for each request."""
    servers = []

    def start(answer) -> str:
        handler = type(
            "Handler", (BaseHTTPRequestHandler,), {"do_POST": answer, "do_GET": answer, "log_message": lambda *_: None}
        )
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_does_not_carry_the_key_anywhere(raw_server, status: int) -> None:
    seen: list[str] = []
    elsewhere = raw_server(lambda handler: seen.append(handler.path))

    def redirect(handler) -> None:
        handler.send_response(status)
        handler.send_header("Location", elsewhere)
        handler.end_headers()

    with pytest.raises(SparseRMError, match=f"answered {status}"):
        Endpoint(raw_server(redirect), "a", SECRET).ask("Hi")
    assert seen == []


def test_an_endless_answer_is_cut(raw_server, monkeypatch) -> None:
    monkeypatch.setattr(llm_labels, "MAX_ANSWER", 1 << 20)

    def endless(handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x" * 65536)
        except OSError:
            return

    with pytest.raises(SparseRMError, match="more than 1 MB"):
        Endpoint(raw_server(endless), "a").ask("Hi")


@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_that_never_ends_is_given_up(raw_server, monkeypatch, status: int) -> None:
    monkeypatch.setattr(llm_labels, "TIMEOUT_S", 0.3)

    def slow(handler) -> None:
        handler.send_response(status)
        handler.end_headers()
        try:
            for _ in range(100):
                handler.wfile.write(b"x")
                threading.Event().wait(0.05)
        except OSError:
            return

    with pytest.raises(SparseRMError, match=r"no answer in 0\.3 s|answered 500"):
        Endpoint(raw_server(slow), "a").ask("Hi")


def test_a_deeply_nested_answer_is_one_line(serve) -> None:
    for answer in ("[" * 100_000, completion('{"a":' * 100_000 + "}")):
        with pytest.raises(SparseRMError, match="answered"):
            Endpoint(serve(lambda _, answer=answer: (200, answer)).url, "a").ask("Hi")


posix = pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")


@pytest.fixture
def new_home(tmp_path, monkeypatch):
    """A data folder that does not exist yet, for a user whose files others can read."""
    before = os.umask(0o022)
    monkeypatch.setenv("SPARSERM_HOME", str(tmp_path / "new" / "home"))
    yield tmp_path / "new" / "home"
    os.umask(before)


def open_to_others(folder: Path) -> list[str]:
    """What in a folder, and the folder itself, others may read, write or list."""
    return [str(path) for path in (folder, *folder.rglob("*")) if stat.S_IMODE(path.lstat().st_mode) & 0o077]


@posix
def test_a_new_home_and_all_that_commands_write_in_it_is_private(new_home, parts, run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(parts.backbone.parent)
    monkeypatch.setattr("sparserm.backbone.device.fast_dtype", lambda device: torch.float32)
    command = ("train", parts.train, "--backbone", parts.backbone, "--sae", parts.sae, "--k", 4, "--l2", 0.1)
    assert run(*command, "--out", tmp_path / "head").code == 0
    assert run(*command, "--out", new_home / "heads" / "mine").code == 0
    assert run("label", tmp_path / "head", parts.train).code == 0
    save_label("a" * 16, 3, "mine")
    keep_upload(b"prompt,chosen,rejected\n", "pairs.csv")
    assert {path.name for path in new_home.iterdir()} >= {"representations.sqlite", "heads", "labels", "pairs", "fingerprints"}
    assert open_to_others(new_home) == []
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "head").iterdir()}
    assert stat.S_IMODE((tmp_path / "head").stat().st_mode) == 0o755 and modes == {0o644}


@posix
def test_what_a_job_writes_is_private(new_home) -> None:
    identity = jobs.start("audit", {"source": {"name": "no-such-file.jsonl"}, "against": None}, "Audit")
    deadline = time.monotonic() + 60
    while jobs.status(identity).active and time.monotonic() < deadline:
        time.sleep(0.1)
    assert jobs.status(identity).state == "failed"
    assert {"log.txt", "spec.json", "status.json", "worker.lock"} <= {
        path.name for path in jobs.status(identity).folder.iterdir()
    }
    assert open_to_others(new_home) == []


@posix
def test_a_file_is_never_readable_while_it_is_written(new_home, monkeypatch) -> None:
    replace = os.replace
    modes = []
    monkeypatch.setattr(
        os, "replace", lambda old, new: (modes.append(stat.S_IMODE(os.stat(old).st_mode)), replace(old, new))[1]
    )
    write_text(home() / "heads" / "a.txt", "a")
    with replacing_folder(home() / "heads" / "b", replace=False) as folder:
        (folder / "a.txt").write_text("a")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert modes == [0o600] and open_to_others(new_home) == []


@posix
def test_a_home_of_before_is_closed_with_what_is_in_it(new_home, tmp_path) -> None:
    elsewhere = tmp_path / "elsewhere.txt"
    elsewhere.touch(0o644)
    (new_home / "jobs" / "1").mkdir(parents=True)
    (new_home / "jobs" / "1" / "spec.json").write_text("{}")
    (new_home / "jobs" / "1" / "link").symlink_to(elsewhere)
    (new_home / "heads").symlink_to(tmp_path)
    (new_home / "representations.sqlite").touch(0o644)
    assert home() == new_home
    assert [path for path in open_to_others(new_home) if not Path(path).is_symlink()] == []
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o644


@posix
def test_a_folder_for_other_things_too_stays_open_but_not_what_this_package_wrote(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SPARSERM_HOME", str(tmp_path))
    tmp_path.chmod(0o755)
    (tmp_path / "notes").mkdir(0o755)
    (tmp_path / "jobs").mkdir(0o755)
    home()
    assert {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in (".", "notes", "jobs")} == {
        ".": 0o755,
        "notes": 0o755,
        "jobs": 0o700,
    }


def test_the_address_and_the_key_are_not_in_the_files_of_a_job(new_home, monkeypatch, parts, capfd) -> None:
    monkeypatch.setenv(URL, "http://user:hunter2@127.0.0.1:9/v1")
    monkeypatch.setenv(MODEL, "a")
    monkeypatch.setenv(KEY, "hunter2")
    spec = {"source": {"name": str(parts.train)}, "head": str(parts.head), "endpoint": True}
    monkeypatch.setattr("sparserm.jobs.queue._spawn", lambda folder: None)
    folder = jobs.status(jobs.start("labels", spec, "Labels")).folder
    monkeypatch.setattr("os.nice", lambda n: 0)
    work(folder)
    assert jobs.status(folder.name).state == "failed" and "password" in jobs.status(folder.name).text
    assert not any(b"hunter2" in path.read_bytes() for path in new_home.rglob("*") if path.is_file())
    assert "hunter2" not in "".join(capfd.readouterr())
