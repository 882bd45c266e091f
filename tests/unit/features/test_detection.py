"""Detection scores: what is found on one half of the prompts is judged on the other, on texts matched in length."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparserm.features.detection import LEAST_TEXTS, Sample, contrast, detection, example_scores, gather_texts
from sparserm.types import SparseRMError
from tests.unit.features.latents import D_SAE
from tests.unit.features.world import ALWAYS, CHANCE, LONG, PAIRS, REPRESENTED, SORRY, TEXTS, N


def _contrast(feature: int):
    return contrast(TEXTS.peaks(feature, REPRESENTED), TEXTS)


def test_no_text_and_no_prompt_is_both_found_on_and_judged() -> None:
    """Also where responses to different prompts are the same."""
    pairs = [replace(pair, chosen=f"the same {i % 7}", rejected=f"other {i % 50}") for i, pair in enumerate(PAIRS)]
    texts = gather_texts(pairs, replace(REPRESENTED, groups=np.arange(N) // 3))
    assert len(texts.texts) == len(set(texts.texts)) == 57
    assert not set(texts.groups[texts.finding]) & set(texts.groups[~texts.finding])
    for feature in range(D_SAE):
        found = contrast(texts.peaks(feature, REPRESENTED), texts)
        assert texts.finding[found.find.rows].all() and texts.finding[found.top].all()
        assert not texts.finding[found.judge.rows].any()


def test_rows_point_at_the_responses() -> None:
    both = [pair.chosen for pair in PAIRS] + [pair.rejected for pair in PAIRS]
    assert [both[row] for row in TEXTS.rows] == list(TEXTS.texts)
    peaks = TEXTS.peaks(SORRY, REPRESENTED)
    assert [("sorry" in text) for text in TEXTS.texts] == (peaks > 0).tolist()


def test_active_texts_are_those_in_which_it_fires_and_inactive_ones_silent() -> None:
    peaks = TEXTS.peaks(SORRY, REPRESENTED)
    found = _contrast(SORRY)
    for sample in (found.find, found.judge):
        assert (peaks[sample.rows[sample.active]] > 0).all()
        assert (peaks[sample.rows[~sample.active]] == 0).all()
        assert len(set(sample.rows.tolist())) == len(sample.rows) == 2 * sample.active.sum()
        counts = [np.bincount(TEXTS.lengths[sample.rows[side]], minlength=10) for side in (sample.active, ~sample.active)]
        np.testing.assert_array_equal(*counts)  # in every class of length
    weak = (peaks > 0) & (peaks < np.median(peaks[peaks > 0]))
    assert weak[found.judge.rows].any() and weak[found.find.rows].any()
    assert found.n_firing == (peaks > 0).sum() and not found.too_few
    tops = peaks[found.top].tolist()
    assert len(tops) == 10 and tops == sorted(tops, reverse=True) and tops[0] == peaks[TEXTS.finding].max()


def test_a_latent_that_always_fires_is_told_by_its_strength() -> None:
    peaks, found = TEXTS.peaks(ALWAYS, REPRESENTED), _contrast(ALWAYS)
    assert (peaks[found.find.rows[~found.find.active]] <= np.quantile(peaks, 0.25)).all()
    assert not found.too_few


def test_where_firing_is_length_there_is_nothing_to_hold_it_against() -> None:
    assert _contrast(LONG).too_few


def test_a_silent_latent_has_no_texts() -> None:
    found = contrast(np.zeros(len(TEXTS.texts), np.float32), TEXTS)
    assert found.too_few and found.n_firing == 0 and len(found.find.rows) == len(found.top) == 0


def test_the_score_by_hand() -> None:
    """Three of four right; of the four pairs of an active and an inactive text three are in order, and one is a tie."""
    sample = Sample(np.arange(4), np.array([True, True, False, False]))
    score = detection(np.array([2.0, 1.0, 1.0, 0.0]), sample, TEXTS)
    assert (score.accuracy, score.auroc, score.n, score.n_prompts) == (0.75, 3.5 / 4, 4, 4)
    assert 0 <= score.ci95[0] < 0.75 < score.ci95[1] <= 1


def test_one_that_knows_nothing_scores_one_half() -> None:
    judge = _contrast(CHANCE).judge
    score = detection(np.ones(len(judge.rows)), judge, TEXTS)
    assert score.accuracy == score.auroc == 0.5 and score.ci95[0] < 0.5 < score.ci95[1]
    assert str(score) == f"0.50 ({score.ci95[0]:.2f} to {score.ci95[1]:.2f})"


def test_top_examples_tell_what_they_share() -> None:
    score = {}
    for feature in (SORRY, CHANCE):
        found = _contrast(feature)
        score[feature] = detection(example_scores(found.judge.rows, found, TEXTS), found.judge, TEXTS)
    assert score[SORRY].accuracy > 0.8 and score[SORRY].ci95[0] > 0.7
    assert score[CHANCE].ci95[0] < 0.5


def test_a_limited_sample_is_balanced_and_part_of_the_whole() -> None:
    judge = _contrast(SORRY).judge
    few = judge.limited(20)
    assert len(few.rows) == 20 and few.active.sum() == 10
    assert {*zip(few.rows, few.active, strict=True)} <= {*zip(judge.rows, judge.active, strict=True)}
    assert len(judge.limited(10_000).rows) == len(judge.rows) >= 2 * LEAST_TEXTS


def test_texts_without_words_and_a_single_prompt_are_no_obstacle() -> None:
    pairs = [replace(pair, chosen=f"🙂{i}", rejected=f"!{i}") for i, pair in enumerate(PAIRS)]
    texts = gather_texts(pairs, replace(REPRESENTED, groups=np.zeros(N, np.int64)))
    assert texts.finding.all() and contrast(texts.peaks(SORRY, REPRESENTED), texts).too_few
    words = gather_texts(
        [replace(pair, chosen="?" * (i + 1), rejected="!" * (i + 1)) for i, pair in enumerate(PAIRS)], REPRESENTED
    )
    assert words.tfidf.shape == (2 * N, 1)


def test_representations_without_latents_are_refused() -> None:
    bare = replace(REPRESENTED, chosen=replace(REPRESENTED.chosen, latents=None))
    with pytest.raises(SparseRMError, match="have no latent strengths"):
        TEXTS.peaks(0, bare)
