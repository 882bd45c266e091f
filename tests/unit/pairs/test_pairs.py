"""Pairs: every form is understood, every row becomes a pair or a finding, every error says how to fix it."""

from __future__ import annotations

import csv
import gc
import gzip
import io
import json
import random
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparserm.pairs.cells import is_blank
from sparserm.pairs.files import list_data_files
from sparserm.pairs.load import load_pairs
from sparserm.pairs.messages import as_prompt, as_response
from sparserm.pairs.parsing import PairsError, parse_pairs
from sparserm.pairs.split import check_leakage, content_hash, prompt_key, split_by_prompt
from sparserm.pairs.templates import spoken
from sparserm.types import Message, PairIssue, PreferenceData, PreferencePair, SparseRMError

ROWS = [
    {"prompt": "How do I boil an egg?", "chosen": "Ten minutes, in water.", "rejected": "No idea."},
    {"prompt": 'Say "hi", please', "chosen": "Hi,\nthere — naïve ☕", "rejected": "NA"},
    {"prompt": "Count to two", "chosen": "1, 2", "rejected": "2"},
]
USER, ANSWER, OTHER = Message("user", "Hello?"), "Good day.", "Go away."
U, A, B = ({"role": role, "content": text} for role, text in (("user", "Hello?"), ("assistant", ANSWER), ("assistant", OTHER)))


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch):
    monkeypatch.delenv("SPARSERM_DATA", raising=False)


def jsonl(rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def csv_bytes(rows, delimiter=",") -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(
        {key: value if isinstance(value, str) else json.dumps(value) for key, value in row.items()} for row in rows
    )
    return out.getvalue().encode()


def parquet_bytes(rows) -> bytes:
    out = io.BytesIO()
    pd.DataFrame(rows).to_parquet(out)
    return out.getvalue()


FORMATS = {
    "a.jsonl": jsonl,
    "a.jsonl.gz": lambda rows: gzip.compress(jsonl(rows)),
    "a.json": lambda rows: json.dumps(rows, indent=2).encode(),
    "lines.json": jsonl,
    "a.csv": csv_bytes,
    "bom.csv": lambda rows: b"\xef\xbb\xbf" + csv_bytes(rows),
    "semicolon.csv": lambda rows: csv_bytes(rows, delimiter=";"),
    "a.tsv": lambda rows: csv_bytes(rows, delimiter="\t"),
    "a.parquet": parquet_bytes,
}


def load_bytes(data: bytes, filename: str, **kwargs) -> PreferenceData:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, filename)
        path.write_bytes(data)
        return load_pairs(path, **kwargs)


def only(row, **kwargs) -> PreferencePair:
    return parse_pairs([row], **kwargs).pairs[0]


def problem_of(row, **kwargs):
    with pytest.raises(PairsError) as caught:
        parse_pairs([row], **kwargs)
    return caught.value.issues[0]


# ---------------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("filename", FORMATS)
def test_every_format_gives_the_same_pairs(filename, tmp_path):
    path = tmp_path / filename
    path.write_bytes(FORMATS[filename](ROWS))
    data = load_pairs(path)
    assert [(pair.prompt[0].content, pair.chosen, pair.rejected) for pair in data.pairs] == [
        tuple(row.values()) for row in ROWS
    ]
    assert [pair.row for pair in data.pairs] == [1, 2, 3]
    kept = PairIssue(2, "rejected", "is the text 'NA', which may be a missing value", "warning")
    assert (data.name, data.n_rows, data.n_skipped, data.issues) == (filename, 3, 0, (kept,))
    assert data.content_hash == parse_pairs(ROWS).content_hash


@pytest.mark.parametrize("filename", FORMATS)
def test_message_lists_survive_every_format(filename):
    rows = [{"prompt": [U], "chosen": [A], "rejected": [B]}, {"prompt": [U], "chosen": [B], "rejected": [A]}]
    data = load_bytes(FORMATS[filename](rows), filename)
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in data.pairs] == [
        ((USER,), ANSWER, OTHER),
        ((USER,), OTHER, ANSWER),
    ]


