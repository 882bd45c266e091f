"""Files scored part by part: the rewards of scoring one by one, every row once, whatever happens on the way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from sparserm.backbone.model import Backbone
from sparserm.model import SparseRM
from sparserm.pairs import part_reader, runs
from sparserm.pairs.columns import find_columns
from sparserm.pairs.files import read_path
from sparserm.pairs.parsing import parse_pairs
from sparserm.pairs.parts import cut
from sparserm.pairs.reading import read_rows
from sparserm.pairs.runs import find_source_columns, run_here
from sparserm.scoring import bulk
from sparserm.scoring.bulk import ScoringSummary, score_file, scoring_warnings
from sparserm.types import SparseRMError
from tests.unit.pairs_data import preference_rows
from tests.unit.tiny import save_tiny_sae

ROWS = [
    *preference_rows(8, 3, seed=1),
    {"prompt": "no answer", "chosen": "same", "rejected": "same"},
    {"prompt": "several", "chosen": ["please"], "rejected": ["go", "away"], "id": "x7"},
    "not an object",
    *preference_rows(6, 3, seed=2),
]
N_BAD = 2
GOOD = {"prompt": "p", "chosen": "yes please", "rejected": "go away"}


@pytest.fixture(scope="module")
def head(tmp_path_factory, tiny_backbone) -> Path:
    folder = tmp_path_factory.mktemp("bulk")
    data = parse_pairs(preference_rows(), "train")
    sae = save_tiny_sae(folder / "tiny-sae")
    model = SparseRM.fit(data, backbone=tiny_backbone, sae=sae, k=4, l2=0.1, selection="effect_size")
    model.save_pretrained(folder / "head")
    return folder / "head"


@pytest.fixture(scope="module")
def gated_head(tmp_path_factory, tiny_backbone) -> Path:
    folder = tmp_path_factory.mktemp("gated")
    sae = save_tiny_sae(folder / "tiny-sae", threshold=15)
    model = SparseRM.fit(parse_pairs(preference_rows(), "train"), backbone=tiny_backbone, sae=sae)
    assert model.head.score == "gated"
    model.save_pretrained(folder / "head")
    return folder / "head"


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture(autouse=True)
def small_parts(monkeypatch, tiny_folder, tiny_backbone):
    """Parts of four rows, scored with the tiny backbone that is loaded already."""
    monkeypatch.setattr(bulk, "cut", lambda source, **part: cut(source, 4, **part))
    monkeypatch.setattr("sparserm.model.shared_backbone", lambda *given: tiny_backbone)


def _table(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder)


@pytest.mark.parametrize("kind", ["head", "gated_head"])
def test_rewards_are_those_of_scoring_each_pair_and_no_row_is_lost(request, kind, path, tmp_path):
    head = request.getfixturevalue(kind)
    scored = score_file(path, head, tmp_path / "out")
    table = _table(tmp_path / "out")
    assert sorted(set(table["row"])) == list(range(1, len(ROWS) + 1))
    usable = table[table["problem"].isna()]
    model = SparseRM.from_pretrained(head)
    data = parse_pairs(ROWS, skip_bad=True)
    assert usable["row"].tolist() == [pair.row for pair in data.pairs]
    prompts = [pair.prompt for pair in data.pairs]
    for column, texts in (("chosen", [p.chosen for p in data.pairs]), ("rejected", [p.rejected for p in data.pairs])):
        np.testing.assert_allclose(usable[f"reward_{column}"], model.score(prompts, texts), atol=1e-5)
    np.testing.assert_allclose(usable["margin"], usable["reward_chosen"] - usable["reward_rejected"], atol=1e-12)
    assert usable["id"].dropna().tolist() == ["x7", "x7"]  # one row, two pairs
    assert scored.n_rows == len(ROWS) and scored.n_pairs == len(usable) and scored.n_unusable == N_BAD
    assert scored.accuracy == pytest.approx((usable["margin"] > 0).mean())
    assert scored.mean_margin == pytest.approx(usable["margin"].mean())


def test_rows_that_cannot_be_used_say_why_and_have_no_reward(head, path, tmp_path):
    score_file(path, head, tmp_path / "out")
    bad = _table(tmp_path / "out").dropna(subset="problem").set_index("row")
    n = 8
    assert "two different responses" in bad.loc[n + 1, "problem"]
    assert "expected an object" in bad.loc[n + 3, "problem"]
    assert bad[["reward_chosen", "reward_rejected", "margin"]].isna().all(axis=None)


def test_a_part_without_a_usable_row_is_kept_with_its_problems(head, tmp_path):
    path = tmp_path / "bad.jsonl"
    rows = [{"prompt": "p", "chosen": "a", "rejected": "a"}] * 4 + [{"prompt": "p", "chosen": "a", "rejected": "b"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    scored = score_file(path, head, tmp_path / "out")
    assert (scored.n_pairs, scored.n_unusable) == (1, 4)
    only_bad = tmp_path / "only-bad.jsonl"
    only_bad.write_text(json.dumps(rows[0]) + "\n")
    assert score_file(only_bad, head, tmp_path / "none").accuracy is None


def test_a_doubt_about_all_labels_leaves_no_row_out(head, tmp_path, monkeypatch):
    monkeypatch.setattr("sparserm.pairs.reading._MANY", 2)  # of a part
    path = tmp_path / "labels.jsonl"
    rows = [{"prompt": f"p{i}", "output_1": "a", "output_2": "b", "label": 1} for i in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    scored = score_file(path, head, tmp_path / "out")
    assert (scored.n_pairs, scored.n_unusable) == (4, 0)


def test_warnings_of_single_rows_are_those_of_reading_the_whole_file(head, tmp_path):
    rows = [{**GOOD, "chosen": f"yes {i} <|im_start|> please" if i % 3 else f"no {i}"} for i in range(10)]  # in three parts
    _scored_lines(head, tmp_path, *rows)
    found = list(scoring_warnings(tmp_path / "lines"))
    assert [one.row for one in found] == [2, 3, 5, 6, 8, 9]
    assert found == list(parse_pairs(rows).issues)


def test_what_is_said_about_a_whole_file_is_said_of_its_parts(head, tmp_path):
    thinking = {"question": "Why?", "chosen": "<think>Hm.</think>yes please", "rejected": "go away", "flipped": True}
    _scored_lines(head, tmp_path, *[{**thinking, "rejected": f"no {i}"} for i in range(5)])
    said = [(one.row, one.problem) for one in scoring_warnings(tmp_path / "lines")]
    assert said[0] == (1, "read `question` as the prompt")
    for row, count in ((1, "4 rows"), (5, "1 row")):
        assert (row, f"thinking at the beginning of responses was left out ({count})") in said
        assert any(number == row and "`flipped` is true" in problem for number, problem in said)


LATE = [
    {"system": "Be brief."},
    {"context": "A passage."},
    {"history": [["Hi", "Hello"]]},
    {"tie": True},
    {"initial_reason_steps": "First:"},
    {"chosen": '["a", "b"]'},
    {"prompt": '["p"]'},
    {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "p"}]},
    {"messages": [{"role": "user", "content": "Another prompt"}]},
    {"prompt": "yes, we go to", "chosen": "yes, we go together", "rejected": "yes, we do"},
]
FIRST = [
    GOOD,
    {**GOOD, "messages": [{"role": "user", "content": "p"}]},
    {**GOOD, "chosen": '["yes", "please"]', "rejected": '["go"]'},
    {**GOOD, "prompt": '["p"]'},
    {"prompt": "a long prompt", "chosen": "a long prompt yes", "rejected": "a long prompt no"},
]


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("late", LATE)
def test_columns_and_cells_that_only_later_parts_show_are_read_as_in_the_whole(tmp_path, late, first):
    rows = [*[first] * 6, {**GOOD, **late}, first]
    path = tmp_path / "late.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = cut(path, 4)
    columns = find_source_columns(source, {})
    assert columns == find_columns(read_path(path), {}, path.name)
    found = [pair for part in source.parts for pair in read_rows(source.read(part), columns)[0]]
    assert found == list(parse_pairs(rows, skip_bad=True).pairs)


def test_for_a_gpu_parts_are_read_ahead_and_overlap_and_give_the_same(head, path, tmp_path, monkeypatch):
    whole = score_file(path, head, tmp_path / "cpu")
    monkeypatch.setattr(part_reader, "ROWS_HERE", 1)
    monkeypatch.setattr(Backbone, "on_gpu", True)
    monkeypatch.setattr(part_reader, "_started", mock.Mock(wraps=part_reader._started))
    monkeypatch.setattr(runs, "in_order", mock.Mock(wraps=runs.in_order))
    seen: list[int] = []

    def cancel(done, total, what):
        seen.append(done)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_file(path, head, tmp_path / "gpu", progress=cancel)
    again = score_file(path, head, tmp_path / "gpu")
    assert part_reader._started.called and runs.in_order.called
    assert seen == [4, 8] and again.n_done_before >= 8
    assert (again.accuracy, again.n_pairs) == (whole.accuracy, whole.n_pairs)
    pd.testing.assert_frame_equal(_table(tmp_path / "gpu"), _table(tmp_path / "cpu"))
    assert list(scoring_warnings(tmp_path / "gpu")) == list(scoring_warnings(tmp_path / "cpu"))


@pytest.mark.parametrize("stop_after", [0, 1, 3])
def test_interrupted_work_goes_on_and_ends_as_if_it_had_not_been(head, path, tmp_path, stop_after):
    whole = score_file(path, head, tmp_path / "whole")

    def stop(scoring, parts, finished):
        run_here(scoring, parts[:stop_after], finished)
        (scoring.out / ".part-000009.parquet.1").write_bytes(b"half of a part")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_file(path, head, tmp_path / "out", engine=stop)
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("part-*")}
    assert len(kept) == stop_after
    again = score_file(path, head, tmp_path / "out")
    assert {file: file.stat().st_mtime_ns for file in kept} == kept  # not scored again
    assert again.n_done_before == 4 * stop_after
    pd.testing.assert_frame_equal(_table(tmp_path / "out"), _table(tmp_path / "whole"))
    assert (again.accuracy, again.n_pairs) == (whole.accuracy, whole.n_pairs)


def test_progress_counts_rows_those_of_an_earlier_run_too(head, path, tmp_path):
    seen: list[tuple[int, int]] = []
    score_file(path, head, tmp_path / "out", progress=lambda done, total, what: seen.append((done, total)))
    assert seen[-1] == (len(ROWS), len(ROWS)) and seen == sorted(seen)
    for file in sorted((tmp_path / "out").glob("part-*"))[:1]:
        file.unlink()
    seen.clear()
    score_file(path, head, tmp_path / "out", progress=lambda done, total, what: seen.append((done, total)))
    assert seen == [(len(ROWS), len(ROWS))]


def test_a_finished_folder_is_only_read(head, path, tmp_path, monkeypatch):
    first = score_file(path, head, tmp_path / "out")
    monkeypatch.setattr(bulk.Scoring, "run", lambda *given: pytest.fail("scored again"))
    again = score_file(path, head, tmp_path / "out")
    assert (again.accuracy, again.n_pairs, again.n_done_before) == (first.accuracy, first.n_pairs, len(ROWS))


def test_a_folder_of_something_else_is_left_alone(head, path, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(SparseRMError, match="holds no scores; expected a new folder"):
        score_file(path, head, tmp_path / "full")
    score_file(path, head, tmp_path / "out")
    before = _table(tmp_path / "out")
    path.write_text(path.read_text() + json.dumps(ROWS[0]) + "\n")
    with pytest.raises(SparseRMError, match="holds scores of content hash"):
        score_file(path, head, tmp_path / "out")
    pd.testing.assert_frame_equal(_table(tmp_path / "out"), before)


def test_a_head_with_other_weights_is_another_scoring(head, path, tmp_path, tiny_backbone):
    score_file(path, head, tmp_path / "out")
    folder = head.parent / "tiny-sae"
    data = parse_pairs(preference_rows(), "train")
    other = SparseRM.fit(data, backbone=tiny_backbone, sae=folder, k=3, l2=0.1, selection="effect_size")
    other.save_pretrained(tmp_path / "head")
    with pytest.raises(SparseRMError, match="head hash"):
        score_file(path, tmp_path / "head", tmp_path / "out")


def _scored_lines(head: Path, tmp_path: Path, *rows: object) -> tuple[ScoringSummary, pd.DataFrame]:
    path = tmp_path / "lines.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return score_file(path, head, tmp_path / "lines"), _table(tmp_path / "lines")


def test_what_only_the_backbone_refuses_is_a_problem_of_its_row(head, tmp_path, tiny_backbone, monkeypatch):
    refused = "alternating user and assistant turns"

    def render(roles, generation=True):
        if roles[:2] == ("user", "user"):
            raise SparseRMError(refused)
        return pieces(roles, generation)

    pieces = tiny_backbone.chat._pieces
    monkeypatch.setattr(tiny_backbone.chat, "_pieces", render)
    twice = {**GOOD, "prompt": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}
    scored, table = _scored_lines(head, tmp_path, GOOD, GOOD, twice, GOOD, GOOD)
    assert (scored.n_pairs, scored.n_unusable) == (4, 1)
    assert table.set_index("row").loc[3, "problem"] == refused


def test_columns_are_those_of_the_whole_wherever_a_part_begins(head, tmp_path):
    """A part whose rows lack the prompt has no implied prompt where the source has a column of prompts."""
    without = {"chosen": "the answer is yes", "rejected": "the answer is no"}
    other = {"question": "of another schema"}
    scored, table = _scored_lines(head, tmp_path, *[GOOD] * 4, *[without] * 4, *[other] * 4, GOOD)
    assert (scored.n_pairs, scored.n_unusable) == (5, 8)
    assert table.set_index("row").loc[[5, 9], "problem"].str.contains("is missing from this row").all()


def test_half_characters_in_ids_do_not_stop_the_work(head, tmp_path):
    scored, table = _scored_lines(head, tmp_path, {**GOOD, "id": "a\ud800"}, GOOD)
    assert scored.n_pairs == 2 and table["id"][0] == "a?"


def test_a_file_without_a_readable_row_says_why(head, tmp_path):
    with pytest.raises(SparseRMError, match=r"none of 2 rows can be read .*not valid JSON"):
        _scored_lines(head, tmp_path, "no", "no")


def test_a_first_try_that_scored_nothing_does_not_claim_the_folder(head, path, tmp_path):
    with pytest.raises(SparseRMError, match="has no column"):
        score_file(path, head, tmp_path / "out", columns={"prompt": "nothing"})

    def nothing(scoring, parts, finished):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_file(path, head, tmp_path / "out", columns={"rejected": "chosen"}, engine=nothing)
    assert score_file(path, head, tmp_path / "out").n_rows == len(ROWS)


def test_parts_of_another_size_are_not_mixed(head, path, tmp_path, monkeypatch):
    score_file(path, head, tmp_path / "out")
    monkeypatch.setattr(bulk, "cut", lambda source, **part: cut(source, 5, **part))
    with pytest.raises(SparseRMError, match="part rows 4, expected 5"):
        score_file(path, head, tmp_path / "out")


def _flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 4] ^= 1
    file.write_bytes(data)


DAMAGES = {
    "empty": lambda file: file.write_bytes(b""),
    "flipped": _flipped,
    "another part": lambda file: file.write_bytes((file.parent / "part-000000.parquet").read_bytes()),
    "fewer rows": lambda file: pq.write_table(pq.read_table(file).slice(1), file),
    "other columns": lambda file: pq.write_table(pq.read_table(file).drop_columns("margin"), file),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_part_is_scored_again(head, path, tmp_path, damage):
    before = score_file(path, head, tmp_path / "out")
    table = _table(tmp_path / "out")
    damage(tmp_path / "out" / "part-000001.parquet")
    after = score_file(path, head, tmp_path / "out")
    pd.testing.assert_frame_equal(_table(tmp_path / "out"), table)
    assert (after.n_pairs, after.accuracy) == (before.n_pairs, before.accuracy)


def test_a_part_that_the_source_does_not_have_is_refused(head, path, tmp_path):
    score_file(path, head, tmp_path / "out")
    shutil.copy(tmp_path / "out" / "part-000000.parquet", tmp_path / "out" / "part-000099.parquet")
    with pytest.raises(SparseRMError, match=r"holds part-000099\.parquet"):
        score_file(path, head, tmp_path / "out")


def test_parts_of_earlier_versions_are_kept(head, path, tmp_path, monkeypatch):
    score_file(path, head, tmp_path / "out")
    for file in (tmp_path / "out").glob("part-*.parquet"):
        pq.write_table(pq.read_table(file).replace_schema_metadata(None), file)
    monkeypatch.setattr("sparserm.scoring.bulk.score_part", lambda *_: pytest.fail("scored again"))
    score_file(path, head, tmp_path / "out")
    assert not list(scoring_warnings(tmp_path / "out"))


def test_machines_that_compute_in_another_dtype_are_refused(head, path, tmp_path, tiny_folder, monkeypatch):
    def other_machine(scoring, parts, finished):
        monkeypatch.setattr("sparserm.model.shared_backbone", lambda *given: Backbone.load(tiny_folder, dtype="bfloat16"))
        run_here(scoring, parts, finished)

    with pytest.raises(SparseRMError, match=r"computes in torch\.bfloat16 on this machine, expected torch\.float32"):
        score_file(path, head, tmp_path / "out", engine=other_machine)


def test_columns_are_named_as_everywhere(head, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"q": f"p{i}", "chosen": "yes", "rejected": "no"}) + "\n" for i in range(6)))
    scored: ScoringSummary = score_file(path, head, tmp_path / "out", columns={"prompt": "q"})
    assert scored.n_pairs == 6
    with pytest.raises(SparseRMError, match="has no column 'chose'"):
        score_file(path, head, tmp_path / "other", columns={"prompt": "q", "chosen": "chose"})


def test_nothing_goes_into_the_store(head, path, tmp_path, sparserm_home):
    score_file(path, head, tmp_path / "out")
    assert not list(sparserm_home.rglob("*.sqlite"))
