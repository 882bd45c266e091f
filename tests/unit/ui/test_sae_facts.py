"""What the pages say of an SAE: the figures that are there, no others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from sparserm.sae.seeds import SeedStability, save_seeds
from sparserm.ui.shared.feature_columns import in_percent, shared_columns
from sparserm.ui.shared.sae_facts import sae_facts
from tests.unit.tiny import save_tiny_sae


def test_an_sae_is_told_by_what_was_measured_of_it(sparserm_home: Path) -> None:
    folder = save_tiny_sae(sparserm_home / "saes" / "tiny" / "layer_2", d_sae=4)
    assert sae_facts("tiny/layer_2") == sae_facts("tiny/none") == ""
    save_seeds(SeedStability(2, np.array([1.0, 1.0, 0.5, 0.0]), np.array([1.0, 1.0, 1.0, 0.5])), folder)
    found = "found again with other seeds: 62% of latents (direction), 88% (firing), 2 other seeds"
    assert sae_facts("tiny/layer_2") == rf"SAE tiny/layer\_2: {found}"
    (folder / "metrics.json").write_text(json.dumps({"explained_variance": 0.834, "l0": 31.9, "dead": 0.004}))
    assert sae_facts("tiny/layer_2") == (rf"SAE tiny/layer\_2: explained variance 0.83 · L0 32 · dead latents 0.4% · {found}")
    (folder / "cfg.json").write_text("{")
    assert sae_facts("tiny/layer_2") == ""


def test_shares_are_drawn_in_percent_and_the_table_keeps_them() -> None:
    table = pd.DataFrame({"feature": [3], "weight": [0.5], "gap": [-0.25], "selected": [0.9], "seeds_firing": [0.5]})
    assert in_percent(table).iloc[0].tolist() == [3, 0.5, -25, 90, 50] and table["gap"].tolist() == [-0.25]
    assert {"gap", "f_chosen", "f_rejected", "selected", "seeds_direction", "seeds_firing"} == set(shared_columns())
