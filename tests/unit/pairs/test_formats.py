"""Forms in which preference data is found in the world: read as meant, or refused by name."""

from __future__ import annotations

import bz2
import json
import lzma
from typing import Any

import pyarrow as pa
import pytest

from sparserm.pairs.candidates import read_candidates
from sparserm.pairs.files import read_bytes
from sparserm.pairs.load import load_pairs
from sparserm.pairs.parsing import PairsError, parse_pairs, parse_rows
from sparserm.types import Message, PreferenceData, Prompt, SparseRMError
from tests.unit.pairs.forms import BAD, BEGIN, DOCS, END, FORMS, GOOD, Form, Q, table

USER: Prompt = (Message("user", Q),)


def _turn(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


ASKED, ANSWER, OTHER = _turn("user", Q), _turn("assistant", GOOD), _turn("assistant", BAD)


def _read(data: bytes, name: str) -> PreferenceData:
    return parse_rows(read_bytes(data, name), name, columns=None, skip_bad=False)


def _is_read(found: PreferenceData, prompt: Prompt = USER) -> None:
    (pair,) = found.pairs
    assert (pair.prompt, pair.chosen, pair.rejected) == (prompt, GOOD, BAD)


# ------------------------------------------------------------------------------------------------ which column is which


@pytest.mark.parametrize(
    ("row", "prompt", "reading"),
    [
        ({"Prompt": Q, "Chosen": GOOD, "Rejected": BAD}, USER, ""),
        ({"question": Q, "chosen": GOOD, "rejected": BAD}, USER, "`question` as the prompt"),
        ({"instruction": Q, "input": "", "chosen": GOOD, "rejected": BAD}, USER, "`instruction` + `input` as the prompt"),
        (
            {"instruction": Q, "input": "Be brief.", "chosen": GOOD, "rejected": BAD},
            (Message("user", f"{Q}\n\nBe brief."),),
            "`instruction` + `input` as the prompt",
        ),
        (
            {"context": "A text.", "question": Q, "good_answer": GOOD, "bad_answer": BAD},
            (Message("user", f"A text.\n\n{Q}"),),
            "`context` + `question` as the prompt, `good_answer` as chosen, `bad_answer` as rejected",
        ),
        (
            {"system": "Be kind.", "prompt": Q, "chosen": GOOD, "rejected": BAD},
            (Message("system", "Be kind."), *USER),
            "`system` as the system message",
        ),
        ({"system": "", "prompt": Q, "chosen": GOOD, "rejected": BAD}, USER, "`system` as the system message"),
        (
            {"prompt": Q, "chosen_model": "a", "chosen_response": GOOD, "rejected_model": "b", "rejected_response": BAD},
            USER,
            "`chosen_response` as chosen, `rejected_response` as rejected",
        ),
    ],
)
def test_columns_are_found_and_what_was_guessed_is_said(row: dict[str, str], prompt: Prompt, reading: str) -> None:
    found = parse_pairs([row])
    _is_read(found, prompt)
    said = " ".join(issue.problem for issue in found.issues)
    assert reading in said and ("read " in said) == bool(reading)
    assert {issue.severity for issue in found.issues} <= {"warning"}


def test_named_columns_are_taken_at_their_word() -> None:
    row = {"a": Q, "b": GOOD, "c": BAD, "prompt": "another"}
    found = parse_pairs([row], columns={"prompt": "a", "chosen": "b", "rejected": "c"})
    _is_read(found)
    assert not found.issues


# -------------------------------------------------------------------------------------------------- labels and ratings


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.by)
def test_every_form_is_read_as_it_is_meant_and_what_was_guessed_is_said(form: Form) -> None:
    _is_read(parse_pairs(form.rows), form.prompt)
    assert bool(form.reading) != bool(form.what)  # nothing needs to be said of what the names say


def test_the_table_in_the_docs_is_made_of_these_forms() -> None:
    assert f"{BEGIN}\n{table()}\n{END}" in DOCS.read_text()  # python -m tests.unit.pairs.forms


