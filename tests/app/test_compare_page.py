"""The Compare page, driven without a browser."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

ROOT = Path(__file__).parents[2]
HOSTILE = [
    "<script>alert(1)</script> **bold** [x](javascript:alert(1))",
    "$x^2$ :red[no] مرحبا 👩‍👩‍👧 שלום",
    "a\n\n| b | c |\n|--|--|",
]


def _open(**link: object) -> AppTest:
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300).run()
    page.switch_page("pages/compare.py")
    for name, value in link.items():
        page.query_params[name] = value
    return page.run()


def _responses(page: AppTest) -> list[str]:
    return [area.value for area in page.text_area if area.label.startswith("Response")]


def _link(page: AppTest, name: str) -> list[str]:
    value = page.query_params.get(name, [])
    return value if isinstance(value, list) else [value]


def _press(page: AppTest, label: str) -> AppTest:
    next(button for button in page.button if button.label == label).click()
    return page.run()


def test_the_page_opens_with_a_starter_pair_and_another_head_brings_its_own() -> None:
    page = _open()
    assert not page.exception
    first = _responses(page)
    assert len(first) == 2 and all(first) and page.text_area(key="compare_prompt").value
    assert _link(page, "pair") == ["1"]
    page.selectbox(key="head").set_value("safety").run()
    assert not page.exception and _responses(page) != first
    page.text_area(key="compare_response_0").set_value("My own words.").run()
    page.selectbox(key="head").set_value("truthfulness").run()
    assert _responses(page)[0] == "My own words."


def test_responses_are_added_and_removed_and_nothing_else_is_lost() -> None:
    page = _open()
    before = _responses(page)
    _press(page, "Add a response")
    page.text_area(key="compare_response_2").set_value("third").run()
    _press(page, "Remove response 1")
    assert _responses(page) == [before[1], "third"]
    for _ in range(6):
        _press(page, "Add a response")
    assert len(_responses(page)) == 8
    assert next(button for button in page.button if button.label == "Add a response").disabled


def test_what_stands_in_the_fields_is_there_again_after_another_page() -> None:
    page = _open()
    page.text_area(key="compare_response_1").set_value("Stay.").run()
    page.switch_page("pages/score.py").run()
    page.switch_page("pages/compare.py").run()
    assert not page.exception and _responses(page)[1] == "Stay."


def test_short_texts_are_in_the_link_and_long_ones_are_not() -> None:
    page = _open()
    page.text_area(key="compare_response_0").set_value(HOSTILE[0]).run()
    assert _link(page, "r")[0] == HOSTILE[0] and "pair" not in page.query_params
    page.text_area(key="compare_response_0").set_value("word " * 500).run()
    assert "r" not in page.query_params
    assert any("too long for a link" in caption.value for caption in page.caption)


@pytest.mark.backbone
def test_a_link_shows_its_comparison_at_once_with_the_pinned_two() -> None:
    page = _open(p="Why *so*?", r=HOSTILE, a="3", b="1")
    assert not page.exception and _responses(page) == HOSTILE
    assert page.text_area(key="compare_prompt").value == "Why *so*?"
    assert "wins" in page.subheader[0].value
    assert [metric.label for metric in page.metric] == [
        "Win probability, A vs. B",
        "Margin, A minus B",
        "Reward of A",
        "Reward of B",
    ]
    rewards = dict(zip(page.dataframe[0].value["response"], page.dataframe[0].value["reward"], strict=True))
    assert page.metric[2].value == f"{rewards[3]:+.2f}" and page.metric[3].value == f"{rewards[1]:+.2f}"


@pytest.mark.backbone
def test_a_comparison_says_when_it_is_stale_and_an_empty_field_costs_nothing() -> None:
    page = _press(_open(), "Compare")
    assert not page.exception and not page.warning
    assert any("the margin of" in caption.value for caption in page.caption)
    page.text_area(key="compare_response_1").set_value("Something else.").run()
    assert "changed since" in page.warning[0].value
    assert not _press(page, "Compare").warning
    _press(page, "Add a response")
    _press(page, "Compare")
    assert "Response 3 is empty" in page.error[0].value
    assert _responses(page)[1] == "Something else." and page.metric


@pytest.mark.backbone
def test_a_pin_stays_when_texts_change_and_the_best_is_shown_where_nothing_is_pinned() -> None:
    page = _press(_open(), "Compare")
    best = int(page.dataframe[0].value["response"].iloc[0])
    assert page.segmented_control(key="compare_a").value == best
    page.segmented_control(key="compare_a").set_value(3 - best).run()
    assert page.segmented_control(key="compare_b").value == best
    assert page.metric[1].value.startswith("-")
    assert (_link(page, "a"), _link(page, "b")) == ([str(3 - best)], [str(best)])
    again = _open(**{name: _link(page, name)[0] for name in ("pair", "a", "b")})
    assert [metric.value for metric in again.metric] == [metric.value for metric in page.metric]
    page.text_area(key="compare_prompt").set_value("Another question?").run()
    assert _press(page, "Compare").segmented_control(key="compare_a").value == 3 - best


@pytest.fixture
def short_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """The context of the default backbone ends after 64 tokens."""
    from sparserm import SparseRM

    monkeypatch.setattr(SparseRM.from_pretrained("truthfulness").backbone.chat, "max_length", 64)


@pytest.mark.backbone
@pytest.mark.usefixtures("short_context")
def test_prompts_that_were_truncated_are_said_in_both_views() -> None:
    long = f"{uuid.uuid4()}: {'and another word ' * 40}"  # no other test has stored it
    page = _open()
    page.text_area(key="compare_prompt").set_value(long).run()
    _press(page, "Compare")
    assert not page.exception
    assert [one.value for one in page.warning if "prompt tokens were truncated on the left" in one.value]
    page = _open(compare_mode="Best of N")
    page.text_area(key="best_of_n_text").set_value(f"{long}\n---\nYes.\n---\nNo.\n===\nShort\n---\nYes.").run()
    _press(page, "Rank")
    assert not page.exception
    assert "2 candidates exceed the context length; prompts were truncated on the left." in [one.value for one in page.warning]


# ------------------------------------------------------------------------------------------------------------ best of N


@pytest.mark.backbone
def test_pasted_candidates_are_ranked_and_make_pairs() -> None:
    page = _open(compare_mode="Best of N")
    text = f"{HOSTILE[0]}\n---\nYes.\n---\nNo, as trials show.\n---\n{HOSTILE[1]}\n===\nQ2\n---\nalone"
    page.text_area(key="best_of_n_text").set_value(text).run()
    _press(page, "Rank")
    assert not page.exception
    assert [metric.value for metric in page.metric][:2] == ["2", "4"]
    best, ranking = (table.value for table in page.dataframe[-2:])
    assert best["best"][0] == ranking["response"][0] and ranking["rank"].tolist() == [1, 2, 3, 1]
    assert any("only response" in str(table.value) for table in page.dataframe)
    page.number_input(key="best_of_n_margin").set_value(1000.0).run()
    assert page.metric[-1].value == "0"
    page.text_area(key="best_of_n_text").set_value("Q\n---\na\n---\nb").run()
    assert "changed since" in page.warning[0].value


@pytest.mark.backbone
def test_an_uploaded_file_is_ranked_and_found_again_by_its_link(tmp_path) -> None:
    page = _open(compare_mode="Best of N")
    page.segmented_control(key="best_of_n_way").set_value("Upload a file").run()
    _press(page, "Rank")
    assert "No file was uploaded" in page.error[0].value
    page.file_uploader[0].set_value(("x.csv", b"prompt,response\nQ,yes\nQ,no\n", "text/csv")).run()
    _press(page, "Rank")
    assert not page.exception and [metric.value for metric in page.metric][:2] == ["1", "2"]
    again = _open(compare_mode="Best of N", candidates=_link(page, "candidates")[0])
    assert [metric.value for metric in again.metric] == [metric.value for metric in page.metric]
    assert again.text_area(key="best_of_n_text").value == "Q\n---\nyes\n---\nno"  # what is ranked, not the example
    gone = _open(compare_mode="Best of N", candidates="0" * 64)
    assert gone.text_area(key="best_of_n_text").value == "" and gone.error


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (("x.csv", b"\x89PNG\r\n\x1a\n\0", "text/csv"), "is a PNG image"),
        (("x.csv", b"question,answer\na,b\n", "text/csv"), "expected 'prompt' with 'responses'"),
        (("x.jsonl", b'{"prompt": "Q", "responses": [""]}', "text/csv"), "nothing is left to rank"),
    ],
)
def test_a_file_that_cannot_be_used_is_answered_with_what_helps(file, said) -> None:
    page = _open(compare_mode="Best of N")
    page.segmented_control(key="best_of_n_way").set_value("Upload a file").run()
    page.file_uploader[0].set_value(file).run()
    _press(page, "Rank")
    assert not page.exception
    assert said in page.error[0].value.replace("\\", "")


def test_a_link_to_candidates_that_are_not_here_says_so() -> None:
    page = _open(compare_mode="Best of N", candidates="<b>no</b>")
    assert not page.exception and "No candidates" in page.error[0].value


@pytest.mark.backbone
def test_a_feature_of_the_margin_is_chosen_and_leads_on() -> None:
    page = _open(pair="1")
    assert not page.exception and not page.get("page_link")
    page.selectbox(key="compare_difference bar").select_index(0).run()
    assert not page.exception
    links = {link.proto.label for link in page.get("page_link")}
    assert {"Pairs that differ in it", "Edit its weight"} <= links and any("Open feature" in label for label in links)
