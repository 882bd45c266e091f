"""Cells that are kept as they end, go on where they were, and say together what each of them says."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.evidence_tables import ways_of
from benchmarks.frozen import final_states, frozen_cells
from benchmarks.quality import measure_cost
from sparserm.benchmark import run
from sparserm.benchmark.results import Cell, Results, Task
from sparserm.benchmark.run import draw, fitting_budgets, rank_cells, read_budgets
from sparserm.benchmark.tables import difference, summarise
from sparserm.heads.fitting import FitSettings
from sparserm.pairs.parsing import parse_pairs
from sparserm.types import PreferenceData, SparseRMError
from tests.unit.benchmark.material import make_material
from tests.unit.tiny import save_tiny_sae


def _data(name: str, n: int, start: int = 0) -> PreferenceData:
    """Two pairs to every prompt."""
    rows = [{"prompt": f"q{start + i // 2}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(n)]
    return parse_pairs(rows, name=name)


TASK = Task("colours", _data("train", 8), _data("test", 4, start=100))


def _cell(way: str, bits: list[int], seed: int = 0, budget: int | None = 100, **more) -> Cell:
    correct = np.packbits(np.array(bits, bool)).tobytes().hex()
    mean = float(np.mean(bits))
    row = Cell("colours", way, budget, seed, mean, (mean - 0.1, mean + 0.1), 100, len(bits), 32, 1.0, 2.0, correct)
    return replace(row, **more)


def test_a_draw_takes_whole_prompts_and_cuts_the_last_one() -> None:
    groups = np.repeat(np.arange(10), 3)
    rows = draw(groups, 7, seed=3)
    assert len(rows) == 7 == len(set(rows))
    prompts, counts = np.unique(groups[rows], return_counts=True)
    assert sorted(counts) == [1, 3, 3] and len(prompts) == 3
    assert np.array_equal(draw(groups, 7, 3), rows) and not np.array_equal(draw(groups, 7, 4), rows)
    assert sorted(draw(groups, None, 3)) == list(range(30))
    assert np.array_equal(draw(groups, 12, 3)[:7], rows)  # a larger budget holds the smaller one


def test_budgets_that_there_are_not_pairs_for_fall_away() -> None:
    assert fitting_budgets((100, 300, None), 250) == [100, None]
    assert fitting_budgets((100, 300, None), 100) == [None]


def test_budgets_are_read_once_each_and_what_is_none_is_refused() -> None:
    assert read_budgets("100, 300,all,300") == (100, 300, None)
    for text in ("", "100,many", "1", "-5", "1e3", "²", "9" * 5000):
        with pytest.raises(SparseRMError, match="expected numbers of pairs"):
            read_budgets(text)


def test_a_cell_comes_back_as_it_was_with_where_it_was_computed(tmp_path) -> None:
    results = Results(tmp_path / "deep" / "cells.json")
    results.describe(TASK, sae="abc")
    cell = _cell("sparse", [1, 0, 1, 1], settings={"epochs": 2}, peak_mb=12.5)
    results.add(cell)
    (found,) = results.cells()
    assert replace(found, environment="") == cell
    assert list(found.bits) == [True, False, True, True]
    record = json.loads(results.path.read_text())
    assert record["environments"][found.environment]["versions"]["torch"]
    assert record["tasks"]["colours"]["train"] == {"name": "train", "hash": TASK.train.content_hash, "n": 8}
    assert record["tasks"]["colours"]["sae"] == "abc"
    assert list(results.read().groups["colours"]) == [0, 0, 1, 1]


def test_cells_of_other_pairs_are_not_mixed_in(tmp_path) -> None:
    results = Results(tmp_path / "cells.json")
    results.describe(TASK)
    results.describe(TASK)
    with pytest.raises(SparseRMError, match="holds results for task colours on other pairs"):
        results.describe(replace(TASK, test=_data("test", 6, start=100)))


@pytest.mark.parametrize("text", ['{"mine": 1}', "[]", "[" * 100_000])
def test_what_is_no_result_is_refused_and_left_as_it_is(tmp_path, text) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    for use in (Results(path).cells, lambda: Results(path).add(_cell("sparse", [1]))):
        with pytest.raises(SparseRMError, match="is not a file of benchmark results"):
            use()
    assert path.read_text() == text


def test_a_stopped_run_goes_on_where_it_was(tmp_path, monkeypatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(run, "RANKERS", {name: _counted(name, calls) for name in ("dense", "longer", "random-directions")})
    results = Results(tmp_path / "cells.json")
    options = {"ways": ("dense", "longer", "random-directions"), "budgets": (20, None), "seeds": 2}
    work = rank_cells(results, "colours", make_material(), **options)
    next(work), next(work)
    work.close()
    assert calls == ["dense", "longer"]
    rest = list(rank_cells(results, "colours", make_material(), **options))
    again = ["dense", "longer", "random-directions"]
    # All pairs are all pairs: only what draws at random has a second seed.
    assert calls[2:] == ["random-directions", *again, *again, "random-directions"]
    assert len(results.cells()) == 10 == len({cell.key for cell in results.cells()})
    assert {cell.n_train for cell in rest} == {20, 120}
    assert not list(rank_cells(results, "colours", make_material(), **options))


def _counted(name: str, calls: list[str]):
    from sparserm.benchmark.rankers import RANKERS

    def rank(material, seed):
        calls.append(name)
        return RANKERS[name](material, seed)

    return rank


def test_a_head_with_more_features_than_fire_has_no_cell(tmp_path) -> None:
    results = Results(tmp_path / "cells.json")
    assert not list(rank_cells(results, "colours", make_material(), ways=("frequency-128",), budgets=(20,), seeds=1))


def test_a_summary_is_the_mean_over_seeds_and_its_interval_grows_with_their_spread(tmp_path) -> None:
    results = Results(tmp_path / "cells.json")
    results.describe(TASK)
    results.add(_cell("sparse", [1, 1, 1, 0], seed=0, cpu_seconds=1.0, peak_mb=5.0))
    results.add(_cell("sparse", [1, 0, 0, 0], seed=1, cpu_seconds=3.0, peak_mb=7.0))
    results.add(_cell("full", [1, 1, 1, 1], seed=1))
    results.add(_cell("full", [1, 1, 1, 1], seed=1, budget=None))
    found = summarise(results.read(), "colours", "sparse", 100)
    assert found is not None
    assert (found.accuracy, found.seeds, found.lowest, found.highest) == (0.5, 2, 0.25, 0.75)
    assert (found.cpu_seconds, found.peak_mb) == (2.0, 7.0)
    drawn = 1.96 * np.std([0.25, 0.75], ddof=1) / 2**0.5
    assert found.ci95[0] <= 0.5 - drawn + 1e-9 and found.ci95[1] >= min(1.0, 0.5 + drawn) - 1e-9
    assert summarise(results.read(), "colours", "sparse", None) is None
    assert ways_of(results.read(), ("full", "dense")) == ["full", "sparse"]


def test_a_difference_is_paired_and_of_the_seeds_that_both_have(tmp_path) -> None:
    results = Results(tmp_path / "cells.json")
    results.describe(TASK)
    results.add(_cell("sparse", [1, 1, 1, 1], seed=0))
    results.add(_cell("sparse", [1, 1, 0, 0], seed=1))
    results.add(_cell("full", [1, 0, 0, 0], seed=1))
    found = difference(results.read(), "colours", 100, "sparse", "full")
    assert found is not None and (found.mean, found.seeds) == (0.25, 1)
    assert found.ci95[0] <= 0.25 <= found.ci95[1]
    assert difference(results.read(), "colours", 300, "sparse", "full") is None
    results.add(_cell("full", [1, 1, 1, 1], seed=0))
    same = difference(results.read(), "colours", 100, "full", "full")
    assert same is not None and (same.mean, same.ci95) == (0.0, (0.0, 0.0))


def test_final_states_are_what_a_classifier_reads(tiny_backbone, tiny_folder) -> None:
    import torch
    from transformers import AutoModel

    chosen, rejected = final_states(TASK.train.pairs, tiny_backbone)
    model = AutoModel.from_pretrained(tiny_folder, dtype=torch.float32).eval()
    for i in (0, 3):
        pair = TASK.train.pairs[i]
        for states, text in ((chosen, pair.chosen), (rejected, pair.rejected)):
            with torch.inference_mode():
                ids = torch.tensor([tiny_backbone.tokenize(pair.prompt, text).ids])
                expected = model(input_ids=ids).last_hidden_state[0, -1].numpy()
            assert np.allclose(states[i], expected, atol=1e-4)


def test_a_head_on_the_frozen_backbone_has_cells_like_any_other(tiny_backbone, tmp_path) -> None:
    results = Results(tmp_path / "cells.json")
    results.describe(TASK)
    (cell,) = frozen_cells(results, TASK, tiny_backbone, budgets=(6,), seeds=1)
    assert (cell.way, cell.n_train, cell.n_test, cell.n_parameters) == ("frozen", 6, 4, 32)
    assert not list(frozen_cells(results, TASK, tiny_backbone, budgets=(6,), seeds=1))


def test_what_a_head_costs_is_measured_from_the_texts_on(tiny_folder, tmp_path) -> None:
    results, sae = Results(tmp_path / "cells.json"), str(save_tiny_sae(tmp_path / "sae"))
    rows = [{"prompt": f"q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(60)]
    task = Task("colours", parse_pairs(rows, "train"), TASK.test)
    cost = measure_cost(results, task, sae, 40, str(tiny_folder), FitSettings(k=2))
    assert cost is not None and cost.n_pairs == 40 and cost.n_tokens > 80 * 3
    assert min(cost.backbone_seconds, cost.fit_seconds, cost.cpu_seconds) > 0 and cost.peak_mb > 100
    assert measure_cost(results, task, sae, 40, str(tiny_folder), FitSettings(k=2)) is None
    assert [row.budget for row in results.costs()] == [40]
