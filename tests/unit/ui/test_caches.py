"""What pages keep in memory is read again when its file changes."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from sparserm.heads.saved import load_head, save_head
from sparserm.pairs.sources import DataSource
from sparserm.support.defaults import home
from sparserm.ui.shared import context
from sparserm.ui.shared.default_pairs import read_pairs


def test_a_head_saved_anew_is_read_anew() -> None:
    saved, folder = load_head("safety"), home() / "heads" / "mine"
    save_head(saved, folder)
    before = context.read_head("mine")
    save_head(replace(saved, head=replace(saved.head, bias=1.5)), folder)
    os.utime(folder / "config.json", ns=(2**62, 2**62))
    after = context.read_head("mine")
    assert after.saved.head.bias == 1.5
    assert after.hash != before.hash


def test_pairs_written_anew_are_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    for n in (1, 2):
        rows = [{"prompt": f"{i}?", "chosen": "Yes.", "rejected": "No."} for i in range(n)]
        path.write_text("\n".join(map(json.dumps, rows)))
        os.utime(path, ns=(n, n))
        assert len(read_pairs(DataSource(str(path))).pairs) == n