def test_rows_as_pandas_gives_them_back_from_parquet():
    frame = pd.read_parquet(io.BytesIO(parquet_bytes([{"prompt": [U], "chosen": [A], "rejected": [B]}])))
    assert isinstance(frame["chosen"][0], np.ndarray)
    assert parse_pairs(frame.to_dict("records")).pairs == (PreferencePair((USER,), ANSWER, OTHER, 1),)


def test_saved_dataset_and_its_splits(tmp_path):
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_list(ROWS)
    dataset.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": dataset, "test": dataset.select([0])}).save_to_disk(str(tmp_path / "both"))
    assert load_pairs(tmp_path / "one").content_hash == parse_pairs(ROWS).content_hash
    assert len(load_pairs(str(tmp_path / "both"), split="test").pairs) == 1
    assert len(parse_pairs(dataset).pairs) == 3
    with pytest.raises(SparseRMError, match="no split 'dev': expected one of train, test"):
        load_pairs(tmp_path / "both", split="dev")
    (tmp_path / "one" / "state.json").write_text("{")
    with pytest.raises(SparseRMError, match="cannot read the saved dataset"):
        load_pairs(tmp_path / "one")


def test_a_csv_answer_that_looks_empty_to_pandas_is_kept_and_questioned():
    data = load_bytes(b"prompt,chosen,rejected\nHow many moons has Venus?,None,NaN\n", "a.csv")
    assert (data.pairs[0].chosen, data.pairs[0].rejected) == ("None", "NaN")
    assert [(issue.column, issue.severity) for issue in data.issues] == [("chosen", "warning"), ("rejected", "warning")]


def test_a_cell_longer_than_pythons_csv_limit():
    assert len(load_bytes(csv_bytes([{**ROWS[0], "chosen": "word " * 60_000}]), "a.csv").pairs[0].chosen) == 300_000


# ------------------------------------------------------------------------------------------------------------ forms


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hello?", "chosen": ANSWER, "rejected": OTHER},
        {"prompt": [U], "chosen": [A], "rejected": [B]},
        {"prompt": [U], "chosen": ANSWER, "rejected": OTHER},
        {"prompt": "Hello?", "chosen": [A], "rejected": [B]},
        {"prompt": [U], "chosen": [U, A], "rejected": [U, B]},
        {"prompt": "Hello?", "chosen": [U, A], "rejected": [U, B]},
        {"prompt": "Hello?", "chosen": [U, A], "rejected": [B]},
        {"chosen": [U, A], "rejected": [U, B]},
        {"chosen": {"role": ["user", "assistant"], "content": ["Hello?", ANSWER]}, "rejected": [U, B]},
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "Hello?"}]}], "chosen": A, "rejected": B},
        {"chosen": f"\n\nHuman: Hello?\n\nAssistant: {ANSWER}", "rejected": f"\n\nHuman: Hello?\n\nAssistant: {OTHER}"},
        {"prompt": "\n\nHuman: Hello?\n\nAssistant:", "chosen": f" {ANSWER}", "rejected": f" {OTHER}"},
        {
            "conversations": [{"from": "human", "value": "Hello?"}],
            "chosen": {"from": "gpt", "value": ANSWER},
            "rejected": {"from": "GPT", "value": OTHER},
        },
        {"conversations": [{"role": "Human", "content": "Hello?"}], "chosen": A, "rejected": {"from": "bot", "value": OTHER}},
        {"chosen": f"Hello? {ANSWER}", "rejected": f"Hello? {OTHER}"},
    ],
)
def test_every_form_means_the_same_pair(row):
    pair = only(row)
    if isinstance(row["chosen"], str) and row["chosen"].startswith("Hello?"):  # both answers begin with "Go"
        assert pair.prompt == (USER,)
    assert pair == PreferencePair((USER,), ANSWER, OTHER, 1)


