"""Every snippet of the app is run as it is copied: on the real backbone, in a folder with the files that it names."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest
import torch

from sparserm import SparseRM, cli
from sparserm.backbone.device import fast_dtype
from sparserm.policy.language_model import Policy
from sparserm.ui.use.snippets import Snippet, snippets

pytestmark = pytest.mark.backbone

PAIRS = [
    {"prompt": f"Is number {i} even?", "chosen": f"Number {i} leaves a rest of {i % 2} by two.", "rejected": "Nobody can tell."}
    for i in range(4)
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, PAIRS)))
    candidates = [{"prompt": "Name a fruit.", "responses": ["An apple.", "A stone.", "No."]}]
    Path("candidates.jsonl").write_text("\n".join(map(json.dumps, candidates)))
    return tmp_path


def _snippet(title: str) -> Snippet:
    return next(one for one in snippets("truthfulness") if one.title == title)


@pytest.mark.parametrize("title", [one.title for one in snippets("truthfulness") if one.language == "python"])
def test_python_snippets_run_as_they_are(folder: Path, title: str, capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, object] = {}
    exec(compile(_snippet(title).code, title, "exec"), scope)
    if title == "Python":
        assert "rewards: [" in capsys.readouterr().out and len(scope["rewards"]) == 2
    if title == "Best of N":
        assert scope["best_of_n"]("Hello?", ["Hello!"]) == "Hello!"
    if title == "Filter pairs for DPO":
        kept = [json.loads(line) for line in Path("filtered.jsonl").read_text().splitlines()]
        agreed = [pair for pair, c, r in zip(PAIRS, scope["chosen"], scope["rejected"], strict=True) if c > r]
        assert kept == agreed
    if title == "pandas and datasets":
        model = SparseRM.from_pretrained("truthfulness")
        prompts, chosen, rejected = ([pair[name] for pair in PAIRS] for name in ("prompt", "chosen", "rejected"))
        margins = model.score(prompts, chosen) - model.score(prompts, rejected)
        assert scope["rows"]["margin"] == pytest.approx(margins.tolist(), abs=1e-3)
    if title == "TRL reward function":
        plain = scope["reward"](prompts=["Hi"], completions=["Hello."], completion_ids=[[1]], extra=["column"])
        user, assistant = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}
        assert scope["reward"](prompts=[[user]], completions=[[assistant]]) == plain
        assert isinstance(plain[0], float)
    if title == "Transformers":
        expected = SparseRM.from_pretrained("truthfulness").score("How can I fall asleep faster?", "Keep a regular bedtime.")[0]
        assert scope["reward"] == pytest.approx(expected, abs=1e-3 if fast_dtype("cpu") == torch.float32 else 0.1)
    if title == "TRL pairs for DPO":
        assert scope["pairs"].column_names[:3] == ["prompt", "chosen", "rejected"] and len(scope["pairs"]) == 1


@pytest.mark.parametrize("line", _snippet("Command line").code.splitlines())
def test_command_lines_run_as_they_are(folder: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *arguments = shlex.split(line)
    assert program == "sparserm"
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0


def _object(pipe: IO[bytes]) -> bytes:
    """The first JSON object of a process that does not end: the pipe may give it in parts."""
    text = b""
    while part := os.read(pipe.fileno(), 1 << 16):
        text += part
        if text.rstrip().endswith(b"}") and text.count(b"{") == text.count(b"}"):
            break
    return text


def test_the_server_answers_as_the_snippet_asks(folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        code = _snippet("Server").code.replace("8000", str(free.getsockname()[1]))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shell = subprocess.Popen(
        ["bash", "-c", code], stdout=subprocess.PIPE, start_new_session=True, env={**os.environ, "PATH": path}
    )
    try:
        found = json.loads(_object(shell.stdout))
    finally:
        os.killpg(shell.pid, signal.SIGTERM)
        shell.wait(60)
    responses = ["Yes, as trials show.", "Nobody knows."]
    expected = SparseRM.from_pretrained("truthfulness").score(["Do vaccines work?"] * 2, responses)
    assert found["rewards"] == pytest.approx(expected.tolist(), abs=1e-3)


def test_a_policy_is_aligned_as_the_snippet_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    sample = Policy.sample
    monkeypatch.setattr(Policy, "sample", lambda *given, **named: sample(*given, **{**named, "max_new_tokens": 6}))  # soon done
    rows = [{"prompt": f"Is {number} an even number?"} for number in range(6)]
    Path("prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(sys, "argv", shlex.split(_snippet("Align a policy").code))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    report = json.loads(Path("aligned/report.json").read_text())
    assert report["conclusion"] in " ".join(capfd.readouterr().out.split())
    start, end = report["measures"]
    assert start["kl"] == pytest.approx(0, abs=1e-5) and end["kl"] > 0
    assert set(end["judges"]) == {"truthfulness", "helpfulness"}
    # The policy is a model of Transformers, and has moved.
    policy, before = Policy.load("aligned/round_1/policy"), Policy.load()
    assert not all(torch.equal(a, b) for a, b in zip(policy.model.parameters(), before.model.parameters(), strict=True))


@pytest.mark.parametrize("name", ["it's", 'a "head"', "$HOME; rm -rf"])
def test_a_name_with_signs_of_a_language_stays_one_name(name: str) -> None:
    for one in snippets(name):
        if one.language == "python":
            compile(one.code, one.title, "exec")
            assert repr(name) in one.code
        else:
            assert name in shlex.split(one.code.splitlines()[0])
