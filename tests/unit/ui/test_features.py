"""Figures and examples of the Features page: shares add up, colours say the sign, and long texts begin at what matters."""

from __future__ import annotations

import json
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from sparserm.features.cards import neuronpedia_list_url, neuronpedia_url
from sparserm.ui.features.charts import density_figure
from sparserm.ui.shared.examples import AFTER, BEFORE, WHOLE, ColouredText, _pack
from sparserm.ui.shared.style import DOWN, UP
from tests.unit.features.latents import tiny_sae


def _heights(figure, name: str) -> np.ndarray:
    trace = next(trace for trace in figure.data if trace.name.startswith(name))
    return np.asarray(trace.y)[1:-1:2]


@pytest.mark.parametrize("n", [1, 7, 3000])
def test_the_bars_of_each_side_add_up_to_all_its_responses(n: int) -> None:
    rng = np.random.default_rng(0)
    figure = density_figure(rng.normal(size=n), rng.normal(1, 2, size=n), "score", (9.0, "your text"))
    assert _heights(figure, "chosen").sum() == pytest.approx(1) == _heights(figure, "rejected").sum()
    assert {trace.name.split()[0]: trace.line.color for trace in figure.data} == {"chosen": UP, "rejected": DOWN}


def test_equal_values_and_none_are_drawn_too() -> None:
    assert _heights(density_figure(np.ones(5), np.ones(5), "score"), "chosen").sum() == 1
    assert np.isfinite(_heights(density_figure(np.zeros(0), np.zeros(0), "score"), "chosen")).all()


def test_the_mark_is_text_and_no_markup() -> None:
    figure = density_figure(np.arange(4.0), np.arange(4.0), "score", (20.0, "<b>mine</b>"))
    assert "&lt;b&gt;mine" in figure.layout.annotations[0].text
    assert max(figure.data[0].x) >= 20


def test_a_token_is_coloured_by_its_sign_and_size() -> None:
    packed = _pack(ColouredText("row 1", "why", ("a", "b", "c"), np.array([2.0, 0.0, -9.0])), full=4.0, unit="score")
    assert [share for _, share, _ in packed["tokens"]] == [32, 0, -65]
    assert packed["tokens"][0] == ["a", 32, "score +2.00"]
    assert _pack(None, 1.0, "score") is None


@pytest.mark.parametrize(
    ("n", "peak", "shown"), [(WHOLE, 3, (0, WHOLE)), (500, 200, (200 - BEFORE, 201 + AFTER)), (500, 2, (0, 3 + AFTER))]
)
def test_a_long_response_is_cut_to_what_surrounds_its_peak(n: int, peak: int, shown: tuple[int, int]) -> None:
    values = np.zeros(n)
    values[peak] = -1
    packed = _pack(ColouredText("", "", ("x",) * n, values), full=1.0, unit="")
    assert (packed["start"], packed["end"]) == shown and len(packed["tokens"]) == n


def test_neuronpedia_is_linked_where_the_sae_is_there() -> None:
    sae = replace(tiny_sae(), metadata={"neuronpedia_id": "gemma-2-2b/12-gemmascope-res-16k"})
    assert neuronpedia_url(sae, 7) == "https://www.neuronpedia.org/gemma-2-2b/12-gemmascope-res-16k/7"
    assert neuronpedia_url(tiny_sae(), 7) is None
    link = urlsplit(neuronpedia_list_url(sae, [7, 12], "my head & more") or "")
    query = parse_qs(link.query)
    assert (link.netloc, link.path, query["name"]) == ("www.neuronpedia.org", "/quick-list/", ["my head & more"])
    common = {"modelId": "gemma-2-2b", "layer": "12-gemmascope-res-16k"}
    assert json.loads(query["features"][0]) == [{**common, "index": "7"}, {**common, "index": "12"}]
    assert neuronpedia_list_url(tiny_sae(), [7], "head") is None
    assert neuronpedia_url(replace(sae, metadata={"neuronpedia_id": "x/../../evil?<script>"}), 7) is None