def test_conversations_keep_their_turns():
    turns = [Message("system", "Be kind."), USER, Message("assistant", "Yes?"), Message("user", "Sing")]
    as_rows = [{"from": {"user": "human", "assistant": "gpt"}.get(t.role, t.role), "value": t.content} for t in turns]
    assert only({"conversations": as_rows, "chosen": A, "rejected": B}).prompt == tuple(turns)
    hh = "\n\nHuman: Hello?\n\nAssistant: Yes?\n\nHuman: Sing\n\nAssistant: "
    assert only({"chosen": hh + "La", "rejected": hh + "No"}) == PreferencePair(tuple(turns[1:]), "La", "No", 1)
    # UltraFeedback repeats the prompt in the messages; a system turn stands only there.
    system = {"role": "system", "content": "Be kind."}
    assert only({"prompt": "Hello?", "chosen": [system, U, A], "rejected": [system, U, B]}).prompt == tuple(turns[:2])


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt", "answers"),
    [
        ("The pet is a cat", "The pet is a car", "The pet is a", ("cat", "car")),
        ("Why?\nBecause.", "Why?\nNo.", "Why?", ("Because.", "No.")),
        ("Name it: A b c", "Name it: A b", "Name it: A", ("b c", "b")),
    ],
)
def test_a_prompt_implied_by_strings_ends_between_words(chosen, rejected, prompt, answers):
    data = parse_pairs([{"chosen": chosen, "rejected": rejected}])
    assert data.pairs == (PreferencePair((Message("user", prompt),), *answers, 1),)
    assert data.issues[0].severity == "warning" and "no prompt column" in data.issues[0].problem


def test_columns_maps_our_names_to_theirs():
    row = {"question": "Hello?", "best": ANSWER, "worst": OTHER, "prompt": "not this one"}
    names = {"prompt": "question", "chosen": "best", "rejected": "worst"}
    assert only(row, columns=names) == PreferencePair((USER,), ANSWER, OTHER, 1)
    assert problem_of({**row, "best": ""}, columns=names).column == "best"
    with pytest.raises(SparseRMError, match="expected names among prompt, chosen"):
        parse_pairs([row], columns={"question": "prompt"})
    with pytest.raises(SparseRMError, match="no column 'frage'"):
        parse_pairs([row], columns={**names, "prompt": "frage"})


# ------------------------------------------------------------------------------------------------------- validation

GOOD = {"prompt": "Hello?", "chosen": ANSWER, "rejected": OTHER}
TURNS = {"prompt": [U], "chosen": [A], "rejected": [B]}


@pytest.mark.parametrize(
    ("row", "column", "problem"),
    [
        ({**GOOD, "prompt": " \n"}, "prompt", "is empty"),
        ({**GOOD, "chosen": ""}, "chosen", "is empty"),
        ({**GOOD, "rejected": None}, "rejected", "is empty (None)"),
        ({**GOOD, "rejected": float("nan")}, "rejected", "is empty (nan)"),
        ({**GOOD, "rejected": pd.NA}, "rejected", "is empty (<NA>)"),
        ({**GOOD, "rejected": f" {ANSWER}\n"}, "rejected", "equals chosen"),
        ({**GOOD, "chosen": 5}, "chosen", "is int 5, expected text or a list of messages"),
        ({**GOOD, "chosen": True}, "chosen", "is bool True"),
        ({**GOOD, "chosen": []}, "chosen", "is an empty list"),
        ({**GOOD, "chosen": ["Hi", 1]}, "chosen", "message 1 is text 'Hi', expected an object with role and content"),
        ({**GOOD, "chosen": "a \ud83d b"}, "chosen", "broken Unicode"),
        ({**TURNS, "prompt": [{"role": "wizard", "content": "x"}]}, "prompt", "role text 'wizard', expected system"),
        ({**TURNS, "prompt": [{"content": "x"}, {"content": "y"}]}, "prompt", "message 1 has the role empty (None)"),
        ({**TURNS, "prompt": [{"role": "user"}]}, "prompt", "message 1 has the content empty (None)"),
        ({**TURNS, "prompt": [U, A]}, "prompt", "ends with a message from the assistant"),
        ({**TURNS, "prompt": [{"role": "user", "content": " "}]}, "prompt", "is empty: its last message has no text"),
        ({**TURNS, "chosen": [U]}, "chosen", "ends with a user message"),
        ({**TURNS, "chosen": [{"role": "assistant", "content": ""}]}, "chosen", "is empty"),
        ({**TURNS, "chosen": [A, U, A]}, "chosen", "has 3 messages (assistant, user, assistant)"),
        ({**TURNS, "chosen": [U, A, A]}, "chosen", "has 3 messages"),
        ({"chosen": [A], "rejected": [B]}, "chosen", "share no first message"),
        ({"chosen": [U, A, U, A], "rejected": [U, B]}, "chosen", "has 3 messages"),
        ({"chosen": "Yes", "rejected": "No"}, "chosen", "begin with no words in common"),
        ({"chosen": "Yes", "rejected": "Yes"}, "chosen", "begin with no words in common"),
        ({"chosen": [U, A], "rejected": "No"}, "chosen", "differ in form"),
    ],
)
def test_a_bad_row_is_named_with_its_column(row, column, problem):
    """The good rows before it make the bad one row 2."""
    good = {key: value for key, value in (GOOD if "prompt" in row else {"chosen": [U, A], "rejected": [U, B]}).items()}
    with pytest.raises(PairsError) as caught:
        parse_pairs([good, row], "mine")
    (issue,) = caught.value.issues
    assert (issue.row, issue.column, issue.severity) == (2, column, "error")
    assert problem in issue.problem
    assert str(issue) in str(caught.value)
    data = parse_pairs([good, row], "mine", skip_bad=True)
    assert (data.n_rows, data.n_skipped, data.issues) == (2, 1, (issue,))


