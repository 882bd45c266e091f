"""CSV files whose quotes are not written as quotes: rows that one joins are refused, and texts of many lines are read."""

from __future__ import annotations

import pytest

from sparserm.pairs.candidates import read_candidates
from sparserm.pairs.files import list_data_files, read_bytes
from sparserm.pairs.parsing import PairsError, parse_rows
from sparserm.types import PreferenceData, SparseRMError

HEADER = "prompt,chosen,rejected\n"
#: A row that shows that the file puts cells in quotes where it must.
QUOTED = 'Hi?,"Hello, you.",No.\n'


def _read(text: str, name: str = "a.csv", *, skip_bad: bool = False) -> PreferenceData:
    return parse_rows(read_bytes(text.encode(), name), name, columns=None, skip_bad=skip_bad)


@pytest.mark.parametrize(
    ("rows", "lines"),
    [
        ('q1,g1,b1\nq2,"g2,b2\nq3,g3,b3\nq4,good 5",b4\nq5,g5,b5\n', "lines 3 to 5"),
        ('q1,g1,b1\nq2,"g2,b2\nq3,good 5",b3\nq4,g4,b4\n', "lines 3 to 4"),
        ('q1,g1,"b1\nq2,g2,b2\nq3,g3,b3"\nq4,g4,b4\n', "lines 2 to 4"),
        ('"q1,g1,b1\nq2,g2,b2\nq3"",g3,b3\nq5",g5,b5\nq4,g4,b4\n', "lines 2 to 5"),
        ('q1,"g1,b1\nWell, well,g2,b2\nq3,g3 5",b3\nq4,g4,b4\n', "lines 2 to 4"),  # commas in texts have a space after them
        ('q1,"g1,b1,\nq2,g2,b2,\nq3,g3 5",b3,\nq4,g4,b4,\n', "lines 2 to 4"),  # of a last column without texts
        (QUOTED + 'q2,"g2,b2\nq3,g3,b3\nq4,good 5",b4\nq5,g5,b5\n', "lines 3 to 5"),  # whatever the other rows show
        ('q1,a "good" one,b1\n' + QUOTED + 'q2,"g2,b2\nq3,good 5",b3\n', "lines 4 to 5"),  # a quote was left as it is
    ],
)
@pytest.mark.parametrize(("delimiter", "name"), [(",", "a.csv"), (";", "a.csv"), ("\t", "a.tsv")])
def test_rows_that_a_quote_joins_are_refused_by_their_lines(rows: str, lines: str, delimiter: str, name: str) -> None:
    text = (HEADER + rows).replace(", ", "\0").replace(",", delimiter).replace("\0", ", ")
    with pytest.raises(
        PairsError, match=rf"joins {lines}, each of which looks like a row: .* double the quotes inside"
    ) as caught:
        _read(text, name)
    assert len([issue for issue in caught.value.issues if issue.severity == "error"]) == 1
    assert all("\n" not in pair.chosen + pair.rejected for pair in _read(text, name, skip_bad=True).pairs)


def test_where_the_other_quotes_are_in_order_two_lines_are_read_with_a_warning() -> None:
    found = _read(HEADER + QUOTED + '"1,2,3\nWhat comes next?",4,5\n')
    assert found.pairs[1].prompt[0].content == "1,2,3\nWhat comes next?"
    assert [(issue.row, issue.severity) for issue in found.issues] == [(2, "warning")]
    assert "joins lines 3 to 4" in found.issues[0].problem


def test_rows_with_spaces_after_their_commas_are_found_too() -> None:
    with pytest.raises(PairsError, match="joins lines 2 to 3"):
        _read('prompt, chosen, rejected\nq1, "g1, b1\nq2, good 5", b2\n')


def test_candidates_of_a_doubtful_row_are_kept_with_the_warning() -> None:
    found = read_candidates(b'prompt,response\n"Hello, you",Hi.\n"1,2\nWhat is next?",3\n', "a.csv")
    assert found.n_responses == 2 and "joins lines 3 to 4" in " ".join(issue.problem for issue in found.issues)


