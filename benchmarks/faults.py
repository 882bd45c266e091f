"""Random kills and bit flips over everything that is saved: ``python -m benchmarks.faults [--rounds 200] [--seed 0]``.

Each round copies a data folder and either runs one action of a user on the real backbone in a process that is killed
(SIGKILL), or flips one bit of what such an action has saved. Three of four kills come just before a change to the file
system, the others after a random time. Then the result is read as a user
would read it, and after a kill the action is run again:

* *lost*: something that was there before is gone, or the action cannot be run again;
* *wrong*: something is read without an error that is neither the state before nor the state after.

Both have to be zero; the command exits with 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import evidence_tables
from benchmarks.common import ROOT, write_results
from sparserm import cli
from sparserm.heads.labels import auto_labels
from sparserm.heads.reward import rewards
from sparserm.heads.saved import head_hash, load_head
from sparserm.model import SparseRM
from sparserm.pairs.load import load_pairs
from sparserm.pairs.sources import keep_upload, list_sources
from sparserm.representations import represent
from sparserm.representations.store import stored
from sparserm.representations.values import LatentSummary
from sparserm.support.defaults import home
from sparserm.support.files import interrupted_replacement
from sparserm.types import SparseRMError

PAIRS = ROOT / "assets" / "pairs" / "safety.jsonl"
OTHERS = ROOT / "assets" / "pairs" / "redteam.jsonl"
HEAD = "safety"
TOLERANCE = 1e-4

#: Events of Python's audit hooks that precede a change to the file system, next to files opened for writing.
_CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "sqlite3.connect")

#: What a user reads of a result, by name: a later state may have more names, never fewer.
State = Mapping[str, str]


@dataclass(frozen=True)
class Action:
    """Something a user does that saves something.

    Attributes:
        do: runs it on the folder of a round, in ``SPARSERM_HOME``.
        read: reads its result.
        saved: the file or folder that it writes, in the folder of a round; its bits are flipped.
    """

    do: Callable[[Path], None]
    read: Callable[[Path], State]
    saved: str


@dataclass(frozen=True)
class Outcome:
    """Result of one round.

    Attributes:
        action, fault: what was done, and whether the process was killed or a bit was flipped.
        found: ``before``, ``after``, ``between`` (part of the results), ``refused``, ``lost`` or ``wrong``.
        detail: what was lost or wrong; where the fault was.
    """

    action: str
    fault: str
    found: str
    detail: str


def _command(*arguments: object) -> None:
    """Run a command of ``sparserm`` in this process; raises SystemExit if its exit code is not 0."""
    sys.argv = ["sparserm", *map(str, arguments)]
    try:
        cli.main()
    except SystemExit as ended:
        if ended.code:
            raise


def _train(place: Path) -> None:
    _command("train", PAIRS, "--out", place / "head", "--k", 16, "--force", "--json")


def _edit(place: Path) -> None:
    _command("edit", HEAD, "--off", load_head(HEAD).head.features[0], "--out", place / "head", "--force", "--json")


def _export(place: Path) -> None:
    _command("export", HEAD, "--format", "head", "--out", place / "head", "--force", "--json")


def _read_head(place: Path) -> State:
    """The head; the one before, where an interrupted replacement has moved it aside and the message says so."""
    folder = place / "head"
    aside = None if folder.exists() else interrupted_replacement(folder)
    saved = load_head(aside or folder)
    return {"head": f"{head_hash(saved)} {json.dumps([dict(saved.card.metrics), dict(saved.card.training)])}"}


def _represent(_: Path) -> None:
    represent.FLUSH_EVERY = 4  # more writes, of which one may be interrupted
    _represented()


def _represented() -> State:
    """Rewards and peak activations for pairs of two files, from the store where it has them."""
    model, pairs = SparseRM.from_pretrained(HEAD), [pair for path in (PAIRS, OTHERS) for pair in load_pairs(path).pairs[:16]]
    model.load_backbone()
    sae = model.load_sae()
    with stored() as store:
        found = represent.represent_pairs(
            pairs, model.backbone, {sae.hook: sae}, model.head.pooling, strengths=True, store=store
        )
    figures = [rewards(model.head, side) for side in (found[sae.hook].chosen, found[sae.hook].rejected)]
    summaries = (found[sae.hook].chosen.latents, found[sae.hook].rejected.latents)
    figures += [latents.peak for latents in summaries if isinstance(latents, LatentSummary)]
    return {"figures": json.dumps([float(figure) for one in figures for figure in one])}


def _same(value: str, other: str | None) -> bool:
    """Whether two values are equal; figures may differ by rounding, since texts are computed in other batches."""
    if other is None or not value.startswith("["):
        return value == other
    one, two = json.loads(value), json.loads(other)
    return len(one) == len(two) and max((abs(a - b) for a, b in zip(one, two, strict=True)), default=0) < TOLERANCE


def _label(_: Path) -> None:
    _command("label", HEAD, PAIRS, "--json")


def _read_labels(_: Path) -> State:
    return {str(feature): str(label) for feature, label in auto_labels(load_head(HEAD).card.sae_fingerprint).items()}


def _upload(_: Path) -> None:
    keep_upload(PAIRS.read_bytes(), "new.jsonl", columns={"prompt": "prompt"}, skip_bad=True)


def _read_uploads(_: Path) -> State:
    sources = {label: source for label, source in list_sources().items() if label.endswith(" (uploaded)")}
    return {label: source.load().content_hash for label, source in sources.items()}


ACTIONS = {
    "train": Action(_train, _read_head, "head"),
    "edit": Action(_edit, _read_head, "head"),
    "export": Action(_export, _read_head, "head"),
    "store": Action(_represent, lambda _: _represented(), "home/representations.sqlite"),
    "label": Action(_label, _read_labels, "home/labels"),
    "upload": Action(_upload, _read_uploads, "home/pairs"),
}


def prepare(place: Path) -> None:
    """The folder before every action: a head that will be replaced, its pairs in the store, an upload; no labels."""
    _command("train", PAIRS, "--out", place / "head", "--k", 8, "--json")
    keep_upload(OTHERS.read_bytes(), "old.jsonl")


class _Fuse:
    """Counts changes to the file system, and kills this process before the ``at``-th one."""

    def __init__(self, at: int | None) -> None:
        self.at, self.n = at, 0
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in _CHANGES:
            self.n += 1
            if self.n == self.at:
                os.kill(os.getpid(), signal.SIGKILL)


def in_child(place: Path, work: Callable[[], Any], *, after_s: float | None = None) -> tuple[int, Any]:
    """Run ``work`` in a forked process with the data folder of ``place``; kill it after ``after_s`` seconds.

    Returns:
        The exit code (negative: the signal that killed it) and the result, which has to be JSON.
    """
    answer = place / "answer.json"
    answer.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        with (place / "log.txt").open("ab", buffering=0) as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        code = 1
        try:
            os.environ["SPARSERM_HOME"] = str(place / "home")
            answer.write_text(json.dumps(work()))
            code = 0
        except SparseRMError as error:
            answer.write_text(json.dumps(f"refused: {error}"))
            code = 2
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if after_s is not None:
        time.sleep(after_s)
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, json.loads(answer.read_text()) if answer.is_file() and code in (0, 2) else None


class Injector:
    """Runs rounds on copies of the folders before and after each action.

    Args:
        folder: a folder for them.
        names: the actions.
    """

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder = folder
        self.before_folder = folder / "before"
        (self.before_folder / "home").mkdir(parents=True, mode=0o700)
        (self.before_folder / "home" / "backbones").symlink_to(home() / "backbones")
        self._succeed(self.before_folder, lambda: prepare(self.before_folder))
        self.before: dict[str, State] = {}
        self.after: dict[str, State] = {}
        self.changes: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        for name in names:
            self._measure(name)

    def _measure(self, name: str) -> None:
        """Run an action without a fault: its states, duration and number of changes to the file system."""
        action, place = ACTIONS[name], self._copy(self.before_folder, f"after-{name}")
        self.before[name] = self._succeed(place, lambda: action.read(place)) if name != "store" else {}

        def counted() -> int:
            fuse = _Fuse(None)
            action.do(place)
            return fuse.n

        started = time.monotonic()
        self.changes[name] = self._succeed(place, counted)
        self.seconds[name] = time.monotonic() - started
        self.after[name] = self._succeed(place, lambda: action.read(place))

    def kill(self, name: str, chance: random.Random) -> Outcome:
        """One round with a kill, and the action run again afterwards."""
        action, place = ACTIONS[name], self._copy(self.before_folder, "round")
        at = chance.randint(1, self.changes[name]) if chance.random() < 0.75 else None
        after_s = None if at else chance.uniform(0, self.seconds[name])

        def doomed() -> None:
            _Fuse(at)
            action.do(place)

        in_child(place, doomed, after_s=after_s)
        where = f"change {at} of {self.changes[name]}" if at else f"after {after_s:.2f} of {self.seconds[name]:.2f} s"
        code, state = in_child(place, lambda: dict(action.read(place)))
        found, detail = self._judge(name, code, state)
        if found in ("before", "after", "between"):

            def again() -> dict[str, Any]:
                action.do(place)
                return dict(action.read(place))

            code, state = in_child(place, again)
            if code or self._judge(name, code, state)[0] != "after":
                found, detail = "lost", f"run again: {code} {state} {_tail(place)}"
        else:  # after a kill nothing may be refused: the state before is whole
            found = "lost" if found == "refused" else found
        return Outcome(name, "kill", found, f"{where} {detail}".strip())

    def flip(self, name: str, chance: random.Random) -> Outcome:
        """One round with a flipped bit in what the action has saved."""
        action, place = ACTIONS[name], self._copy(self.folder / f"after-{name}", "round")
        root = place / action.saved
        inside = [root] if root.is_file() else sorted(root.rglob("*"))
        path = chance.choice([path for path in inside if path.is_file() and path.stat().st_size])
        data = bytearray(path.read_bytes())
        bit = chance.randrange(len(data) * 8)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        code, state = in_child(place, lambda: dict(action.read(place)))
        found, detail = self._judge(name, code, state, flipped=True)
        return Outcome(name, "flip", found, f"{path.relative_to(place)} bit {bit} {detail}".strip())

    def _judge(self, name: str, code: int, state: Any, flipped: bool = False) -> tuple[str, str]:
        """What was found, and the detail of what is lost or wrong."""
        before, after = self.before[name], self.after[name]
        if code == 2:
            return "refused", state
        if code or state is None:
            return "lost", f"exit code {code} {_tail(self.folder / 'round')}"
        # A damaged result may be left out: then what was there before is read, such as a shipped label.
        expected = [before, after]
        wrong = [key for key, value in state.items() if not any(_same(value, one.get(key)) for one in expected)]
        if wrong:
            return "wrong", ", ".join(f"{key}: {state[key]!r:.80}, expected {after.get(key)!r:.80}" for key in wrong[:2])
        if not flipped and (gone := set(before) - set(state)):
            return "lost", ", ".join(gone)
        if state.keys() == after.keys() and all(_same(state[key], after[key]) for key in after):
            return "after", ""
        return ("before", "") if state == dict(before) else ("between", "")

    def _copy(self, source: Path, name: str) -> Path:
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        return Path(shutil.copytree(source, target, symlinks=True))

    @staticmethod
    def _succeed(place: Path, work: Callable[[], Any]) -> Any:
        code, result = in_child(place, work)
        if code:
            raise SystemExit(f"failed without a fault: {result} {_tail(place)}")
        return result


def _tail(place: Path) -> str:
    return (place / "log.txt").read_text(errors="replace")[-300:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--actions", default=",".join(ACTIONS), help="comma-separated")
    asked = parser.parse_args()
    torch.set_num_threads(1)  # a process with threads cannot be forked safely
    os.environ.setdefault("SPARSERM_HOME", str(home()))
    SparseRM.from_pretrained(HEAD).load_backbone()  # shared by the forked processes
    names = asked.actions.split(",")
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        injector = Injector(Path(folder), names)
        for i in range(asked.rounds):
            chance = random.Random(f"{asked.seed} {i}")
            name = names[i % len(names)]
            fault = injector.kill if i // len(names) % 2 == 0 else injector.flip
            outcomes.append(outcome := fault(name, chance))
            print(i, outcome.action, outcome.fault, outcome.found, outcome.detail, flush=True)
    counts: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        counts.setdefault(f"{outcome.action}, {outcome.fault}", Counter())[outcome.found] += 1
    bad = [asdict(outcome) for outcome in outcomes if outcome.found in ("lost", "wrong")]
    write_results("faults", {"rounds": asked.rounds, "seed": asked.seed, "counts": counts, "bad": bad})
    print("\n".join(evidence_tables.faults()))
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