def test_the_message_counts_shows_three_and_says_how_to_go_on():
    bad = [{**GOOD, "chosen": ""}] * 5
    with pytest.raises(PairsError) as caught:
        parse_pairs([GOOD, *bad], "mine")
    message = str(caught.value)
    assert message.startswith("mine: 5 of 6 rows cannot be used (row 2, column chosen: is empty; row 3,")
    assert "and 2 more" in message and "row 5" not in message and "\n" not in message
    assert "pass skip_bad=True (--skip-bad on the command line)" in message
    assert len(caught.value.issues) == 5
    with pytest.raises(PairsError, match=r"5 of 5 rows .* no usable rows"):
        parse_pairs(bad, skip_bad=True)


def test_missing_columns_are_named_with_those_that_are_there():
    with pytest.raises(
        SparseRMError, match=r"no column 'chosen', 'rejected': it has 'q', 'good', 'bad'; map its columns"
    ) as caught:
        parse_pairs([{"q": "x", "good": "y", "bad": "z"}])
    assert not isinstance(caught.value, PairsError)
    assert problem_of({"prompt": "x", "chosen": "y"} | {"rejected": "z", "chosen": None}).column == "chosen"
    with pytest.raises(PairsError, match="row 2, column prompt: is missing from this row"):
        parse_pairs([GOOD, {"chosen": "y", "rejected": "z"}])


def test_broken_json_names_the_line():
    lines = b'\n{"prompt": "x", "chosen": \n\n[1]\n' + jsonl([GOOD])
    data = load_bytes(lines, "a.jsonl", skip_bad=True)
    assert (data.n_rows, len(data.pairs), data.pairs[0].row) == (3, 1, 3)
    assert "line 2 is not valid JSON" in data.issues[0].problem and data.issues[0].row == 1
    assert "is list, expected an object" in data.issues[1].problem and data.issues[1].row == 2
    with pytest.raises(SparseRMError, match=r"a\.json is not valid JSON .*line 1 column 2"):
        load_bytes(b"[oops]", "a.json")


def test_wrong_encoding_names_the_byte_and_the_remedy():
    start = jsonl([GOOD])
    data = load_bytes(
        start + jsonl([{**GOOD, "chosen": "caf\xe9"}]).decode().encode("latin-1") + start, "a.jsonl", skip_bad=True
    )
    offset = len(start) + len('{"prompt": "Hello?", "chosen": "caf')
    assert data.issues[0].row == 2 and f"byte 0xE9 at offset {offset} of the file" in data.issues[0].problem
    assert "iconv" in data.issues[0].problem
    table = b'prompt,chosen,rejected\nHello?,"two\nlines",no\nHello?,caf\xe9,no\nHello?,tea,no\n'
    data = load_bytes(b"\xef\xbb\xbf" + table, "a.csv", skip_bad=True)
    assert [pair.row for pair in data.pairs] == [1, 3]
    assert data.issues[0].row == 2
    assert f"line 4: not UTF-8 (byte 0xE9 at offset {table.index(0xE9) + 3} of the file)" in data.issues[0].problem
    with pytest.raises(SparseRMError, match="byte 0xE9 at offset"):
        load_bytes(b'[{"chosen": "\xe9"}]', "a.json")
    assert load_bytes(start.decode().encode("utf-16"), "a.jsonl").pairs == load_bytes(start, "a.jsonl").pairs
    with pytest.raises(SparseRMError, match="expected UTF-8"):  # without the mark that says so
        load_bytes(start.decode().encode("utf-16-le"), "a.jsonl")