def test_a_file_that_names_its_delimiter_is_offered(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text("sep=;\nprompt;chosen;rejected\nWhy?;Yes;No\n")
    monkeypatch.setenv("SPARSERM_DATA", str(tmp_path))
    assert list(list_data_files()) == ["a.csv"]


def test_line_breaks_that_end_no_other_row_end_none() -> None:
    text = HEADER.replace("\n", "\r\n") + '"1,2,3\nWhat comes next?",4,5\r\n'
    assert _read(text).pairs[0].prompt[0].content == "1,2,3\nWhat comes next?"


@pytest.mark.parametrize(
    "text",
    [
        "one, two\nthree, four",
        "1,000 men\n2,000 women",
        "Here it is:\n\nf(a,b,c)\ng(a)\n",
        "name,age,city\nBob,3,Rome\nAnn,4,Oslo",
        "name,age\nBob,3\nAnn,4",
        "Here it is:\nname,age,city\nBob,3,Rome\nThat is all.",
        "int a = 1;\nint b = 2;\nreturn a + b;",
        "- one\n- two\n- three",
        "\tif a:\n\t\treturn 1",
        'He said, "no"\nand left, "yes"',
    ],
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_texts_of_many_lines_are_read(text: str, delimiter: str) -> None:
    cell = '"{}"'.format(text.replace('"', '""'))
    for row in (["Why?", cell, "Because."], ["Why?", '"Because, so."', cell], [cell, "Yes.", "No."]):
        found = _read("\n".join(delimiter.join(one) for one in (["prompt", "chosen", "rejected"], row)) + "\n")
        (pair,) = found.pairs
        assert text.strip() in [one.strip() for one in (pair.prompt[0].content, pair.chosen, pair.rejected)]
        assert not [issue for issue in found.issues if "joins" in issue.problem]


def test_a_quote_that_is_never_closed_is_found_where_its_row_begins() -> None:
    with pytest.raises(SparseRMError, match=r"line 5: broken CSV .* in the row that begins on line 3; put cells"):
        _read(HEADER + 'q1,g1,b1\nq2,"g2,b2\nq3,g3,b3\nq4,g4,b4\n')
    with pytest.raises(PairsError, match=r"has 2 cells, the header has 3 \(lines 2 to 4\): put cells"):
        _read(HEADER + 'q1,"g1,b1\nq2,g2,b2\nq3,g3,b3"\nq4,g4,b4\n')


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("sep=;\nprompt;chosen;rejected\nWhy?;Yes, yes;No\n", "a.csv"),
        ('"sep=;"\r\nprompt;chosen;rejected\r\nWhy?;Yes, yes;No\r\n', "a.csv"),
        ("sep=|\nprompt|chosen|rejected\nWhy?|Yes, yes|No\n", "a.csv"),
        ('prompt,chosen,rejected\nWhy?,"Yes, yes",No\n', "a.tsv"),
        ("prompt\tchosen\trejected\nWhy?\tYes, yes\tNo\n", "a.csv"),
        ("prompt;chosen;rejected\nWhy?;Yes, yes;No\n", "a.csv"),
        ("prompt|chosen|rejected\nWhy?|Yes, yes|No\n", "a.csv"),
        ("prompt (a, b, c, d)\tchosen\trejected\nWhy?\tYes, yes\tNo\n", "a.tsv"),
        ('"prompt, which people wrote, or so";chosen;rejected\nWhy?;Yes, yes;No\n', "a.csv"),
        ('prompt, chosen, rejected\nWhy?, "Yes, yes", "No"\n', "a.csv"),
    ],
)
def test_the_delimiter_is_found_and_may_be_named(text: str, name: str) -> None:
    (pair,) = _read(text, name).pairs
    assert (pair.prompt[0].content, pair.chosen, pair.rejected) == ("Why?", "Yes, yes", "No")


def test_quotes_after_a_space_are_warned_of() -> None:
    found = _read(HEADER + 'Why?, "Yes.",No.\n')
    assert found.pairs[0].chosen == ' "Yes."'
    assert not _read(HEADER + 'Why?," ""Yes.""",No.\n').issues  # a text that begins with a space
    assert "has a cell in quotes after a space (line 2), read with its quotes: remove the space" in found.issues[0].problem


def test_a_header_that_is_one_cell_is_refused_as_such() -> None:
    with pytest.raises(SparseRMError, match=r"has no column 'chosen', 'rejected': it has 'prompt:chosen:rejected'"):
        _read("prompt:chosen:rejected\nWhy?:Yes:No\n")


def test_lines_are_counted_from_the_line_that_names_the_delimiter() -> None:
    with pytest.raises(PairsError, match="joins lines 3 to 5"):
        _read('sep=;\nprompt;chosen;rejected\nq1;"g1;b1\nq2;g2;b2\nq3;good 5";b3\n')
