"""The container file copies all that the wheel is built from, and starts a command that the command line accepts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer

import sparserm
from sparserm.cli.common import app

try:
    import tomllib
except ImportError:  # Python 3.10
    tomllib = None  # type: ignore[assignment]

ROOT = Path(sparserm.__file__).parent.parent


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """The instructions of the container file with their arguments, lines joined."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Containerfile").read_text("utf-8"))
    return [tuple(line.split(" ", 1)) for line in text.splitlines() if line and not line.startswith("#")]


def _all(instructions, name: str) -> list[str]:
    return [rest for found, rest in instructions if found == name]


def _copied(instructions) -> set[str]:
    return {source for rest in _all(instructions, "COPY") for source in rest.split()[:-1]}


def test_what_it_copies_is_there_and_is_sent_to_the_builder(instructions):
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    sent = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert _copied(instructions) == sent and "*" in ignored
    assert all((ROOT / source).exists() for source in sent)


@pytest.mark.skipif(tomllib is None, reason="tomllib came with Python 3.11")
def test_the_wheel_has_all_that_it_is_built_from(instructions):
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wheel = settings["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", settings["project"]["readme"], *wheel["packages"], *wheel["force-include"]}
    assert _copied(instructions) == needed


def test_it_starts_a_server_that_the_command_line_accepts(instructions):
    (entry,), (arguments,) = (map(json.loads, _all(instructions, name)) for name in ("ENTRYPOINT", "CMD"))
    assert entry == ["sparserm"]
    group = typer.main.get_command(app)
    with group.make_context("sparserm", list(arguments)) as context:
        command = group.get_command(context, arguments[0])
        with command.make_context(arguments[0], arguments[1:], parent=context) as parsed:
            given = parsed.params
    assert given["host"] == "0.0.0.0" and given["heads"] and not given["no_key"]  # so a key is asked for
    (health,) = _all(instructions, "HEALTHCHECK")
    assert f"127.0.0.1:{given['port']}/health" in health and _all(instructions, "EXPOSE") == [str(given["port"])]


def test_it_runs_as_a_user_who_owns_the_data_folder_and_nothing_else(instructions):
    (user,), (volume,), (folder,) = (_all(instructions, name) for name in ("USER", "VOLUME", "ENV"))
    last = _all(instructions, "RUN")[-1]
    assert user.isdigit() and int(user) > 0 and f"useradd --uid {user}" in last
    assert f"SPARSERM_HOME={volume}" in folder and f"--owner sparserm --mode 0700 {volume}" in last