@pytest.mark.parametrize(
    ("data", "filename", "problem"),
    [
        (b"", "a.jsonl", "has no rows"),
        (b"\n \n", "a.jsonl", "has no rows"),
        (b"[]", "a.json", "has no rows"),
        (b"prompt,chosen,rejected\n", "a.csv", "has no rows"),
        (b"chosen,chosen,rejected\na,b,c\n", "a.csv", "more than one column 'chosen'"),
        (b'prompt,chosen,rejected\nx,y,"never closed\nx,y,z\n', "a.csv", "broken CSV"),
        (b"PAR1 but not really", "a.parquet", "not a readable Parquet file"),
        (b"\x1f\x8b\x08 cut short", "a.jsonl.gz", "broken gzip file"),
        (gzip.compress(b"x" * 1000, mtime=0)[:-9], "a.jsonl.gz", "broken gzip file"),
        (b"hello", "a.docx", "unsupported format: expected one of .jsonl"),
    ],
)
def test_a_file_that_is_broken_as_a_whole(data, filename, problem):
    with pytest.raises(SparseRMError, match=problem):
        load_bytes(data, filename, skip_bad=True)


def test_csv_rows_of_the_wrong_width_are_found_and_messages_in_pythons_print_format_read():
    table = b"prompt,chosen,rejected\nx,y,z,,\nx,y, and more,z\nx,y\n" + b"x,\"[{'role': 'assistant', 'content': 'a'}]\",z\n"
    data = load_bytes(table + b"x,\"[{'role': 'assistant', \",z\n", "a.csv", skip_bad=True)
    assert [(issue.row, issue.column) for issue in data.issues] == [(2, "(whole row)"), (3, "(whole row)"), (5, "chosen")]
    assert "has 4 cells, the header has 3" in data.issues[0].problem and "save it as JSON" in data.issues[2].problem
    assert [pair.chosen for pair in data.pairs] == ["y", "a"]


def test_duplicates_and_reversed_preferences_are_kept_and_warned_of():
    reverse = {**GOOD, "chosen": OTHER, "rejected": ANSWER}
    data = parse_pairs([GOOD, {**GOOD, "prompt": "Else?"}, GOOD, reverse])
    assert len(data.pairs) == 4
    assert [(issue.row, issue.severity) for issue in data.issues] == [(3, "warning"), (4, "warning")]
    assert "repeats row 1" in data.issues[0].problem and "row 1 rejects" in data.issues[1].problem


# ---------------------------------------------------------------------------------------------------------- sources


def test_names_under_the_data_folder(tmp_path, monkeypatch):
    (tmp_path / "safety").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "safety" / "mild.train.jsonl").write_bytes(jsonl(ROWS))
    (tmp_path / "safety" / "table.csv").write_bytes(csv_bytes(ROWS))
    (tmp_path / "safety" / "cols.parquet").write_bytes(parquet_bytes(ROWS))
    (tmp_path / "safety" / "mapped.jsonl").write_bytes(jsonl([{"q": "x", "good": "y", "bad": "z"}]))
    chat = [{"messages": [{"role": "user", "content": 'what do "chosen": and "rejected": mean?'}]}]
    (tmp_path / "other" / "chat.jsonl.gz").write_bytes(gzip.compress(jsonl(chat)))
    (tmp_path / "notes.txt").write_text("chosen rejected")
    assert list_data_files() == {}
    monkeypatch.setenv("SPARSERM_DATA", str(tmp_path))
    assert list(list_data_files()) == ["safety/cols.parquet", "safety/mild.train.jsonl", "safety/table.csv"]
    for name in ("safety/mild.train.jsonl", "safety/mild.train", "mild.train.jsonl", "mild.train"):
        assert load_pairs(name).content_hash == parse_pairs(ROWS).content_hash
    assert len(load_pairs("mapped", columns={"prompt": "q", "chosen": "good", "rejected": "bad"}).pairs) == 1
    (tmp_path / "other" / "mild.train.jsonl").write_bytes(jsonl(ROWS))
    with pytest.raises(SparseRMError, match=r"matches several files .* other/mild.train.jsonl, safety/mild.train.jsonl"):
        load_pairs("mild.train")


