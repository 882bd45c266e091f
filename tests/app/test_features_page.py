"""The Features page, driven without a browser: every latent can be found, looked at and named, and the link says which."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from sparserm.features.llm_labels import MODEL, URL
from sparserm.heads.labels import AutoLabel, Detection, save_auto_label, save_label, user_labels
from sparserm.heads.saved import load_head
from sparserm.jobs import queue
from sparserm.pairs.sources import list_sources
from sparserm.representations.represent import represent_pairs
from sparserm.representations.store import stored
from sparserm.sae.seeds import SeedStability
from sparserm.support.defaults import TASKS, assets_dir
from sparserm.types import Message
from sparserm.ui.features.state import ALL, TEXT
from sparserm.ui.shared.context import NO_HEAD

ROOT = Path(__file__).parents[2]
HEAD = "safety"
#: Latents of its SAE.
D_SAE = 1024
PAIRS = f"{HEAD} (starter pairs)"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory):
    """A data folder of the module's own, with the default backbone of the user's; a third of the starter pairs will do."""
    from sparserm.backbone.smollm2 import ensure_default_backbone

    folder = ensure_default_backbone()
    own = tmp_path_factory.mktemp("home")
    (own / "backbones").mkdir()
    (own / "backbones" / folder.name).symlink_to(folder)
    (own / "pairs").mkdir()
    for task in TASKS:
        lines = (assets_dir() / "pairs" / f"{task}.jsonl").read_text().splitlines(keepends=True)
        (own / "pairs" / f"{task}.jsonl").write_text("".join(lines[:24]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSERM_HOME", str(own))
        patch.delenv("SPARSERM_DATA", raising=False)
        patch.setattr("sparserm.pairs.sources.assets_dir", lambda: own)
        yield own


@pytest.fixture(scope="module")
def read(home: Path) -> None:
    """The starter pairs have been read by the language model."""
    from sparserm.model import shared_backbone
    from sparserm.sae.autoencoder import load_sae

    card = load_head(HEAD).card
    sae = load_sae(card.sae)
    with stored() as store:
        backbone = shared_backbone(card.backbone, sae.hook.layer)
        represent_pairs(list_sources()[PAIRS].load().pairs, backbone, {sae.hook: sae}, "mean", strengths=True, store=store)


def _page(**query: str) -> AppTest:
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300)
    page.query_params["head"] = HEAD
    page.run()
    page.switch_page("pages/features.py")
    page.query_params.update(query)
    page.run()
    assert not page.exception
    return page


def _metrics(page: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in page.metric}


def _listed(page: AppTest) -> list[int]:
    return page.dataframe[0].value["feature"].tolist()


def _counts(page: AppTest) -> str:
    return next(caption.value for caption in page.caption if "hidden" in caption.value)


def _pick() -> None:
    from sparserm.ui.features import state

    for token in (0, 0, 1, 2):  # the second press on a token takes the first back
        state.pick_token(token)


@pytest.mark.backbone
def test_before_the_pairs_are_read_the_heads_own_figures_are_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparserm.ui.shared.pairs_picker.INLINE_TOKENS", 0)
    page = _page(pairs="helpfulness (starter pairs)")
    assert "have no stored representations" in page.info[0].value
    assert sorted(_listed(page)) == load_head(HEAD).head.features.tolist()


@pytest.mark.backbone
@pytest.mark.usefixtures("read")
class TestWithPairs:
    def test_the_first_visit_shows_the_heads_features_and_the_heaviest_ones_card(self) -> None:
        page = _page()
        head = load_head(HEAD).head
        weights = dict(zip(head.features.tolist(), head.weights.tolist(), strict=True))
        heaviest = max(weights, key=lambda feature: abs(weights[feature]))
        assert sorted(_listed(page)) == sorted(weights) and _listed(page)[0] == heaviest
        assert "none hidden" in _counts(page)
        assert page.query_params["feature"] == str(heaviest)
        assert page.subheader[0].value.startswith(f"feature {heaviest} of {D_SAE}")
        assert _metrics(page)["Weight in the head"] == f"{weights[heaviest]:+.3f}"
        assert page.text_area(key="text").value

    def test_seeds_that_have_a_latent_are_shown_where_they_were_measured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        feature = int(load_head(HEAD).head.features[0])
        monkeypatch.setattr("sparserm.sae.seeds.seeds_of", lambda sae, fingerprint, d_sae: None)
        monkeypatch.setattr("sparserm.ui.shared.sae_facts.read_seeds", lambda folder, d_sae: None)
        page = _page(feature=str(feature))
        assert "other seed" not in " ".join(caption.value for caption in page.caption)
        assert "seeds_direction" not in page.dataframe[0].value
        shares = np.zeros(D_SAE)
        shares[feature] = 1.0
        found = SeedStability(2, shares, shares / 2)
        monkeypatch.setattr("sparserm.sae.seeds.seeds_of", lambda sae, fingerprint, d_sae: found)
        monkeypatch.setattr("sparserm.ui.shared.sae_facts.read_seeds", lambda folder, d_sae: found)
        page = _page(feature=str(feature))
        captions = " ".join(caption.value for caption in page.caption)
        assert "found again with other seeds: 0% of latents (direction), 0% (firing), 2 other seeds" in captions
        assert "found in 2 of 2 other seeds (direction), 1 of 2 (firing)" in captions
        row = page.dataframe[0].value.set_index("feature").loc[feature]
        assert (row["seeds_direction"], row["seeds_firing"]) == (100, 50)

    def test_all_latents_are_there_on_demand_with_filters_on(self) -> None:
        page = _page()
        page.segmented_control(key="list").set_value("All latents").run()
        shown = len(_listed(page))
        assert shown < D_SAE and f"{shown:,} latents shown, **{D_SAE - shown:,} hidden**" in _counts(page)
        page.toggle(key="hide_dense").set_value(False).run()
        page.toggle(key="hide_begin").set_value(False).run()
        assert sorted(_listed(page)) == list(range(D_SAE)) and "**0 hidden**" in _counts(page)

    def test_search_finds_latents_that_fire_on_a_word_and_says_so(self) -> None:
        page = _page(list="All latents", find="doctor")
        found = page.dataframe[0].value
        assert len(found) and any("fires on" in match for match in found["match"])

    def test_a_search_without_results_says_what_was_searched_and_offers_all_latents(self) -> None:
        page = _page(find="§§§")
        assert "Nothing found for “§§§” in the head's features. Searched: names, words they fire on" in page.info[0].value
        next(button for button in page.button if button.label.startswith("Search all")).click().run()
        assert page.segmented_control(key="list").value == "All latents"
        assert f"in the {D_SAE:,} latents" in page.info[0].value

    def test_a_link_opens_its_feature_list_and_order(self) -> None:
        page = _page(feature="725", list="All latents", sort="number", find="72", examples="By activation quartile")
        assert page.subheader[0].value.startswith("feature 725 of")
        assert page.selectbox(key="sort").value == "number"
        assert _listed(page) == [72]
        assert page.segmented_control(key="examples").value == "By activation quartile"
        assert _metrics(page)["Weight in the head"] == "none"

    @pytest.mark.parametrize("wrong", ["1024", "-1", "abc", "1e3", "²"])
    def test_a_link_to_no_feature_says_so_and_opens_the_heaviest(self, wrong: str) -> None:
        page = _page(feature=wrong)
        assert page.query_params["feature"] == str(_listed(page)[0])
        assert f"'{wrong}'" in page.warning[0].value and "from 0 to 1023" in page.warning[0].value
        page.run()
        assert page.warning
        page.number_input(key="feature number").set_value(17).run()
        assert not page.warning

    def test_a_link_to_no_layer_says_so(self) -> None:
        page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300)
        page.query_params.update({"head": HEAD, "layer": "x"})
        page.run()
        assert "layer 'x', expected one of 10, 15, 20" in page.warning[0].value
        page.segmented_control(key="layer").set_value(10).run()
        assert not page.warning

    def test_typing_a_number_goes_to_the_feature_and_the_link_follows(self) -> None:
        page = _page()
        page.number_input(key="feature number").set_value(17).run()
        assert page.subheader[0].value.startswith("feature 17 of") and page.query_params["feature"] == "17"

    def test_next_goes_down_the_list(self) -> None:
        page = _page()
        second = _listed(page)[1]
        page.button(key="Next feature").click().run()
        assert page.subheader[0].value.startswith(f"feature {second} of")

    def test_another_layer_begins_at_its_own_heaviest_feature(self) -> None:
        page = _page(feature="17")
        page.segmented_control(key="layer").set_value(10).run()
        assert page.query_params["feature"] != "17"

    def test_a_name_is_kept_and_is_the_title_and_in_the_list(self) -> None:
        page = _page()
        card, feature = load_head(HEAD).card, _listed(page)[0]
        key = f"name of {card.sae_fingerprint} {feature} card"
        page.text_input(key=key).set_value("<b>*mine*</b>  قائمة").run()
        assert user_labels(card.sae_fingerprint) == {feature: "<b>*mine*</b> قائمة"}
        assert page.dataframe[0].value["label"][feature] == "<b>*mine*</b> قائمة"
        assert page.subheader[0].value == r"\<b\>\*mine\*\</b\> قائمة"
        assert any("your name for it" in caption.value for caption in page.caption)
        page.text_input(key=key).set_value("x" * 200).run()
        assert "200 characters" in page.error[0].value
        assert page.text_input(key=key).value == "x" * 200
        next(button for button in page.button if button.label == "Remove the name").click().run()
        assert user_labels(card.sae_fingerprint) == {} and page.subheader[0].value.startswith(f"feature {feature} of")

    def test_a_click_on_a_token_lists_what_fires_there(self) -> None:
        page = _page(text="No. Never do that.")
        picked = AppTest.from_function(_pick, default_timeout=300)
        picked.run()
        assert picked.session_state["find"] == ""
        assert not picked.exception and (picked.session_state["list"], picked.session_state["token"]) == ("Firing on a text", 2)
        page.session_state["list"], page.session_state["token"] = "Firing on a text", 2
        page.run()
        assert set(page.dataframe[0].value["at"]) == {"3 ·Never"}

    def test_latents_that_fire_on_a_text_are_found_strongest_first(self) -> None:
        page = _page(list="Firing on a text")
        page.text_area(key="text").set_value("No. Never do that.").run()
        strengths = page.dataframe[0].value["on_text"].tolist()
        assert strengths == sorted(strengths, reverse=True) and strengths[-1] > 0
        page.text_area(key="text").set_value("").run()
        assert not page.exception

    def test_a_link_brings_its_text_along(self) -> None:
        page = _page(text="Never do that.")
        assert page.text_area(key="text").value == "Never do that."

    def test_the_text_follows_what_was_scored_until_the_user_types(self) -> None:
        page = _page()
        first = page.text_area(key="text").value
        scored = SimpleNamespace(request=SimpleNamespace(prompt=(Message("user", "Why?"),), response="Because."))
        page.session_state["scored"] = scored
        page.run()
        assert first != page.text_area(key="text").value == "Because."
        page.text_area(key="text").set_value("Mine.").run()
        page.session_state["scored"] = SimpleNamespace(request=SimpleNamespace(prompt=scored.request.prompt, response="So."))
        page.run()
        assert page.text_area(key="text").value == "Mine."

    def test_every_kind_of_example_is_drawn(self) -> None:
        page = _page()
        for which in ("By activation quartile", "Misleading", "Strongest"):
            page.segmented_control(key="examples").set_value(which).run()
            assert not page.exception and not page.error

    def test_a_damaged_label_file_is_said_and_left_alone(self, home: Path) -> None:
        fingerprint = load_head(HEAD).card.sae_fingerprint
        save_label(fingerprint, 1, "one")
        path = home / "labels" / f"{fingerprint}.json"
        path.write_text("{")
        page = _page()
        path.unlink()
        assert "fix the file" in page.error[0].value

    def test_the_job_is_offered_and_started_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(queue, "_spawn", lambda folder: None)
        monkeypatch.setattr(queue, "_is_alive", lambda found: True)
        page = _page()
        page.button(key="prepare").click().run()
        (job,) = (one for one in queue.list_jobs() if one.kind == "features")
        assert queue.spec(job.id)["head"] == HEAD
        assert not any(button.key == "prepare" for button in page.button)
        queue.cancel(job.id)

    def test_without_a_head_every_latent_is_there_and_nothing_of_a_head(self) -> None:
        card = load_head(HEAD).card
        page = _page(feature="77")
        page.selectbox(key="head").set_value(NO_HEAD).run()
        assert not page.exception and page.session_state["_place"].sae_fingerprint == card.sae_fingerprint
        assert page.segmented_control(key="list").options == [ALL, TEXT] and page.segmented_control(key="list").value == ALL
        rows = page.dataframe[0].value
        assert len(rows) > 3 * len(load_head(HEAD).head.features) and not {"weight", "selected", "family"} & set(rows)
        assert rows["q"].is_monotonic_increasing
        assert "Score gap" in _metrics(page) and "Weight in the head" not in _metrics(page)
        assert page.query_params["feature"] == "77"
        assert not any(button.key == "label features" for button in page.button)
        page.segmented_control(key="list").set_value(TEXT).run()
        assert not page.exception and "on_text" in page.dataframe[0].value

    def test_automatic_labels_say_so_and_what_they_detect(self, home: Path) -> None:
        card, listed = load_head(HEAD).card, _listed(_page())
        score = Detection(0.91, (0.88, 0.94), 0.95, 200, 90)
        found = AutoLabel("<b>*negations*</b>", "", "rule", "a.jsonl", "abc", 900, 3000, (), (), score, score)
        save_auto_label(card.sae_fingerprint, listed[0], found)
        save_auto_label(card.sae_fingerprint, listed[1], replace(found, text=None, reason="fires in 3 of 3,000 responses"))
        save_label(card.sae_fingerprint, listed[2], "mine")
        save_auto_label(card.sae_fingerprint, listed[2], replace(found, source="tiny-llm", prompt="What is <b>it</b>?"))
        page = _page(feature=str(listed[0]))
        labels = page.dataframe[0].value["label"].tolist()
        assert labels[:3] == ["<b>*negations*</b> (auto 0.91)", "no reliable label (fires in 3 of 3,000 responses)", "mine"]
        assert page.dataframe[0].value["detects"].tolist()[:2] == [0.91] * 2
        assert np.isnan(page.dataframe[0].value["detects"].tolist()[2])  # the score is of the label that it replaced
        captions = [caption.value for caption in page.caption]
        assert any("**2 of 3** features" in caption for caption in captions)
        assert page.subheader[0].value == r"\<b\>\*negations\*\</b\>"
        assert any(caption.startswith("Automatic label · detection 0.91 (0.88 to 0.94)") for caption in captions)
        assert page.text_input(key=f"name of {card.sae_fingerprint} {listed[0]} card").value == ""
        page.button(key="Next feature").click().run()
        assert any(caption.value.startswith("No reliable label: fires in 3 of") for caption in page.caption)
        page.button(key="Next feature").click().run()
        assert page.code[0].value == "What is <b>it</b>?"
        assert any(caption.value.endswith("by tiny-llm") for caption in page.caption)
        shutil.rmtree(home / "labels")

    def test_labelling_is_a_job_and_asks_nobody_unless_told_to(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(queue, "_spawn", lambda folder: None)
        monkeypatch.setattr(queue, "_is_alive", lambda found: True)
        for name in (URL, MODEL):
            monkeypatch.delenv(name, raising=False)
        page = _page()
        assert not any(box.key == "ask endpoint" for box in page.checkbox)
        page.button(key="label features").click().run()
        (job,) = (one for one in queue.list_jobs() if one.kind == "labels")
        assert (queue.spec(job.id)["head"], queue.spec(job.id)["endpoint"]) == (HEAD, False)
        assert page.button(key="label features").disabled
        queue.cancel(job.id)
        monkeypatch.setenv(URL, "http://localhost:1/v1")
        monkeypatch.setenv(MODEL, "tiny-llm")
        page = _page()
        assert page.checkbox(key="ask endpoint").label.endswith("sent to http\\://localhost\\:1")
        assert not page.checkbox(key="ask endpoint").value
        page.checkbox(key="ask endpoint").check().run()
        page.button(key="label features").click().run()
        job = next(one for one in queue.list_jobs() if one.kind == "labels" and one.id != job.id)
        assert queue.spec(job.id)["endpoint"] is True
        queue.cancel(job.id)
