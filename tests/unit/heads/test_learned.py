"""What a head learned, in sentences: only tested statements are told, and what does as well as the head is warned of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparserm.heads.held_out import HeldOut
from sparserm.heads.learned import Learned
from tests.unit.ui.gated import gated_head

NAMES = {0: "apologises", 2: "denies something", 4: "lists steps"}


def learned(n_sure: int | None, selected: list[float] | None = None, held_out: HeldOut | None = None) -> Learned:
    """Of three features: 0 and 2 raise the reward, 4 lowers it; the first ``n_sure`` of them are sure."""
    shares = None if selected is None else np.array(selected)
    sure = frozenset((0, 2, 4)[: n_sure or 0])
    f_chosen, f_rejected = np.array([0.5, 0.1, 0.2]), np.array([0.25, 0.1, 0.3])
    return Learned(gated_head(), f_chosen, f_rejected, shares, n_sure, sure, NAMES, held_out)


def test_the_verdict_counts_what_is_sure_and_warns_where_little_is() -> None:
    one = learned(3, [1.0, 0.6, 0.4])
    assert "3 features; all of them surely differ" in one.verdict[0] and not one.warnings
    assert one.verdict[1].startswith("On halves of the prompts, 1 comes back nearly always, 1 mostly, 1 seldom: ")
    one = learned(2, [1.0, 0.9, 0.8])
    assert "2 of them surely differ" in one.verdict[0] and not one.warnings
    one = learned(1, [1.0, 0.9, 0.8])
    assert "1 of them surely differs" in one.verdict[0] and one.warnings[0].startswith("Only 1 of 3 features surely differs")
    assert learned(0, [0.1, 0.2, 0.3]).warnings[0].startswith("None of these features surely differs")
    assert len(learned(0, [0.1, 0.2, 0.3]).verdict) == 2
    one = learned(None)
    assert "projections, which are never zero" in one.verdict[0] and not one.warnings and len(one.verdict) == 1


def test_what_raises_and_what_lowers_the_reward_is_told_of_features_that_are_sure_stable_and_named() -> None:
    told = learned(3, [1.0, 0.9, 0.8]).verdict
    assert told[-2].startswith(
        "Raises the reward: a response that denies something (fires in 10% of chosen and 10% of rejected"
    )
    assert "; a response that apologises (" in told[-2]
    assert told[-1].startswith("Lowers the reward: a response that lists steps (fires in 20% of chosen and 30% of rejected")
    told = learned(2, [1.0, 0.4, 0.8]).verdict  # 4 is not sure, and 2 does not come back
    assert told[-2].startswith("Raises the reward: a response that apologises") and "denies" not in told[-2]
    assert told[-1].startswith("2 of its 3 families are not told")
    none = replace(learned(3, [1.0, 0.9, 0.8]), names={})
    assert none.verdict[-1].startswith("3 of its 3 families are not told")


def test_of_a_family_one_is_told_and_all_are_counted() -> None:
    one = learned(3, [1.0, 0.9, 0.8])
    one = replace(one, head=replace(one.head, families=np.array([2, 2, 4])))
    assert one.families == ((1, 0), (2,))
    assert "3 features in 2 families" in one.verdict[0] and "apologises" not in " ".join(one.verdict)


@pytest.mark.parametrize(
    ("others", "warned"),
    [
        ({"longer": 1.0, "surface": 1.0}, "Picking the longer response does as well on its test pairs (100.0%)"),
        ({"longer": 0.5, "surface": 0.9}, "Surface features alone, such as length, refusals and lists, do as well"),
        ({"random": 0.8}, "A head over random latents does about as well (80.0%)"),
        ({"longer": 0.7, "surface": 0.75}, "The longer response is preferred in 70%"),
        ({"longer": 0.6, "surface": 0.6, "random": 0.6}, ""),
    ],
)
def test_what_needs_no_head_and_ranks_as_well_is_warned_of(others: dict[str, float], warned: str) -> None:
    held_out = HeldOut(0.9, (0.78, 0.96), 40, **others)
    one = learned(3, [1.0, 0.9, 0.8], held_out)
    assert one.warnings == tuple(held_out.doubts)
    assert one.warnings[0].startswith(warned) if warned else not one.warnings
    assert one.verdict[0].startswith("It ranks 90.0% of 40 pairs of other prompts as labelled (95% interval 78.0% to 96.0%); ")
