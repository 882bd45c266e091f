"""The Score page, driven without a browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from sparserm.ui.shared.starter_examples import examples

ROOT = Path(__file__).parents[2]


@pytest.fixture
def page() -> AppTest:
    return AppTest.from_file(str(ROOT / "app.py"), default_timeout=300).run()


def test_the_page_opens_with_an_example_filled_in(page: AppTest) -> None:
    assert not page.exception
    assert page.text_area(key="prompt").value
    assert page.text_area(key="response").value


@pytest.mark.backbone
def test_a_response_is_scored_and_the_result_says_when_it_is_stale(page: AppTest) -> None:
    page.button[0].click().run()
    assert not page.exception
    assert [metric.label for metric in page.metric] == [
        "Win probability vs. a typical chosen response",
        "Win probability vs. a typical rejected response",
        "Reward",
    ]
    assert any("they add up to" in caption.value for caption in page.caption)
    assert not page.warning
    assert page.button[1].label == "Score and compare with previous"  # offered at once
    page.text_area(key="response").set_value("Something else.").run()
    assert "changed since" in page.warning[0].value
    page.button[1].click().run()  # score, and compare with what was scored before
    assert not page.exception and not page.warning
    assert {"Win probability, edited vs. original", "Margin"} <= {metric.label for metric in page.metric}
    page.button[0].click().run()
    assert "Margin" not in {metric.label for metric in page.metric}


@pytest.mark.backbone
def test_an_empty_response_is_refused_and_the_fields_stay(page: AppTest) -> None:
    page.text_area(key="response").set_value("").run()
    page.button[0].click().run()
    assert not page.exception
    assert "Response is empty" in page.error[0].value
    assert page.text_area(key="prompt").value


def test_another_head_brings_its_own_example_but_leaves_a_users_text(page: AppTest) -> None:
    first = page.text_area(key="prompt").value
    page.selectbox(key="head").set_value("safety").run()
    assert not page.exception
    assert page.text_area(key="prompt").value != first
    page.text_area(key="response").set_value("My own words.").run()
    page.selectbox(key="head").set_value("truthfulness").run()
    assert page.text_area(key="response").value == "My own words."


def test_a_link_shows_its_head_and_says_when_that_head_is_another_version() -> None:
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300)
    page.query_params["head"], page.query_params["layer"], page.query_params["hash"] = "safety", "20", "00000000"
    page.run()
    assert page.selectbox(key="head").value == "safety"
    assert any("version 00000000" in warning.value for warning in page.warning)
    assert page.query_params["hash"] != ["00000000"]
    page.run()
    assert any("version 00000000" in warning.value for warning in page.warning)
    page.selectbox(key="head").set_value("redteam").run()
    assert not page.warning


def test_a_link_to_a_head_that_is_not_here_says_so() -> None:
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300)
    page.query_params["head"] = "<script>nobody</script>"
    page.run()
    assert not page.exception
    assert "not found" in page.warning[0].value


@pytest.mark.backbone
def test_a_link_fills_in_what_it_names_and_an_example_the_rest_and_shows_the_result() -> None:
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300)
    page.query_params["response"] = "Linked words."
    page.run()
    assert page.text_area(key="response").value == "Linked words."
    assert page.text_area(key="prompt").value
    assert not page.exception and "Reward" in {metric.label for metric in page.metric}
    page.text_area(key="response").set_value("Other words.").run()
    assert "changed since" in page.warning[0].value  # only the link itself is scored without a click


def test_the_link_holds_an_example_by_its_number_and_a_text_unless_it_is_long(page: AppTest) -> None:
    assert not {"example", "prompt", "response"} & set(page.query_params)  # the first visit's link stays short
    page.selectbox(key="example").set_value(examples("truthfulness")[2]).run()
    assert page.query_params["example"] == "3" and "response" not in page.query_params
    page.text_area(key="response").set_value("My own words.").run()
    assert page.selectbox(key="example").label == "Example, edited below"
    assert page.query_params["response"] == "My own words." and "example" not in page.query_params
    page.text_area(key="response").set_value("word " * 4_000).run()
    assert not {"prompt", "response"} & set(page.query_params)
    assert any("too long for a link" in caption.value for caption in page.caption)
    page.switch_page("pages/docs.py").run()
    page.switch_page("pages/score.py").run()
    assert page.text_area(key="response").value == "word " * 4_000  # what was typed is there on the way back


@pytest.mark.backbone
def test_a_link_to_an_example_shows_its_result() -> None:
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300)
    page.query_params["example"] = "2"
    page.run()
    assert not page.exception and "Reward" in {metric.label for metric in page.metric}
    assert page.selectbox(key="example").value.title.startswith("1. ")  # each pair has two: the second is its rejected one


@pytest.mark.backbone
def test_a_feature_is_chosen_without_a_mouse_and_leads_on(page: AppTest) -> None:
    page.button[0].click().run()
    captions = " ".join(one.value for one in page.caption)
    assert "does not check whether a response is true or safe; accuracy of this head" in captions
    before = [link.proto.label for link in page.get("page_link")]
    assert "Open in Compare" in before and "Pairs that differ in it" not in before
    page.selectbox(key="contributions bar").select_index(0).run()
    assert not page.exception
    links = {link.proto.label: link.proto.query_string for link in page.get("page_link")}
    feature = links["Pairs that differ in it"]
    assert feature.startswith("head=truthfulness&layer=15&")  # so that it holds in a new tab, too
    assert "&feature=" in feature and any(feature == query for name, query in links.items() if "Open feature" in name)
    assert links["Edit its weight"] == feature and any(
        "of feature" in option for option in page.segmented_control(key="colour").options
    )


@pytest.mark.backbone
def test_an_edit_shows_its_words(page: AppTest) -> None:
    page.text_area(key="response").set_value("Yes, it is so.").run()
    page.button[0].click().run()
    page.text_area(key="response").set_value("No, it is not so.").run()
    page.button[1].click().run()
    assert not page.exception
    assert any("taken out are struck through" in caption.value for caption in page.caption)


@pytest.mark.backbone
def test_thinking_is_left_out_and_that_is_said(page: AppTest) -> None:
    page.text_area(key="response").set_value("<think>Hm, sleep.</think>Keep a regular bedtime.").run()
    page.button(key="score").click().run()
    assert not page.exception
    assert "The thinking at the beginning of the response is left out" in " ".join(one.value for one in page.caption)
    page.text_area(key="response").set_value("Its end token is </s>").run()
    page.button(key="score").click().run()
    assert "The mark `</s>` of a turn is left out of the response." in [one.value for one in page.caption]
