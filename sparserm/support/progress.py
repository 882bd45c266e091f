"""Progress on stderr, so that stdout stays for results: bars on a terminal, now and then a line in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from sparserm.types import Progress as Callback

#: Seconds between two lines where stderr is no terminal.
LINE_EVERY_S = 60.0


class _RateColumn(ProgressColumn):
    """How many a second, lately."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.1f}/s" if speed else "", style="progress.data.speed")


@contextmanager
def terminal_progress() -> Iterator[Callback]:
    """A callback that draws a bar for each kind of work while the block runs, or writes lines where stderr is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _RateColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(done: int, total: int, what: str) -> None:
            if what not in tasks:  # what an earlier run has done says nothing of the rate
                tasks[what] = bars.add_task(what, total=total, completed=done)
            bars.update(tasks[what], completed=done, total=total)

        yield progress


class _Lines:
    """A line a minute for each kind of work, none for what takes less."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun: dict[str, tuple[float, int]] = {}
        self._last = time.monotonic()

    def __call__(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        started, before = self._begun.setdefault(what, (now, done))
        if now - self._last < LINE_EVERY_S or done <= before:
            return
        self._last = now
        rate = (done - before) / max(now - started, 1e-9)
        left = timedelta(seconds=round((total - done) / rate))
        self._console.print(f"{what}: {done:,} of {total:,}, {rate:,.1f}/s, {left} left", highlight=False, soft_wrap=True)