def test_a_file_wins_over_a_starter_set_and_a_folder_does_not(tmp_path, monkeypatch):
    assets = tmp_path / "assets"
    (assets / "pairs").mkdir(parents=True)
    (assets / "pairs" / "safety.jsonl").write_bytes(jsonl(ROWS))
    monkeypatch.setattr("sparserm.pairs.load.assets_dir", lambda: assets)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    Path("safety").mkdir()
    assert (load_pairs("safety").name, len(load_pairs("safety").pairs)) == ("safety", 3)
    Path("safety").rmdir()
    Path("safety").write_bytes(jsonl(ROWS[:1]))
    assert len(load_pairs("safety").pairs) == 1


def test_what_was_tried_is_said_where_nothing_is_found(monkeypatch):
    import datasets

    asked = []

    def refuse(name, split):
        asked.append((name, split))
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    monkeypatch.setattr("sparserm.pairs.datasets._ask_hub", lambda name: None)
    for mistyped in ("nope.jsonl", "folder/nope.csv", "a b c", "../x/y/z", "\0", "x" * 5000, "~nobody-here/x", ""):
        with pytest.raises(SparseRMError):
            load_pairs(mistyped)
    assert asked == []
    with pytest.raises(SparseRMError) as caught:
        load_pairs("some-owner/some-set", split="dev")
    assert asked[-1] == ("some-owner/some-set", "dev")
    for part in (
        "not a file",
        "SPARSERM_DATA (available: none)",
        "starter set (truthfulness, ",
        "ConnectionError: no route to",
    ):
        assert part in str(caught.value)


def test_an_unreachable_hub_is_asked_once_unless_the_dataset_is_in_the_cache(monkeypatch, tmp_path):
    import datasets

    def unreachable(name):
        raise ConnectionError("no network")

    monkeypatch.setattr("sparserm.pairs.datasets._ask_hub", unreachable)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: datasets.Dataset.from_list(ROWS))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    with pytest.raises(SparseRMError, match="ConnectionError: no network"):
        load_pairs("owner/MySet")
    (tmp_path / "owner___my_set").mkdir()
    assert len(load_pairs("owner/MySet").pairs) == 3


def test_a_dataset_name_is_loaded_with_its_split(monkeypatch):
    import datasets

    monkeypatch.setattr("sparserm.pairs.datasets._ask_hub", lambda name: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: datasets.Dataset.from_list(ROWS[: 1 + (split == "b")]))
    assert len(load_pairs("owner/set", split="b").pairs) == 2
    assert load_pairs("owner/set").name == "owner/set"


# --------------------------------------------------------------------------------------------- prompts and responses


def test_prompts_and_responses_in_every_form():
    assert as_prompt("Hello?") == as_prompt([U]) == as_prompt([USER]) == as_prompt((USER,)) == (USER,)
    assert as_prompt([{"from": "human", "value": "Hello?"}]) == (USER,)
    assert as_response(ANSWER) == as_response([A]) == as_response([{"from": "gpt", "value": ANSWER}]) == ANSWER
    for bad in ("", " ", [], [A], [{"role": "x", "content": "y"}], 5, None, "\ud800"):
        with pytest.raises(SparseRMError, match=r"^prompt .*pass text, or messages"):
            as_prompt(bad)  # type: ignore[arg-type]
    for bad in ("", [], [U], [U, A], [A, A], {"role": "assistant"}, 5, None):
        with pytest.raises(SparseRMError, match=r"^response .*pass text, or one assistant message"):
            as_response(bad)  # type: ignore[arg-type]


