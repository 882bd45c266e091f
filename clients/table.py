"""``docs/compatibility.md``, from the reports of all clients."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Sequence
from importlib.metadata import version

from clients.environment import ROOT
from clients.kinds import Outcome, Report

FILE = ROOT / "docs" / "compatibility.md"

_HEAD = """\
# Clients that were run

Written by `make clients`, which runs each client for real: in a virtual environment of its own, against `sparserm serve
truthfulness safety` or on an exported head. Rewards are compared with those of `SparseRM.score`.

{date}, SparseRM {sparserm}, Python {python}, transformers {transformers}, PyTorch {torch}.

| client | version | what ran | result |
|---|---|---|---|
"""

_FOOT = """
## Not run

| | reason |
|---|---|
| vLLM, Text Embeddings Inference | Servers, not clients: SparseRM answers in their place. vLLM's documented requests are in the table |
| LangChain | Has no re-ranker for Text Embeddings Inference: `langchain-huggingface` has only embeddings |
| RM-Bench | Is not on PyPI. Its files are recognised and scored by its published rules, with hand-computed values in `tests/unit/evaluation/test_reward_benchmarks.py` |
| lm-evaluation-harness, LightEval | Evaluate models that write or rank continuations by their likelihood; neither has a task for a reward model |
"""


def markdown(reports: Sequence[Report]) -> str:
    """The page: a row for every check, in the order of the clients."""
    head = _HEAD.format(
        date=datetime.date.today().isoformat(),
        python=platform.python_version(),
        **{name: version(name) for name in ("sparserm", "transformers", "torch")},
    )
    rows = []
    for report in reports:
        for number, outcome in enumerate(report.outcomes):
            name, shown = (report.client, report.version) if number == 0 else ("", "")
            rows.append(f"| {name} | {shown} | {_cell(outcome.what)} | {_result(outcome)} |")
    notes = [f"- {report.client}: {report.note}." for report in reports if report.note]
    return head + "\n".join(rows) + "\n\n" + "\n".join(notes) + "\n" + _FOOT


def _result(outcome: Outcome) -> str:
    return outcome.result if not outcome.reason else f"{outcome.result}: {_cell(outcome.reason)}"


def _cell(text: str) -> str:
    """Text in a cell: on one line, at most 300 characters, without the path of this repository."""
    line = " ".join(text.replace(str(ROOT), ".").split()).replace("|", "\\|")
    return line if len(line) <= 300 else f"{line[:297]}..."
