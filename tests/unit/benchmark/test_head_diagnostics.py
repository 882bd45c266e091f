"""What stands beside a head's accuracy, on a tiny model from texts to facts, and as the results keep it."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from sparserm.benchmark.results import Results
from sparserm.benchmark.run import diagnose_head
from sparserm.heads.fitting import FitSettings
from sparserm.pairs.parsing import parse_pairs
from sparserm.representations.represent import represent_pairs
from sparserm.sae.autoencoder import load_sae
from tests.unit.pairs_data import preference_rows
from tests.unit.tiny import save_tiny_sae


@pytest.fixture(scope="module")
def found(tmp_path_factory, tiny_backbone):
    sae = load_sae(save_tiny_sae(tmp_path_factory.mktemp("sae") / "tiny"))
    data, test = parse_pairs(preference_rows()), parse_pairs(preference_rows(12, 6, seed=1))
    train, held_out = (represent_pairs(one.pairs, tiny_backbone, {sae.hook: sae}, "mean")[sae.hook] for one in (data, test))
    return diagnose_head(train, held_out, test.pairs, sae, tiny_backbone, FitSettings(k=4, l2=0.1))


def test_explanations_hold_and_the_rest_is_in_its_range(found) -> None:
    assert found.k == 4 and found.faithfulness.features == 2 and found.faithfulness.texts == 24
    assert max(found.faithfulness.feature_sum, found.faithfulness.move, found.faithfulness.steer) < 1e-4
    assert 0 <= found.jaccard <= 1 and 0 < found.chance < 1
    assert np.isnan(found.length.margin_spearman) or abs(found.length.margin_spearman) <= 1


def test_facts_are_kept_with_where_they_were_computed(found, tmp_path) -> None:
    results = Results(tmp_path / "cells.json")
    assert results.head("kindness") is None
    results.add_head("kindness", {**asdict(found), "length": found.length.to_dict()})
    kept = results.head("kindness")
    assert kept is not None and kept["k"] == 4 and kept["environment"] in json.loads(results.path.read_text())["environments"]


def test_a_file_from_before_heads_were_measured_is_read(tmp_path) -> None:
    path = tmp_path / "cells.json"
    path.write_text('{"environments": {}, "tasks": {}, "costs": [], "cells": []}')
    assert Results(path).cells() == [] and Results(path).head("kindness") is None
