"""Snippets: which responses are shown, and what is lit in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparserm.insights.find import READ, find_insights, insights_of, snippet_places
from sparserm.insights.report import to_html, to_markdown
from sparserm.insights.shortcuts import LONGER, places_of
from sparserm.insights.snippets import choose_snippets, light, light_latents, light_shortcut, snippets_of
from sparserm.insights.values import Finding, Member
from sparserm.sae.autoencoder import load_sae
from sparserm.types import Message, PreferenceData, PreferencePair
from tests.unit.features.latents import pairs_where
from tests.unit.tiny import save_tiny_sae


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SPARSERM_HOME", str(tmp_path))


def _pair(prompt: str, chosen: str = "a", rejected: str = "b") -> PreferencePair:
    return PreferencePair((Message("user", prompt),), chosen, rejected)


def test_snippets_are_of_both_sides_of_different_prompts_and_texts_and_begin_with_the_strongest() -> None:
    pairs = [_pair(f"prompt {i // 2}", f"chosen {i}", f"rejected {i}") for i in range(20)]
    pairs[6] = _pair("another", "chosen 4")  # the text of another pair
    own = np.array([1] * 12 + [-1] * 7 + [0])
    peaks = np.arange(20.0)
    found = choose_snippets(own, peaks, pairs)
    assert [side for _, side in found] == ["chosen"] * 3 + ["rejected"] * 3
    prompts = [pairs[i].prompt[-1].content for i, _ in found]
    assert len(set(prompts)) == 6
    assert found[0][0] == 11 and found[3][0] == 18
    assert all(own[i] == (1 if side == "chosen" else -1) for i, side in found)


def test_of_few_pairs_all_are_shown_and_of_none_none() -> None:
    pairs = [_pair("one", "x"), _pair("one", "y"), _pair("two", "z")]
    assert choose_snippets(np.array([1, 1, 0]), np.ones(3), pairs) == [(0, "chosen")]
    assert choose_snippets(np.zeros(3), np.ones(3), pairs) == []


@pytest.mark.parametrize(
    ("shortcut", "text", "lit"),
    [
        ("has more negations", "It is not so, and never was.", ["not", "never"]),
        ("has more list items", "Here:\n- one\n- two", ["- ", "- "]),
        ("has more exclamation marks", "So! Yes!", ["!", "!"]),
        ("begins with “yes”", " “Yes, it is yes", ["Yes"]),
        ("begins with “no”", "Yes", []),
        (LONGER, "It is not so", []),
    ],
)
def test_what_a_shortcut_counts_is_lit(shortcut: str, text: str, lit: list[str]) -> None:
    assert [text[start:end] for start, end in places_of(shortcut, text)] == lit
    found = light_shortcut(shortcut, text)
    assert "".join(found.pieces) == text
    assert [piece for piece, value in zip(found.pieces, found.values, strict=True) if value] == lit


@pytest.fixture
def sae(tmp_path):
    """A tiny SAE of the tiny backbone."""
    return load_sae(str(save_tiny_sae(tmp_path / "sae")))


DATA = PreferenceData("d", tuple(_pair(f"question {i}", f"word {i} and on", f"word {i}") for i in range(40)), (), 40, "h")


def test_latents_are_lit_where_they_fire(tiny_backbone, sae) -> None:
    found = light_latents({0: [(0, "chosen"), (1, "rejected")], 3: [(0, "chosen")]}, DATA.pairs, tiny_backbone, sae)
    assert set(found) == {(0, (0, "chosen")), (0, (1, "rejected")), (3, (0, "chosen"))}
    for (latent, (i, side)), lit in found.items():
        assert "".join(lit.pieces) == getattr(DATA.pairs[i], side)
        text = tiny_backbone.tokenize(DATA.pairs[i].prompt, getattr(DATA.pairs[i], side))
        ((_, states),) = tiny_backbone.hidden_states([text], [sae.hook])
        expected = sae.encode(states[sae.hook][: text.end - text.start])[:, latent]
        assert lit.values == pytest.approx(expected.tolist(), abs=1e-4)


def test_the_first_findings_have_snippets_that_can_be_read_in_reports(tiny_backbone, sae) -> None:
    found = find_insights(DATA, backbone=tiny_backbone, sae=sae)
    assert found.findings and all(one.snippets for one in found.findings[:READ])
    length = next(one for one in found.findings if one.name == LONGER or LONGER in [each.name for each in one.family])
    assert {one.side for one in length.snippets} == {"chosen"} and len(length.snippets) == 3
    for one in found.findings[:READ]:
        texts = {"chosen": [pair.chosen for pair in DATA.pairs], "rejected": [pair.rejected for pair in DATA.pairs]}
        assert all("".join(part for part, _ in each.parts) in texts[each.side] for each in one.snippets)
        assert all(0 <= strength <= 1 for each in one.snippets for _, strength in each.parts)
        if one.feature is not None:
            assert all(any(strength for _, strength in each.parts) for each in one.snippets)


def test_long_responses_are_cut_around_what_is_lit_and_shown_as_text(tiny_backbone, sae) -> None:
    words = " ".join(f"w{i}" for i in range(200))
    data = replace(DATA, pairs=tuple(_pair(f"q {i}", f"{words} <b> no *{i}* {words}", f"well {i}") for i in range(40)))
    negations = next(one for one in _with_shortcut(data, tiny_backbone, sae) if one.name == "has more negations")
    (one, *_) = negations.snippets
    text = "".join(part for part, _ in one.parts)
    assert text.startswith("… ") and text.endswith(" …") and len(text) < 400
    assert [part for part, strength in one.parts if strength] == ["no"]
    found = replace(find_insights(DATA, backbone=tiny_backbone, sae=sae), findings=(negations,))
    assert "&lt;b&gt;" in to_html(found) and '<mark style="background' in to_html(found)
    assert "\\<b\\> **no** \\*" in to_markdown(found)


def _with_shortcut(data: PreferenceData, backbone, sae) -> list[Finding]:
    """Findings without the latents, which in texts like these all say the same."""
    n = len(data.pairs)
    pairs = pairs_where(np.zeros((2, n, sae.d_sae), bool))
    found = insights_of(data, pairs, sae)
    members = [Member(None, "has more negations")]
    places = [snippet_places(one, data, pairs) for one in members]
    read = light(members, places, data.pairs, backbone, sae)
    snippets = [snippets_of(lit, own, data.pairs) for lit, own in zip(read, places, strict=True)]
    return [replace(found.findings[0], feature=None, name="has more negations", snippets=own) for own in snippets]
