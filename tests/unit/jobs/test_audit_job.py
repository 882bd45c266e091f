"""The audit as a job: what is read back is what was found."""

from __future__ import annotations

import json

import pytest

from sparserm.audit.flags import audit, load_audit
from sparserm.jobs.kinds import audit_job as run
from sparserm.pairs.load import load_pairs
from sparserm.pairs.sources import DataSource
from sparserm.types import SparseRMError


class _Report:
    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, number: int, of: int, what: str) -> None:
        self.stages.append(f"{number} of {of}: {what}")


def _file(path, *prompts: str) -> DataSource:
    rows = [{"prompt": prompt, "chosen": f"yes {i}!", "rejected": "no"} for i, prompt in enumerate(prompts)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return DataSource(str(path))


def test_what_is_read_back_is_what_was_found(tmp_path) -> None:
    one, other = _file(tmp_path / "one.jsonl", "a", "b", "c"), _file(tmp_path / "other.jsonl", "b")
    report = _Report()
    run({"source": one.to_dict(), "against": other.to_dict()}, tmp_path, report)
    assert load_audit(tmp_path) == audit(load_pairs(one.name), against=load_pairs(other.name))
    assert [flag.reason for flag in load_audit(tmp_path).flags] == ["leakage"]
    assert report.stages[-1] == "2 of 2: Auditing 3 pairs"


def test_nothing_to_compare_with_and_nothing_there(tmp_path) -> None:
    run({"source": _file(tmp_path / "one.jsonl", "a").to_dict(), "against": None}, tmp_path, _Report())
    assert load_audit(tmp_path).flags == ()
    with pytest.raises(SparseRMError, match="no preference data"):
        run({"source": DataSource(str(tmp_path / "none.jsonl")).to_dict(), "against": None}, tmp_path, _Report())