@pytest.mark.parametrize(
    "tie",
    [
        {"conversation_a": [ASKED, ANSWER], "conversation_b": [ASKED, OTHER], "winner": "tie"},
        {"conversation_a": [ASKED, ANSWER], "conversation_b": [ASKED, OTHER], "winner": "tie (bothbad)"},
        {"prompt": Q, "response_1": GOOD, "response_2": BAD, "preference_strength": 0},
        {"prompt": Q, "answers": [{"answer": BAD, "rank": 2.0}, {"answer": GOOD, "rank": 2.0}]},
    ],
)
def test_ties_are_left_out_by_name(tie: dict[str, Any]) -> None:
    won = {**tie, "winner": "model_a", "preference_strength": -1}
    if "answers" in tie:
        won["answers"] = [{"answer": GOOD, "rank": 1.0}, {"answer": BAD, "rank": 2.0}]
    found = parse_pairs([won, tie])
    _is_read(found)
    assert [(issue.row, issue.severity) for issue in found.issues if issue.severity != "warning"] == [(2, "tie")]
    with pytest.raises(PairsError):
        parse_pairs([tie])


def test_a_label_of_another_meaning_is_refused() -> None:
    rows = [{"history": Q, "human_ref_A": GOOD, "human_ref_B": BAD, "labels": label} for label in (1, 2)]
    with pytest.raises(SparseRMError, match="row 2: labels is 2, expected 1 or 0; so the labels of this source mean something"):
        parse_pairs(rows, skip_bad=True)  # a row with 1 may mean the first or the second response
    with pytest.raises(PairsError, match="expected model_a, model_b, a, b or a tie"):
        parse_pairs([{"conversation_a": [ASKED, ANSWER], "conversation_b": [ASKED, OTHER], "winner": "nobody"}])


def test_single_verdicts_are_paired_by_prompt() -> None:
    rows = [
        {"prompt": Q, "completion": GOOD, "label": True},
        {"prompt": "Alone?", "completion": "Yes.", "label": True},
        {"prompt": Q, "completion": BAD, "label": False},
        {"prompt": Q, "completion": "Who knows.", "label": False},
    ]
    found = parse_pairs(rows)
    assert [(pair.chosen, pair.rejected) for pair in found.pairs] == [(GOOD, BAD), (GOOD, "Who knows.")]
    assert [issue.row for issue in found.issues if issue.severity == "tie"] == [2]
    assert (found.n_rows, found.n_skipped) == (2, 1)


# ------------------------------------------------------------------------------------------------ what is in the cells


@pytest.mark.parametrize("write", [json.dumps, repr], ids=["json", "python"])
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [ASKED], "chosen": [ANSWER], "rejected": [OTHER]},
        {"chosen": {"messages": [ASKED, ANSWER]}, "rejected": {"messages": [ASKED, OTHER]}},
        {"chosen": [ASKED, ANSWER], "rejected": [ASKED, OTHER]},
    ],
)
def test_messages_written_as_text_are_messages(row: dict[str, Any], write: Any) -> None:
    _is_read(parse_pairs([{name: write(value) for name, value in row.items()}]))
    _is_read(parse_pairs([row]))


def test_what_looks_like_messages_and_cannot_be_read_is_refused() -> None:
    for text in ("[{'role': 'assistant', 'content': 'cut o", "[{'role': 'assistant', 'content': x}]", '{"a": {"role": "user"'):
        row = {"prompt": Q, "chosen": text + "}" * text.startswith("{"), "rejected": BAD}
        with pytest.raises(PairsError, match="looks like messages"):
            parse_pairs([row])


def test_text_in_brackets_is_text() -> None:
    for text in ("[1, 2, 3]", '{"a": 1}', "[sic]", '["one"]', '{"value": 3} is JSON.', '{"role": "user"} names a role.'):
        (pair,) = parse_pairs([{"prompt": Q, "chosen": text, "rejected": BAD}]).pairs
        assert pair.chosen == text


@pytest.mark.parametrize("write", [json.dumps, repr], ids=["json", "python"])
def test_lists_of_responses_written_as_text_are_lists_where_every_cell_is_one(write: Any) -> None:
    rows = [{"prompt": Q, "chosen": write([GOOD]), "rejected": write([BAD, "No."])}] * 2
    found = parse_pairs(rows)
    assert [(pair.chosen, pair.rejected) for pair in found.pairs[:2]] == [(GOOD, BAD), (GOOD, "No.")]
    assert any("lists of responses" in issue.problem for issue in found.issues)
    with pytest.raises(PairsError, match="row 2, column rejected: is not a list of texts"):
        parse_pairs([rows[0], {**rows[0], "rejected": '["cut'}])