def test_prompt_key_sets_white_space_aside_and_nothing_else():
    assert prompt_key("Hello? ") == prompt_key("Hello?") == prompt_key((USER,))
    assert prompt_key("Hello?") != prompt_key("hello?")
    assert prompt_key((USER, USER)) != prompt_key((USER,))
    assert prompt_key("Hello?") == "484bb7423314dc4c7c9e19fc59c88034"  # stored splits rely on it


def test_leakage_names_the_rows_of_the_test_data():
    train = parse_pairs([GOOD, {**GOOD, "prompt": "Else?"}], "my-train")
    test = parse_pairs([{**GOOD, "prompt": "New?"}, {**GOOD, "prompt": "Else? ", "chosen": "Other."}])
    (issue,) = check_leakage(train, test)
    assert (issue.row, issue.column, issue.severity) == (2, "prompt", "warning")  # named, and still counted
    assert "row 2 of the training pairs (my-train)" in issue.problem
    assert check_leakage(train, parse_pairs([{**GOOD, "prompt": "New?"}])) == ()


def test_content_hash_depends_on_every_part():
    hashes = {parse_pairs([GOOD]).content_hash}
    hashes |= {parse_pairs([{**GOOD, key: "Something else"}]).content_hash for key in GOOD}
    hashes.add(parse_pairs([GOOD, {**GOOD, "prompt": "x"}]).content_hash)
    hashes.add(content_hash([]))
    assert len(hashes) == 6 and all(len(value) == 64 for value in hashes)


def test_split_groups_by_prompt_whatever_the_order_of_rows():
    rows = [{"prompt": f"Question {i % 20}?", "chosen": f"Yes {i}", "rejected": "No"} for i in range(60)]
    data = parse_pairs(rows)
    train, test = split_by_prompt(data, test_fraction=0.25, seed=3)
    assert len({pair.prompt for pair in test.pairs}) == 5
    assert sorted(pair.row for part in (train, test) for pair in part.pairs) == list(range(1, 61))
    assert check_leakage(train, test) == ()
    assert split_by_prompt(data, test_fraction=0.25, seed=3) == (train, test)
    shuffled = random.Random(0).sample(rows, len(rows))
    again = split_by_prompt(parse_pairs(shuffled), test_fraction=0.25, seed=3).test
    assert {pair.prompt for pair in again.pairs} == {pair.prompt for pair in test.pairs}
    assert split_by_prompt(data, test_fraction=0.25, seed=4).test != test
    assert len(split_by_prompt(parse_pairs(rows[:2]), test_fraction=0.001, seed=0).test.pairs) == 1
    for fraction in (0, 1, -1, float("nan")):
        with pytest.raises(SparseRMError, match="between 0 and 1"):
            split_by_prompt(data, test_fraction=fraction, seed=0)
    with pytest.raises(SparseRMError, match="at least 2"):
        split_by_prompt(parse_pairs(rows[:1]), test_fraction=0.5, seed=0)


# ------------------------------------------------------------------------------------------------------- properties

LIGHT = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
    lambda text: not is_blank(text) and not text.lstrip().startswith(("[", "{", "Human:")) and spoken(text) == text
)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "type", "text"]), inner)
        | st.just([U, A])
        | st.just([B])
    ),
    max_leaves=8,
)


@LIGHT
@given(st.lists(st.fixed_dictionaries({"prompt": TEXT, "chosen": TEXT, "rejected": TEXT}), min_size=1, max_size=4))
def test_property_content_hash_is_independent_of_the_format(rows):
    rows = [row for row in rows if row["chosen"].strip() != row["rejected"].strip()]
    if rows:
        hashes = {load_bytes(write(rows), name).content_hash for name, write in FORMATS.items()}
        assert hashes == {parse_pairs(rows).content_hash}


