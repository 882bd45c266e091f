"""What a client is, where its checks run, and what came out. Needs only the standard library: every environment imports it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Difference of rewards that is allowed: a batch of other texts moves a reward in bfloat16.
TOLERANCE = 2e-3


@dataclass(frozen=True)
class Place:
    """Where the checks of a client run, and the rewards that they should get.

    Attributes:
        url: address of the server, without a slash at its end; empty for clients that need none.
        folder: an empty folder of the client.
        exported: the head ``truthfulness`` as a transformers classifier; empty for clients that need none.
        prompts, responses: texts.
        rewards: their rewards by the name of the head, as ``SparseRM.score`` gives them; ``float32`` are those of
            ``truthfulness`` on a backbone in that precision.
    """

    url: str
    folder: str
    exported: str
    prompts: list[str]
    responses: list[str]
    rewards: dict[str, list[float]]

    @property
    def templated(self) -> list[str]:
        """Prompt and response as a policy with ChatML writes them."""
        turns = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n"
        return [turns.format(*pair) for pair in zip(self.prompts, self.responses, strict=True)]


@dataclass(frozen=True)
class Check:
    """One thing that a client does: ``run`` raises if the outcome is not the expected one."""

    what: str
    run: Callable[[Place], None]


@dataclass(frozen=True)
class Client:
    """A client, and what its environment needs.

    Attributes:
        name: as the table shows it.
        package: the distribution whose version the table shows.
        checks: what is checked.
        requirements: what pip installs, with what these need.
        alone: what pip installs without what it needs, such as packages that need a GPU.
        serves: whether the checks need the server.
        exports: whether the checks need an exported head.
        limit_s: seconds that all checks may take.
        note: what the table says about how the client was run.
    """

    name: str
    package: str
    checks: tuple[Check, ...]
    requirements: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    serves: bool = True
    exports: bool = False
    limit_s: float = 300
    note: str = ""


@dataclass(frozen=True)
class Outcome:
    """Outcome of one check: ``ok``, ``failed`` or ``skipped``, with the reason."""

    what: str
    result: str
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """Outcomes of the checks of a client, the version of its package, and a note on how it was run."""

    client: str
    package: str
    version: str
    outcomes: tuple[Outcome, ...]
    note: str = ""


def close(got: Any, expected: Any, tolerance: float = TOLERANCE) -> None:
    """Check that numbers are those expected.

    Raises:
        AssertionError: they are not.
    """
    got, expected = list(got), list(expected)
    if len(got) != len(expected) or any(abs(a - b) > tolerance for a, b in zip(got, expected, strict=True)):
        raise AssertionError(f"got {[round(one, 4) for one in got]}, expected {[round(one, 4) for one in expected]}")


def equal(got: Any, expected: Any) -> None:
    """Check that a value is the one expected.

    Raises:
        AssertionError: it is not.
    """
    if got != expected:
        raise AssertionError(f"got {got!r}, expected {expected!r}")


def empty_folder(parent: Path, name: str) -> Path:
    """An empty folder of that name; what was there is deleted."""
    folder = parent / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