def test_whole_conversations_go_before_a_column_that_was_guessed_to_be_the_prompt() -> None:
    before = [_turn("user", "Hi."), _turn("assistant", "Hello.")]
    row = {"question": "Hi.", "chosen": [*before, ASKED, ANSWER], "rejected": [*before, ASKED, OTHER]}
    _is_read(parse_pairs([row]), (Message("user", "Hi."), Message("assistant", "Hello."), *USER))
    said = f"\n\nHuman: {Q}\n\nAssistant: "
    _is_read(parse_pairs([{"question": "Hi.", "chosen": said + GOOD, "rejected": said + BAD}]))


def test_tools_and_developers_have_their_place_and_the_last_answer_is_meant() -> None:
    call = _turn("assistant", None, tool_calls=[{"function": {"name": "clock", "arguments": "{}"}}])
    told = [call, _turn("tool", "12:00")]
    called = (*USER, Message("assistant", "clock({})"), Message("user", "12:00"))
    _is_read(parse_pairs([{"prompt": [ASKED, *told], "chosen": [ANSWER], "rejected": [OTHER]}]), called)
    _is_read(parse_pairs([{"chosen": [ASKED, *told, ANSWER], "rejected": [ASKED, *told, OTHER]}]), called)
    _is_read(parse_pairs([{"prompt": Q, "chosen": [*told, ANSWER], "rejected": [OTHER]}]))
    kind = _turn("developer", "Be kind.")
    _is_read(
        parse_pairs([{"prompt": [kind, ASKED], "chosen": [ANSWER], "rejected": [OTHER]}]),
        (Message("system", "Be kind."), *USER),
    )
    _is_read(parse_pairs([{"prompt": [_turn("system", None), ASKED], "chosen": [ANSWER], "rejected": [OTHER]}]))


@pytest.mark.parametrize(
    ("prompt", "end"),
    [
        ("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n"),
        ("<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\n{} [/INST]", " </s>"),
        (
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|><|start_header_id|>user"
            "<|end_header_id|>\n\n{}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
            "<|eot_id|>",
        ),
    ],
)
def test_texts_in_a_chat_template_are_taken_out_of_it(prompt: str, end: str) -> None:
    asked, kind = prompt.format(Q), (Message("system", "Be kind."), *USER)
    _is_read(parse_pairs([{"prompt": asked, "chosen": GOOD + end, "rejected": BAD + end}]), kind)
    _is_read(parse_pairs([{"chosen": asked + GOOD + end, "rejected": asked + BAD + end}]), kind)


def test_a_prompt_about_templates_stays_as_it_is() -> None:
    text = "What does <|im_start|> mean?"
    (pair,) = parse_pairs([{"prompt": text, "chosen": GOOD, "rejected": BAD}]).pairs
    assert pair.prompt == (Message("user", text),)


# ------------------------------------------------------------------------------------------------------ kinds of files

ROW = {"prompt": Q, "chosen": GOOD, "rejected": BAD}
LINE = json.dumps(ROW).encode()


def _zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (bz2.compress(LINE), "a.jsonl.bz2"),
        (lzma.compress(LINE), "a.jsonl.xz"),
        (_zstd(LINE), "a.jsonl.zst"),
        (_zstd(LINE), "a.jsonl"),  # whatever its name says
        (f"prompt\tchosen\trejected\r\n{Q}\t{GOOD}\t{BAD}\r\n".encode("utf-16"), "a.csv"),
        (json.dumps({"data": [ROW]}).encode(), "a.json"),
        (json.dumps({"version": 1, "rows": [ROW]}).encode(), "a.json"),
        (json.dumps({name: {"0": value} for name, value in ROW.items()}).encode(), "a.json"),
        (json.dumps({"0": ROW}).encode(), "a.json"),
        (json.dumps({"columns": list(ROW), "index": [0], "data": [list(ROW.values())]}).encode(), "a.json"),
        (json.dumps(ROW).encode(), "a.json"),
    ],
)
def test_files_of_many_kinds_are_read(data: bytes, name: str) -> None:
    _is_read(_read(data, name))