@LIGHT
@given(
    st.lists(
        st.dictionaries(st.sampled_from(["prompt", "chosen", "rejected", "conversations", "x"]), VALUE) | VALUE, max_size=6
    )
)
def test_property_no_row_disappears(rows):
    """Whatever the rows are: each is a pair or one error, and nothing but a SparseRMError is raised."""
    try:
        data = parse_pairs([GOOD, *rows], skip_bad=True)
    except PairsError as error:  # no pair left: a finding for each row
        assert {issue.row for issue in error.issues if issue.severity == "error"} == set(range(1, len(rows) + 2))
    else:
        errors = [issue.row for issue in data.issues if issue.severity == "error"]
        assert data.n_rows == len(rows) + 1
        assert sorted(errors + [pair.row for pair in data.pairs]) == list(range(1, len(rows) + 2))


@LIGHT
@given(st.binary(max_size=300), st.sampled_from([*FORMATS, "a", "a.gz"]), st.integers(0, 400), st.booleans())
def test_property_bytes_raise_nothing_but_our_error(noise, filename, at, is_noise):
    """Noise alone, and noise inside a file that was good."""
    good = FORMATS.get(filename, jsonl)(ROWS)
    try:
        load_bytes(noise if is_noise else good[:at] + noise[:3] + good[at + 2 :], filename, skip_bad=True)
    except SparseRMError as error:
        assert "\n" not in str(error)


# ------------------------------------------------------------------------------------------- categories, several responses


@pytest.mark.parametrize("column", ["category", "subset", "domain"])
def test_the_category_and_the_id_of_a_row_travel_with_its_pair(column) -> None:
    assert only({**GOOD, column: "Fiction", "id": 7}).category == "Fiction"
    assert only({**GOOD, column: "Fiction", "id": 7}).id == "7"


def test_the_first_of_several_category_columns_is_taken_and_what_is_no_name_is_none() -> None:
    assert only({**GOOD, "domain": "math", "category": "algebra"}).category == "algebra"
    assert [only({**GOOD, "category": value}).category for value in (None, ["a"], float("nan"))] == ["", "", ""]


def test_a_category_is_no_part_of_the_content() -> None:
    assert parse_pairs([{**GOOD, "category": "x"}]).content_hash == parse_pairs([GOOD]).content_hash


def test_a_row_of_several_responses_gives_every_chosen_one_against_every_rejected_one() -> None:
    data = parse_pairs([GOOD, {"prompt": "Hi", "chosen": ["a", "b"], "rejected": ["x", "y", "a"], "subset": "s"}])
    assert [(pair.chosen, pair.rejected) for pair in data.pairs[1:]] == [
        ("a", "x"),
        ("a", "y"),
        ("a", "a"),
        ("b", "x"),
        ("b", "y"),
        ("b", "a"),
    ]
    assert {(pair.row, pair.category) for pair in data.pairs[1:]} == {(2, "s")}
    assert (data.n_rows, data.n_skipped, data.issues) == (2, 0, ())


def test_a_row_of_several_responses_is_good_or_bad_as_a_whole() -> None:
    data = parse_pairs([GOOD, {"prompt": "Hi", "chosen": ["a"], "rejected": ["x", " "]}], skip_bad=True)
    assert (len(data.pairs), data.n_skipped, data.issues[0].row) == (1, 1, 2)


@pytest.mark.parametrize(
    ("beginning", "kind"),
    [(b"\x89PNG\r\n\x1a\n", "PNG image"), (b"\xff\xd8\xff\xe0", "JPEG"), (b"%PDF-1.7", "PDF"), (b"PK\x03\x04", "Excel")],
)
def test_a_file_of_another_kind_is_called_what_it_is(beginning: bytes, kind: str) -> None:
    with pytest.raises(SparseRMError, match=rf"pairs\.csv is .*{kind}.*: expected a table of preference pairs"):
        load_bytes(beginning + bytes(range(256)), "pairs.csv")


def test_reading_pairs_leaves_the_garbage_collector_as_it_was(monkeypatch):
    seen = []
    monkeypatch.setattr("sparserm.pairs.split.content_hash", lambda pairs: seen.append(gc.isenabled()) or "")
    assert gc.isenabled()
    parse_pairs(ROWS, "rows")
    assert gc.isenabled() and seen == [False]
    with pytest.raises(SparseRMError):
        parse_pairs([{}], "rows")
    assert gc.isenabled()
    gc.disable()
    try:
        parse_pairs(ROWS, "rows")
        assert not gc.isenabled()
    finally:
        gc.enable()
