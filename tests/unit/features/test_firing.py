"""Where latents fire: the words, what stands beside them, and their places, from tokens and activations by hand."""

from __future__ import annotations

import numpy as np
import pytest

import sparserm.features.firing as module
from sparserm.features.firing import SPREAD, STRONGEST, describe_firings, find_firings
from sparserm.representations.represent import represent_pairs
from sparserm.types import HookPoint, Message, PreferencePair
from tests.unit.tiny import firing_sae


def test_words_neighbours_and_places_are_weighted_by_activation() -> None:
    read = [
        (0, ["Call", " a", " doc", "tor", " now", "."], np.array([0, 0, 0, 3.0, 0, 0])),
        (1, [" Doctor", " Who"], np.array([2.0, 0])),
        (2, ["An", " ambulance"], np.array([0, 4.0])),
    ]
    found = describe_firings(read)
    assert dict(found.words) == pytest.approx({"doctor": 5 / 9, "ambulance": 4 / 9})
    assert dict(found.before) == pytest.approx({"an": 4 / 9, "a": 3 / 9, "": 2 / 9})
    assert dict(found.after) == pytest.approx({"": 4 / 9, "now": 3 / 9, "who": 2 / 9})
    assert [word for word, _ in found.words] == ["doctor", "ambulance"]
    assert (found.first, found.last) == pytest.approx((2 / 9, 4 / 9))
    assert (found.n_firings, found.n_texts) == (3, 3)
    assert found.evidence == "fires on: doctor · ambulance"


def test_weak_firings_do_not_count_and_the_strongest_text_comes_first() -> None:
    found = describe_firings([(0, ["so", " it", " is"], np.array([0.2, 1.0, 0])), (1, ["it", " was"], np.array([2.0, 0]))])
    assert found.words == (("it", 1.0),)
    assert [one.text for one in found.snippets] == [1, 0]
    assert str(found.snippets[1]) == "…so [it] is…"


def test_line_breaks_and_marks_are_words_and_a_part_of_one_is_the_whole() -> None:
    found = describe_firings([(0, ["Don", "'t", "!", "\n\n", "Go"], np.array([0, 1.0, 1.0, 1.0, 0]))])
    assert dict(found.words) == pytest.approx({"don't": 1 / 3, "!": 1 / 3, "⏎": 1 / 3})
    assert dict(found.after)["go"] == pytest.approx(1 / 3)


def test_a_latent_that_is_silent_has_no_evidence() -> None:
    found = describe_firings([])
    assert found.evidence == "" and found.words == found.snippets == ()


def test_all_latents_at_once_are_found_as_each_alone(tiny_backbone) -> None:
    sae = firing_sae(HookPoint(1))
    prompt = (Message("user", "Hello?"),)
    pairs = [PreferencePair(prompt, f"alpha {i} beta " * (1 + i % 3), f"gamma {i % 2} delta") for i in range(40)]
    found = represent_pairs(pairs, tiny_backbone, {sae.hook: sae}, "mean", strengths=True)[sae.hook]
    rows = np.arange(80)
    together = find_firings(range(sae.d_sae), pairs, found, rows, tiny_backbone, sae)
    assert sum(bool(one.n_texts) for one in together.values()) > 0
    assert max(len(one.snippets) for one in together.values()) == STRONGEST + SPREAD
    for feature in range(sae.d_sae):
        alone = find_firings([feature], pairs, found, rows, tiny_backbone, sae)[feature]
        shares = [[share for _, share in one.words] for one in (alone, together[feature])]
        assert shares[0] == pytest.approx(shares[1], abs=1e-4)
        assert sorted(map(str, alone.snippets)) == sorted(map(str, together[feature].snippets))


def test_a_text_is_laid_out_once_however_many_latents_fire_in_it(monkeypatch) -> None:
    laid_out: list[str] = []
    spans = module._spans
    monkeypatch.setattr(module, "_spans", lambda text: (laid_out.append(text), spans(text))[1])
    tokens = ("Never", " seen", " before", " here")
    for latent in range(50):
        describe_firings([(0, tokens, np.full(4, 1.0 + latent))])
    assert laid_out == ["Never seen before here"]


def test_only_the_given_responses_are_read(tiny_backbone) -> None:
    sae = firing_sae(HookPoint(1))
    prompt = (Message("user", "Hello?"),)
    pairs = [PreferencePair(prompt, f"alpha {i} beta", f"gamma {i} delta") for i in range(4)]
    found = represent_pairs(pairs, tiny_backbone, {sae.hook: sae}, "mean", strengths=True)[sae.hook]
    feature = int(np.bincount(found.chosen.strengths.indices).argmax())
    read = find_firings([feature], pairs, found, np.array([0, 1]), tiny_backbone, sae)[feature]
    assert read.n_texts == 2 and all("alpha" in one.before + one.word + one.after for one in read.snippets)