@pytest.mark.parametrize(
    ("data", "name", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 1\n", "a.jsonl", "is a Git LFS pointer"),
        (bz2.compress(LINE)[:-9], "a.jsonl.bz2", "is a broken bzip2 file"),
        (_zstd(LINE * 99)[:30], "a.jsonl.zst", "is a broken Zstandard file"),
        (b"\xff\xfea", "a.csv", "begins as UTF-16"),
        ("prompt,chosen,rejected\n".encode("utf-16-le"), "a.csv", "as in UTF-16 or UTF-32 without its mark.*iconv -f UTF-16LE"),
        (b"ARROW1\0\0", "a.feather", r"is an Arrow \(Feather\) file: expected a table"),
        (b"\xff\xff\xff\xff\x00\x01", "data.arrow", "is a stream of Arrow.*give the folder instead"),
        (json.dumps({"train": [ROW], "test": [ROW]}).encode(), "a.json", "holds the splits train, test, expected one"),
    ],
)
def test_what_cannot_be_read_is_named(data: bytes, name: str, said: str) -> None:
    with pytest.raises(SparseRMError, match=said):
        _read(data, name)


def test_a_compressed_bomb_stops_at_the_limit() -> None:
    for data in (bz2.compress(b" " * (1 << 30)), _zstd(b" " * (1 << 30))):
        with pytest.raises(SparseRMError, match="expected at most"):
            _read(data, "a.jsonl")


# ------------------------------------------------------------------------------------------------- doubtful rows


def test_doubtful_rows_are_warned_of() -> None:
    rows = [
        {**ROW, "score_chosen": 1.0, "score_rejected": 2.0},
        {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
        {"prompt": Q, "chosen": "Yes.", "rejected": "Yes.\u200b"},
        {"prompt": Q, "chosen": "\u200b", "rejected": "No."},
    ]
    found = parse_pairs(rows)
    said = {issue.row: issue.problem for issue in found.issues}
    assert len(found.pairs) == 4 and {issue.severity for issue in found.issues} == {"warning"}
    assert "below score_rejected (2)" in said[1] and "repeats the header" in said[2]
    assert "invisible characters" in said[3] and "no visible characters" in said[4]


def test_best_of_n_reads_the_same_cells() -> None:
    data = json.dumps({"prompt": json.dumps([ASKED]), "responses": [json.dumps([ANSWER]), BAD]}).encode()
    (one,) = read_candidates(bz2.compress(data), "a.jsonl.bz2").sets
    assert one.prompt == USER and one.responses == (GOOD, BAD)


def test_rows_in_memory_may_be_a_data_frame_columns_or_a_split() -> None:
    import datasets
    import pandas as pd

    columns = {name: [value] for name, value in ROW.items()}
    table = datasets.Dataset.from_dict(columns)
    for rows in ([ROW], pd.DataFrame([ROW]), columns, table, datasets.DatasetDict(train=table, test=table)):
        _is_read(parse_pairs(rows))
    _is_read(parse_pairs(datasets.DatasetDict(test_prefs=table)))
    with pytest.raises(SparseRMError, match=r"got the splits test, validation, .*data\['test'\]"):
        parse_pairs(datasets.DatasetDict(test=table, validation=table))
    missing = pd.DataFrame([ROW, {**ROW, "chosen": None}])
    with pytest.raises(PairsError, match="row 2, column chosen: is empty"):
        parse_pairs(missing)


@pytest.mark.parametrize("name", ["train-0.parquet", "test-0.parquet", "data.jsonl"])
def test_a_folder_of_files_is_read_by_its_full_path(tmp_path, monkeypatch, name: str) -> None:
    import pandas as pd

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "pairs"
    folder.mkdir()
    if name.endswith("parquet"):
        pd.DataFrame([ROW]).to_parquet(folder / name)
    else:
        (folder / name).write_bytes(LINE)
    _is_read(load_pairs(folder))


def test_a_system_message_beside_a_label_is_kept() -> None:
    row = {"system_prompt": "Be brief.", "prompt": Q, "response_A": GOOD, "response_B": BAD, "label": 1}
    _is_read(parse_pairs([row]), (Message("system", "Be brief."), *USER))


def test_of_rows_that_prefer_nothing_the_reason_is_said() -> None:
    rows = [{"prompt": Q, "completion": text, "label": True} for text in (GOOD, BAD)]
    with pytest.raises(PairsError, match="none of its 2 rows prefers a response to another; row 1, column label: is like that"):
        parse_pairs(rows)


def test_best_of_n_reads_lists_in_pythons_format() -> None:
    found = read_candidates(f"prompt,responses\n\"{Q}\",\"['{GOOD}', '{BAD}']\"\n".encode(), "a.csv")
    assert found.sets[0].responses == (GOOD, BAD)


def test_verdicts_on_one_prompt_give_no_more_pairs_than_lists_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparserm.pairs.verdicts.MAX_LISTED_PAIRS", 50)
    rows = [{"prompt": Q, "completion": f"It is {i}.", "label": i % 2 == 0} for i in range(20)]
    with pytest.raises(SparseRMError, match="give more than 50 pairs, each liked one with each other"):
        parse_pairs(rows)


# ------------------------------------------------------------------------------------------- what belongs to the prompt

TURNS = (Message("user", "Hi"), Message("assistant", "Hello."))


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": Q, "input": "", "chosen": GOOD, "rejected": BAD},
        {"prompt": Q, "chosen": GOOD, "rejected": BAD},
        {"query": Q, "response_a": BAD, "response_b": GOOD, "winner": "b"},
    ],
)
@pytest.mark.parametrize("history", [[["Hi", "Hello."]], [_turn("user", "Hi"), _turn("assistant", "Hello.")]])
def test_turns_in_a_history_come_before_the_prompt(row: dict[str, Any], history: Any) -> None:
    _is_read(parse_pairs([{**row, "history": history}]), (*TURNS, *USER))
    _is_read(parse_pairs([{**row, "history": history, "system": "Be brief."}]), (Message("system", "Be brief."), *TURNS, *USER))
    _is_read(parse_pairs([{**row, "history": []}]))


