"""The sidebar: a head with its layer, or a layer and SAE without a head, and which pairs a page shows for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from sparserm.backbone import smollm2
from sparserm.heads.library import keep_head
from sparserm.heads.saved import load_head
from sparserm.pairs.sources import keep_upload, list_sources, rename_upload
from sparserm.pairs.split import short_key
from sparserm.types import Message
from sparserm.ui.shared.context import NO_HEAD

ROOT = Path(__file__).parents[2]
NEED_A_HEAD = ("score", "compare", "edit", "evaluate", "use")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of the test's own. Pages that read pairs end there: no language model is needed."""
    monkeypatch.setenv("SPARSERM_HOME", str(tmp_path / "home"))
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("SPARSERM_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("sparserm.ui.shared.pairs_picker.represented", lambda source: st.stop())
    return tmp_path / "home"


def _open(page: str = "", **link: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    app.query_params.update(link)
    app.run()
    return _go(app, page) if page else app


def _go(app: AppTest, page: str) -> AppTest:
    app.switch_page(f"pages/{page}.py").run()
    assert not app.exception
    return app


def _layer(app: AppTest) -> int:
    """The layer that is lit in the control, which has to be the one that is read."""
    assert not app.exception
    lit: int = app.segmented_control(key="layer").value
    assert app.session_state["_place"].layer == lit
    return lit


def _texts(app: AppTest) -> str:
    return "\n".join(one.value for kind in (app.caption, app.info, app.error, app.warning) for one in kind)


# ------------------------------------------------------------------------------------------------------------ the layer


def test_a_newly_selected_head_tells_the_browser_its_layer_and_every_layer_can_be_clicked() -> None:
    app = _open(layer="10")
    assert _layer(app) == 10
    app.selectbox(key="head").set_value("safety").run()
    assert _layer(app) == 15
    assert app.segmented_control(key="layer").proto.set_value, "the browser keeps layer 10 lit unless it is told"
    for layer in (20, 10, 15):
        app.segmented_control(key="layer").set_value(layer).run()
        assert _layer(app) == layer
        assert app.session_state["_context"].card.hook_point.layer == layer


def test_links_light_the_layer_that_they_name() -> None:
    assert _layer(_open(head="safety", layer="20")) == 20
    app = _open(head=NO_HEAD, layer="20")
    assert _layer(app) == 20
    app.selectbox(key="head").set_value("helpfulness").run()
    assert _layer(app) == 15


def test_a_link_to_a_layer_that_is_not_there_says_so() -> None:
    app = _open(head="safety", layer="7")
    assert _layer(app) == 15
    assert "names layer '7', expected one of 10, 15, 20; layer 15 is shown" in _texts(app)


def test_without_a_head_every_layer_can_be_clicked_and_its_sae_is_read() -> None:
    app = _open(head="safety", layer="10")
    app.selectbox(key="head").set_value(NO_HEAD).run()
    assert _layer(app) == 10, "where the last head reads"
    for layer in (20, 15):
        app.segmented_control(key="layer").set_value(layer).run()
        assert _layer(app) == layer
        assert app.session_state["_place"].sae_name == f"smollm2/layer_{layer}"
    assert "layer\\_15, 1,024 latents" in _texts(app)
    assert app.session_state["_place"] == _open(head="safety").session_state["_place"]


def test_several_saes_of_a_layer_can_be_chosen(home: Path) -> None:
    (home / "saes" / "own").mkdir(parents=True)
    (home / "saes" / "own" / "fifteen").symlink_to(ROOT / "assets" / "saes" / "smollm2" / "layer_15")
    app = _open(head=NO_HEAD)
    assert app.selectbox(key="autoencoder").options == ["smollm2/layer_15", "own/fifteen"]
    app.selectbox(key="autoencoder").set_value("own/fifteen").run()
    assert app.session_state["_place"].sae_name == "own/fifteen"
    app.segmented_control(key="layer").set_value(20).run()
    assert app.session_state["_place"].sae_name == "smollm2/layer_20"


# ------------------------------------------------------------------------------------------------------- without a head


@pytest.mark.parametrize("page", NEED_A_HEAD)
def test_a_page_that_needs_a_head_says_so_and_offers_the_last_one(page: str) -> None:
    app = _open(head="safety")
    app.selectbox(key="head").set_value(NO_HEAD).run()
    _go(app, page)
    assert app.title and "This needs a head, and none is selected" in _texts(app)
    next(one for one in app.button if one.label == "Use the head safety").click().run()
    assert not app.exception and "This needs a head" not in _texts(app)
    assert app.session_state["_context"].key == "safety" and app.selectbox(key="head").value == "safety"


def test_the_audit_does_what_needs_no_head_and_says_what_needs_one() -> None:
    app = _open("audit", head=NO_HEAD)
    assert any("Surface features alone" in one.value for one in app.subheader)
    assert "This needs a head" in _texts(app)


def test_a_head_is_trained_where_the_sidebar_says() -> None:
    app = _open("train", head=NO_HEAD, layer="20")
    assert "Trains on" in _texts(app)
    assert app.session_state[f"train layers of {smollm2.FINGERPRINT}"] == ["smollm2/layer_20"]


# ------------------------------------------------------------------------------------------------------- pairs of a head


def _rows(n: int = 12, what: str = "Question") -> bytes:
    rows = [{"prompt": f"{what} {i}?", "chosen": f"Yes {i}.", "rejected": f"No {i}."} for i in range(n)]
    return "\n".join(map(json.dumps, rows)).encode()


def _own_head(training: str, test: str, what: str = "Question") -> None:
    """A head of the user's, trained on the first prompts of :func:`_rows`."""
    saved = load_head("safety")
    card = replace(saved.card, name="mine", training={**saved.card.training, "data": training})
    card = replace(card, metrics={**card.metrics, "measured_on": test})
    keys = np.array([short_key((Message("user", f"{what} {i}?"),)) for i in range(8)])
    keep_head(replace(saved, card=card, prompt_keys=np.sort(keys)), "mine")


def _pairs(app: AppTest) -> str | None:
    shown: str | None = app.selectbox(key="pairs").value
    return shown


@pytest.mark.parametrize("page", ["insights", "features", "evaluate", "edit", "audit"])
def test_a_head_remembers_its_pairs(page: str) -> None:
    keep_upload(b"{broken", "a.json")
    keep_upload(_rows(what="Other"), "b.jsonl")
    keep_upload(_rows(), "z.jsonl")
    _own_head("z.jsonl (train)", "z.jsonl (test)")
    app = _open(page, head="mine")
    assert _pairs(app) == "z.jsonl (uploaded)"
    assert "which is not here" not in _texts(app)


def test_pairs_that_are_gone_are_replaced_by_ones_that_can_be_used_and_that_is_said() -> None:
    keep_upload(b"{broken", "a.json")
    _own_head("z.jsonl (train)", "z.jsonl (test)")
    app = _open("insights", head="mine")
    assert _pairs(app) == "truthfulness (starter pairs)"
    assert "trained on z.jsonl (train), which is not here. Starter pairs of another task are used instead." in _texts(app)
    app = _open("evaluate", head="safety")
    assert _pairs(app) == "safety (starter pairs)"
    assert "tested on pku\\_saferlhf.test.jsonl, which is not here. Starter pairs of its task are used instead." in _texts(app)


def test_a_head_without_test_pairs_is_evaluated_on_its_training_pairs_and_that_is_said() -> None:
    keep_upload(_rows(), "z.jsonl")
    _own_head("z.jsonl", "cross-validation over prompts")
    app = _open("evaluate", head="mine")
    assert _pairs(app) == "z.jsonl (uploaded)"
    assert "by cross-validation over prompts, without pairs of its own. Its training pairs are used instead." in _texts(app)


def test_another_file_of_that_name_is_not_taken_for_the_training_pairs() -> None:
    keep_upload(_rows(what="Other"), "z.jsonl")
    _own_head("z.jsonl", "cross-validation over prompts")
    app = _open("insights", head="mine")
    assert _pairs(app) == "truthfulness (starter pairs)" and "which is not here" in _texts(app)


def test_the_pairs_follow_the_head_until_others_are_selected_which_then_stay_on_all_pages(tmp_path: Path) -> None:
    keep_upload(_rows(), "z.jsonl")
    _own_head("z.jsonl", "t.jsonl")
    (tmp_path / "data" / "t.jsonl").write_bytes(_rows(what="Other"))
    app = _open("insights", head="safety")
    assert _pairs(app) == "safety (starter pairs)"
    app.selectbox(key="head").set_value("mine").run()
    assert _pairs(app) == "z.jsonl (uploaded)"
    assert _pairs(_go(app, "evaluate")) == "t.jsonl"
    app.selectbox(key="pairs").set_value("helpfulness (starter pairs)").run()
    assert "used instead" not in _texts(app)
    assert _pairs(_go(app, "insights")) == "helpfulness (starter pairs)"
    app.selectbox(key="head").set_value("safety").run()
    assert _pairs(app) == "helpfulness (starter pairs)"


def test_a_link_decides_over_the_head() -> None:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120).run()
    app.query_params["pairs"] = "redteam (starter pairs)"
    assert _pairs(_go(app, "insights")) == "redteam (starter pairs)"
    app.selectbox(key="head").set_value("safety").run()
    assert _pairs(app) == "redteam (starter pairs)"


def test_pages_of_pairs_lead_to_their_insights() -> None:
    keep_upload(_rows(), "z.jsonl")
    app = _open("audit", pairs="z.jsonl (uploaded)")
    (link,) = [one for one in app.get("page_link") if one.proto.label == "See what these pairs reward"]
    assert link.proto.page == "insights" and "open=z.jsonl" in link.proto.query_string
    app.query_params["open"] = "z.jsonl (uploaded)"
    assert _pairs(_go(app, "insights")) == "z.jsonl (uploaded)"
    assert "open" not in app.query_params


# ---------------------------------------------------------------------------------------------------- names of uploads


def test_an_upload_is_renamed_and_a_name_that_is_taken_is_refused() -> None:
    keep_upload(_rows(), "a.jsonl")
    keep_upload(_rows(what="Other"), "b.jsonl")
    app = _open("insights", pairs="a.jsonl (uploaded)")
    app.selectbox(key="pairs").set_value("a.jsonl (uploaded)").run()
    app.text_input(key="pairs new name of a.jsonl (uploaded)").set_value("b").run()
    next(one for one in app.button if one.label == "Rename the file").click().run()
    assert "There is an upload called b.jsonl already, so a.jsonl was not renamed; give another name" in _texts(app)
    assert _pairs(app) == "a.jsonl (uploaded)"
    app.text_input(key="pairs new name of a.jsonl (uploaded)").set_value("Judged by hand.jsonl").run()
    next(one for one in app.button if one.label == "Rename the file").click().run()
    assert not app.exception and _pairs(app) == "Judged_by_hand.jsonl (uploaded)"
    assert "a.jsonl (uploaded)" not in list_sources()


def test_a_head_finds_its_pairs_under_their_new_name() -> None:
    _, source = keep_upload(_rows(), "a.jsonl")
    _own_head("a.jsonl (train)", "a.jsonl (test)")
    rename_upload(source, "b")
    assert _pairs(_open("evaluate", head="mine")) == "b.jsonl (uploaded)"


def test_after_a_deletion_the_default_is_shown_and_the_link_is_not_blamed() -> None:
    keep_upload(_rows(), "a.jsonl")
    app = _open("insights", head="safety")
    app.selectbox(key="pairs").set_value("a.jsonl (uploaded)").run()
    next(one for one in app.button if one.label == "Delete the file").click().run()
    assert not app.exception and _pairs(app) == "safety (starter pairs)"
    assert "The link names pairs" not in _texts(app)
