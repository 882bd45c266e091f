"""Search for latents by name, by the words they fire on, by promoted tokens and by meaning; each row says how it matched."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from sparserm.features.listing import fire_on_text
from sparserm.features.logit_lens import Unembedding
from sparserm.features.search import LEAST_COSINE, QueryResults, close_words, fires_on, is_searchable, match_rows, words_of
from sparserm.sae.autoencoder import load_sae
from sparserm.types import Message
from tests.unit.tiny import save_tiny_sae

ROWS = pd.DataFrame(
    {
        "feature": [0, 1, 2, 3, 4, 5],
        "label": ["advises to see a doctor", "an explanation", "no reliable label (best guess: doctors)", "", "medicine", ""],
        "fires_on": ["", "because", "", "doctor · nurse", "", ""],
        "promotes": ["", "", "", "", "", "·doctor"],
        "token_rate": [0.1, 0.1, 0.1, 0.1, 0.1, 0.1],
    }
)


def _matches(query: str, results: QueryResults | None = None) -> dict[int, str]:
    found = match_rows(ROWS, query, results or QueryResults())
    return dict(zip(found["feature"].tolist(), found["match"].tolist(), strict=True))


def test_names_come_first_then_what_they_fire_on_then_guesses_tokens_and_meaning() -> None:
    found = _matches("doctor", QueryResults({1: 2.0}, {"medicine": 0.6}))
    assert list(found.items()) == [
        (0, "name"),
        (3, "fires on"),
        (1, "fires on"),
        (2, "best guess"),
        (5, "promotes"),
        (4, "meaning: medicine"),
    ]


def test_text_matches_at_the_beginning_of_a_word() -> None:
    assert _matches("plan") == {} and list(_matches("expl")) == [1]
    assert _matches("(best") == {2: "best guess"}
    assert _matches("3") == {3: "number"}


def test_latents_that_fire_everywhere_come_after_rare_ones() -> None:
    rows = ROWS.assign(token_rate=[0.9, 0.9, 0.001, 0.0, 0.1, 0.1], fires_on="")
    found = match_rows(rows, "ambulance", QueryResults({1: 3.0, 2: 2.0}))
    assert found["feature"].tolist() == [2, 1]


@pytest.mark.parametrize(
    ("query", "usable"), [("doctor", True), ("see a vet", True), ("725", False), ("…!!", False), ("x" * 61, False)]
)
def test_only_words_and_short_phrases_are_run(query: str, usable: bool) -> None:
    assert is_searchable(query) is usable


def test_words_that_every_text_has_are_not_compared() -> None:
    assert set(words_of(ROWS)) >= {"doctor", "nurse", "medicine"} and not {"the", "because", "see"} & set(words_of(ROWS))


def test_close_words_are_of_one_token_and_above_the_least_cosine() -> None:
    vocabulary = {" doctor": [0], " nurse": [1], " rock": [2], " ultraproduct": [1, 2]}
    weight = torch.tensor([[1.0, 0.0], [0.9, 0.2], [-1.0, 0.5], [-0.9, -0.7]])

    def tokenizer(text, **_: bool) -> dict[str, object]:
        return {"input_ids": vocabulary[text] if isinstance(text, str) else [vocabulary[one] for one in text]}

    unembedding = Unembedding(weight, torch.ones(2), False, tokenizer)
    found = close_words("doctor", ("doctor", "nurse", "rock", "ultraproduct"), unembedding)
    assert list(found) == ["nurse"] and LEAST_COSINE < found["nurse"] <= 1
    assert close_words("doctor", (), unembedding) == {}


def test_latents_that_fire_on_a_word_do_so_in_most_sentences(tiny_backbone, tmp_path) -> None:
    sae = load_sae(save_tiny_sae(tmp_path / "sae"))
    found = fires_on("doctor", tiny_backbone, sae)
    assert found and all(activation > 0 for activation in found.values())
    alone = fire_on_text((Message("user", "Tell me."),), "doctor", tiny_backbone, sae, "mean")
    shared = set(found) & set(alone.features.tolist())
    assert shared and len(found) < sae.d_sae
    assert np.isfinite(list(found.values())).all()