@pytest.mark.parametrize(
    "row",
    [
        {"context": "A text.", "prompt": Q, "chosen": GOOD, "rejected": BAD},
        {"passage": "A text.", "instruction": Q, "response_A": GOOD, "response_B": BAD, "winner": "A"},
        {"context": "A text.", "prompt": Q, "response_0": GOOD, "response_1": BAD, "safer_response_id": 0},
        {"document": "A text.", "question": Q, "generations": [GOOD, BAD], "ratings": ["5", "1"]},
    ],
)
def test_a_passage_comes_before_the_question_about_it(row: dict[str, Any]) -> None:
    _is_read(parse_pairs([row]), (Message("user", f"A text.\n\n{Q}"),))


@pytest.mark.parametrize("name", ["system", "System Prompt", "systemPrompt", "system_instruction"])
@pytest.mark.parametrize("text", ["Be brief.", ["Be brief."], _turn("system", "Be brief."), [_turn("system", "Be brief.")]])
def test_a_system_message_has_many_names_and_forms(name: str, text: Any) -> None:
    _is_read(parse_pairs([{name: text, "prompt": Q, "chosen": GOOD, "rejected": BAD}]), (Message("system", "Be brief."), *USER))


def test_of_two_system_messages_neither_is_dropped() -> None:
    row = {"system": "", "system_prompt": "Be brief.", "prompt": Q, "chosen": GOOD, "rejected": BAD}
    _is_read(parse_pairs([row]), (Message("system", "Be brief."), *USER))
    with pytest.raises(PairsError, match="column system: differs from the system message in the prompt"):
        parse_pairs([{**row, "system": "Be kind.", "prompt": [_turn("system", "Be brief."), ASKED]}])


def test_verdicts_are_compared_only_where_all_that_was_asked_is_the_same() -> None:
    rows = [
        {"system": system, "prompt": Q, "completion": text, "label": text == GOOD}
        for system, text in (("Be brief.", GOOD), ("Be brief.", BAD), ("Be rude.", BAD))
    ]
    found = parse_pairs(rows)
    _is_read(found, (Message("system", "Be brief."), *USER))
    assert [issue.row for issue in found.issues if issue.severity == "tie"] == [3]


def test_responses_that_repeat_the_prompt_in_every_row_are_read_without_it() -> None:
    full = {"prompt": Q, "chosen": f"{Q} {GOOD}", "rejected": f"{Q}\n{BAD}"}
    found = parse_pairs([full])
    _is_read(found)
    assert "responses without the prompt that they repeat" in found.issues[0].problem
    quoting = parse_pairs([full, {"prompt": "What is rust?", "chosen": "Iron and air.", "rejected": "Paint."}])
    assert quoting.pairs[0].chosen == f"{Q} {GOOD}"


