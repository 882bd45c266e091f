"""Labels written by readers and judged by others, in rounds: what is asked, and on which texts a verdict counts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import labels
from benchmarks.labels import Source, judge, labels_of_source
from sparserm.features.firing import FiresAt
from sparserm.types import Message, PreferenceData, PreferencePair
from tests.unit.features.latents import D_SAE, pairs_where, tiny_sae

N = 120


def _source(name: str, seed: int) -> Source:
    """Pairs in whose texts, all of them different, latents fire at random, and always say so."""
    fires = np.random.default_rng(seed).random((2, N, D_SAE)) < 0.4
    says = [
        [" ".join([f"{name} {side} {i}", *(f"has{j}" for j in np.flatnonzero(one))]) for i, one in enumerate(rows)]
        for side, rows in enumerate(fires)
    ]
    pairs = tuple(PreferencePair((Message("user", f"{name} {i}"),), says[0][i], says[1][i]) for i in range(N))
    data = PreferenceData(name, pairs, (), N, name)
    return Source(name, SimpleNamespace(), tiny_sae(), data, pairs_where(fires, seed=seed))


@pytest.fixture
def sources(monkeypatch) -> tuple[Source, Source]:
    both = (_source("one-layer2", 0), _source("two-layer2", 1))
    monkeypatch.setattr(labels, "sources", lambda: list(both))
    nothing = FiresAt((), (), (), 0.0, 0.0, 0, 0, ())
    monkeypatch.setattr(labels, "find_firings", lambda features, *_: dict.fromkeys(features, nothing))
    return both


def _answer(path: Path, answers: dict[int, object]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(answers))


def _honest(written: str) -> dict[int, list[int]]:
    """Verdicts of a judge who reads the texts."""
    verdicts = {}
    for section in re.split(r"\n\n(?=## )", written):
        feature = int(re.match(r"## (\d+): ", section)[1])
        verdicts[feature] = [
            int(number) for number, text in re.findall(r"^(\d+)\. (.*)$", section, re.M) if f"has{feature}" in text
        ]
    return verdicts


def test_a_label_is_judged_once_on_the_texts_on_which_it_was_read(sources, tmp_path: Path) -> None:
    _answer(tmp_path / "read" / "one-layer2.0.json", {1: {"label": "has one"}, 2: {"why": "mixed"}})
    _answer(tmp_path / "read" / "two-layer2.0.json", {3: {"label": "has three"}})
    judge(tmp_path)
    first, second = ((tmp_path / "judge" / f"{name}-layer2.0.md").read_text() for name in ("one", "two"))
    assert re.findall(r"^## .*$", first, re.M) == ["## 1: has one"] and "one-layer2" in first and "two-layer2" not in first
    assert re.findall(r"^## .*$", second, re.M) == ["## 3: has three"]
    _answer(tmp_path / "judge" / "one-layer2.0.json", _honest(first))
    _answer(tmp_path / "judge" / "two-layer2.0.json", _honest(second))
    _answer(tmp_path / "read" / "one-layer2.1.json", {4: {"label": "has four"}})
    judge(tmp_path)
    assert re.findall(r"^## .*$", (tmp_path / "judge" / "one-layer2.1.md").read_text(), re.M) == ["## 4: has four"]
    assert not (tmp_path / "judge" / "two-layer2.1.md").exists()


def test_a_verdict_counts_texts_of_the_source_whose_file_it_stands_in(sources, tmp_path: Path) -> None:
    _answer(tmp_path / "read" / "one-layer2.0.json", {1: {"label": "has one"}, 2: {"why": "mixed"}, 4: {"label": "not judged"}})
    judge(tmp_path)
    _answer(tmp_path / "judge" / "one-layer2.0.json", {1: _honest((tmp_path / "judge" / "one-layer2.0.md").read_text())[1]})
    # Read again later, on the other source's pairs: the verdict still is about the first one's.
    (tmp_path / "read" / "one-layer2.0.json").rename(tmp_path / "read" / "two-layer2.0.json")
    one, two = (dict(labels_of_source(source, tmp_path, "a reader", "a judge")) for source in sources)
    assert set(one) == {1} and one[1].text == "has one" and one[1].detection.accuracy == 1.0
    assert (one[1].source, one[1].judge) == ("a reader", "a judge")
    assert set(two) == {2} and two[2].text is None
