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

| client | package and version | what ran | result |
|---|---|---|---|
"""

_FOOT = """
## Not run

- vLLM and Text Embeddings Inference: servers, which SparseRM stands in for. The requests that vLLM documents are in the table.
- LangChain: has no re-ranker for Text Embeddings Inference; `langchain-huggingface` has only embeddings.
- RM-Bench: its script is not a package. Its files are recognised and scored by its published rules, which
  `tests/unit/evaluation/test_reward_benchmarks.py` checks with values computed by hand.
- lm-evaluation-harness and LightEval: they evaluate models that write text or rate its likelihood, and have no task for a
  reward model.
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
            name, shown = (report.client, f"{report.package} {report.version}".strip()) if number == 0 else ("", "")
            rows.append(f"| {name} | {shown} | {_cell(outcome.what)} | {_result(outcome)} |")
    notes = [f"- {report.client}: {report.note}." for report in reports if report.note]
    return head + "\n".join(rows) + "\n\n" + "\n".join(notes) + "\n" + _FOOT


def _result(outcome: Outcome) -> str:
    return outcome.result if not outcome.reason else f"{outcome.result}: {_cell(outcome.reason)}"


def _cell(text: str) -> str:
    """Text in a cell: on one line, at most 300 characters, without the path of this repository."""
    line = " ".join(text.replace(str(ROOT), ".").split()).replace("|", "\\|")
    return line if len(line) <= 300 else f"{line[:297]}..."
