"""Progress on stderr, which leaves stdout for results: bars on a terminal, periodic lines in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from sparserm.types import Progress as Callback

#: Seconds between two lines where stderr is not a terminal.
LINE_EVERY_S = 60.0


class _RateColumn(ProgressColumn):
    """Recent speed, in items per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.1f}/s" if speed else "", style="progress.data.speed")


@contextmanager
def terminal_progress() -> Iterator[Callback]:
    """Yield a progress callback that draws one bar per task, or writes lines where stderr is not a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _RateColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(done: int, total: int, what: str) -> None:
            if what not in tasks:  # items done by an earlier run must not count toward the speed
                tasks[what] = bars.add_task(what, total=total, completed=done)
            bars.update(tasks[what], completed=done, total=total)

        yield progress


class _Lines:
    """Progress callback that prints one line per :data:`LINE_EVERY_S` seconds, and nothing for shorter tasks."""

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