def test_a_prompt_beside_whole_texts_in_a_template_is_not_asked_twice() -> None:
    whole = [f"<|im_start|>user\n{Q}<|im_end|>\n<|im_start|>assistant\n{text}<|im_end|>" for text in (GOOD, BAD)]
    for prompt in (Q, f"<|im_start|>user\n{Q}<|im_end|>\n<|im_start|>assistant\n"):
        _is_read(parse_pairs([{"prompt": prompt, "chosen": whole[0], "rejected": whole[1]}]))
    whole = [f"\n\nHuman: {Q}\n\nAssistant: {text}" for text in (GOOD, BAD)]
    for prompt in (Q, f"Human: {Q}\n\nAssistant:", f"\n\nHuman: {Q}\n\nAssistant: "):
        _is_read(parse_pairs([{"prompt": prompt, "chosen": whole[0], "rejected": whole[1]}]))


@pytest.mark.parametrize("opened", ["<think>\n", "<think>\n\n</think>\n\n"])
def test_a_prompt_may_open_the_thinking(opened: str) -> None:
    prompt = f"<|im_start|>user\n{Q}<|im_end|>\n<|im_start|>assistant\n{opened}"
    _is_read(parse_pairs([{"prompt": prompt, "chosen": f"Hm.</think>{GOOD}", "rejected": BAD}]))


# --------------------------------------------------------------------------------------------------- what is refused


def test_letters_that_name_responses_are_no_responses() -> None:
    row = {"prompt": Q, "response_a": GOOD, "response_b": BAD, "chosen": "A", "rejected": "B"}
    with pytest.raises(SparseRMError, match="chosen and rejected hold A, B, which name the responses in other columns"):
        parse_pairs([row, row])
    assert parse_pairs([{"prompt": Q, "chosen": "A", "rejected": "B"}]).pairs[0].chosen == "A"  # of a multiple choice


def test_arrays_of_numpy_written_as_text_are_refused() -> None:
    rows = [{"prompt": Q, "chosen": f"['{GOOD}']", "rejected": f"['{BAD}' 'Who knows.']"}]
    with pytest.raises(PairsError, match="column rejected: is not a list of texts in JSON or in Python's print format"):
        parse_pairs(rows)


def test_ratings_of_different_kinds_are_not_compared() -> None:
    answers = [
        {"response": GOOD, "fine-grained_score": 8.5, "overall_score": 4.5},
        {"response": BAD, "fine-grained_score": 3.0, "overall_score": 2.0},
        {"response": "Who knows.", "fine-grained_score": None, "overall_score": 6.0},
    ]
    _is_read(parse_pairs([{"instruction": Q, "completions": answers}]))


def test_a_strength_beyond_its_scale_refuses_the_source() -> None:
    rows = [{"prompt": Q, "response_1": GOOD, "response_2": BAD, "preference_strength": value} for value in (1, 7)]
    with pytest.raises(SparseRMError, match="preference_strength is 7, expected -3 to 3; so the labels of this source"):
        parse_pairs(rows, skip_bad=True)


# ---------------------------------------------------------------------------------------------------- what is warned of


def test_a_label_that_always_prefers_the_same_side_is_questioned() -> None:
    rows = [{"prompt": f"{Q} {i}", "output_1": GOOD, "output_2": BAD, "label": 1} for i in range(8)]
    said = [issue.problem for issue in parse_pairs(rows).issues]
    assert "the label prefers the first response in all 8 rows: check its meaning" in said
    rows[0]["label"] = 2
    assert not any("check its meaning" in issue.problem for issue in parse_pairs(rows).issues)


@pytest.mark.parametrize("name", ["images", "tools"])
def test_what_is_not_read_is_said(name: str) -> None:
    row = {"prompt": Q, "chosen": GOOD, "rejected": BAD}
    found = parse_pairs([{**row, name: ["x"]}])
    assert [issue.problem for issue in found.issues] == [f"`{name}` is not read: only the texts are"]
    assert not parse_pairs([{**row, name: []}]).issues


@pytest.mark.parametrize(
    "verdict", ["A", "[[A]]", "Option A", "response_a", "left", "First", "A>B", "A>>B", "gpt-good"], ids=lambda one: one
)
def test_verdicts_in_many_words(verdict: str) -> None:
    row = {"prompt": Q, "model_a": "gpt-good", "model_b": "gpt-bad", "response_a": GOOD, "response_b": BAD}
    _is_read(parse_pairs([{**row, "winner": verdict}]))
    for tie in ("same", "No preference", "tie"):
        assert [one.severity for one in parse_pairs([{**row, "winner": "a"}, {**row, "winner": tie}]).issues][-1] == "tie"
    with pytest.raises(PairsError, match="expected model_a, model_b, a, b or a tie"):
        parse_pairs([{**row, "winner": "1"}])
