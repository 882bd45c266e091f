"""Progress: lines with rate and time left in a log, none for short work, and nothing on stdout."""

from __future__ import annotations

import pytest

from sparserm.support import progress as module
from sparserm.support.progress import terminal_progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_log_has_a_line_a_minute_with_rate_and_time_left(clock, capsys):
    with terminal_progress() as progress:
        for second in range(0, 150, 10):
            clock[0] = 100.0 + second
            progress(1000 + 5 * second, 4000, "Scores (rows)")  # an earlier run had done 1000
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "Scores (rows): 1,300 of 4,000, 5.0/s, 0:09:00 left",
        "Scores (rows): 1,600 of 4,000, 5.0/s, 0:08:00 left",
    ]


def test_short_work_says_nothing_in_a_log(clock, capsys):
    with terminal_progress() as progress:
        for done in range(100):
            clock[0] += 0.5
            progress(done, 100, "Representations (responses)")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_has_bars(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with terminal_progress() as progress:
        progress(3, 9, "Scores (rows)")
    out, err = capsys.readouterr()
    assert out == "" and "Scores (rows)" in err and "3/9" in err
