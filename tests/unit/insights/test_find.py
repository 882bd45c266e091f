"""Insights of made-up pairs: what is planted is found, named and told; what is not there is not."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from sparserm.heads.labels import AutoLabel, Detection, save_auto_label, save_label
from sparserm.insights.effects import features_of, measure_effects
from sparserm.insights.find import doubts, insights_of, pairs_with, repeated_texts
from sparserm.insights.report import findings_table, to_html, to_markdown
from sparserm.insights.shortcuts import LONGER, first_words, has_shortcut, with_shortcuts
from sparserm.insights.values import Insights, Member
from sparserm.insights.verdict import pairs_needed
from sparserm.representations.values import PairRepresentations
from sparserm.support.files import to_csv
from sparserm.types import Message, PreferenceData, PreferencePair, SparseRMError
from tests.unit.features.latents import D_SAE, pairs_where, tiny_sae

N = 400


def _data(chosen: list[str], rejected: list[str]) -> PreferenceData:
    pairs = tuple(
        PreferencePair((Message("user", f"question {i}"),), a, b) for i, (a, b) in enumerate(zip(chosen, rejected, strict=True))
    )
    return PreferenceData("made up | here", pairs, (), len(pairs), "hash")


def _made(win: float, seed: int) -> tuple[PreferenceData, PairRepresentations]:
    """Latents 1 and 2 fire together and win, 3 loses as often, 0 and 4 are noise; texts of one length say nothing."""
    rng = np.random.default_rng(seed)
    fires = rng.random((2, N, D_SAE)) < 0.4
    for latent, share in ((1, win), (3, 1 - win)):
        alone = fires[0, :, latent] != fires[1, :, latent]
        fires[0, alone, latent] = rng.random(alone.sum()) < share
        fires[1, alone, latent] = ~fires[0, alone, latent]
    fires[:, :, 2] = fires[:, :, 1]
    data = _data([f"word number {i} a" for i in range(N)], [f"word number {i} b" for i in range(N)])
    return data, pairs_where(fires, seed=seed)


def _insights(win: float = 0.85, seed: int = 0) -> Insights:
    return insights_of(*_made(win, seed), tiny_sae())


def _name(latent: int, text: str | None) -> AutoLabel:
    score = Detection(0.9, (0.8, 0.95), 0.9, 40, 20)
    return AutoLabel(text, "" if text else "nothing", "a reader", "d", "h", 10, 100, detection=score, evidence="fires on: no")


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SPARSERM_HOME", str(tmp_path))


def test_planted_features_are_found_with_their_sign_and_the_noise_is_not() -> None:
    found = _insights()
    assert [(one.feature, one.rewarded, [member.feature for member in one.family]) for one in found.findings] in (
        [(1, True, [2]), (3, False, [])],
        [(3, False, []), (1, True, [2])],
    )
    first = next(one for one in found.findings if one.feature == 1)
    assert first.win_rate == pytest.approx(0.85, abs=0.08) and first.ci95[0] < first.win_rate < first.ci95[1]
    assert first.returns == 1.0 and first.length_held == pytest.approx(first.win_rate, abs=0.05) and first.beside_length
    assert (found.n_pairs, found.n_prompts, found.n_sure) == (N, N, 3) and found.n_tested >= D_SAE


def test_a_family_is_named_after_the_member_that_has_a_name_and_people_go_before_machines() -> None:
    fingerprint = tiny_sae().fingerprint
    _label(fingerprint, {2: _name(2, "says no"), 3: _name(3, None)})
    found = {one.feature: one for one in _insights().findings}
    assert (found[2].name, found[2].detection, [member.feature for member in found[2].family]) == ("says no", 0.9, [1])
    assert (found[3].name, found[3].named, found[3].evidence) == ("feature 3", False, "fires on: no")
    save_label(fingerprint, 2, "refuses")
    found = {one.feature: one for one in _insights().findings}
    assert (found[2].name, found[2].detection) == ("refuses", None)


def _label(fingerprint: str, labels: dict[int, AutoLabel]) -> None:
    for latent, label in labels.items():
        save_auto_label(fingerprint, latent, label)


def test_the_verdict_tells_named_findings_and_length() -> None:
    _label(tiny_sae().fingerprint, {1: _name(1, "says no"), 3: _name(3, "says yes")})
    found = _insights()
    one, other = (next(f for f in found.findings if f.feature == latent) for latent in (1, 3))
    assert f"Rewarded: a response that says no ({one.win_rate:.0%} of the {one.n} pairs that differ in it)." in found.verdict
    assert f"Punished: a response that says yes ({other.win_rate:.0%} of the {other.n} pairs" in found.verdict
    assert f"Length: the response with more tokens is chosen in {found.longer_wins:.0%} of the " in found.verdict


@pytest.mark.parametrize("seed", range(5))
def test_where_nothing_is_sure_the_verdict_says_how_many_pairs_would_do(seed: int) -> None:
    found = _insights(0.5, seed)
    assert found.findings == () and found.n_sure == 0
    assert f"Nothing is sure in these {N} pairs" in found.verdict and f"{pairs_needed(found.n_tested):,} pairs" in found.verdict
    assert "<table" not in to_html(found) and "|---" not in to_markdown(found)


def test_of_one_feature_the_pairs_needed_are_those_of_a_test_of_proportions() -> None:
    # (1.960 * .5 + .8416 * sqrt(.24))^2 / .1^2
    assert pairs_needed(1) == 194
    assert pairs_needed(1) < pairs_needed(100) < pairs_needed(1000) < 1000


def test_what_is_counted_in_the_text_is_a_feature_like_any_other() -> None:
    data = _data(["Yes. - It is so, I think.", "No."], ["no, it is not", "Yes, it is"])
    features, names = with_shortcuts(
        features_of(pairs_where(np.zeros((2, 2, D_SAE), bool))), data.pairs, first_words(data.pairs)
    )
    chosen, rejected = (side.toarray()[:, D_SAE:] for side in (features.chosen, features.rejected))
    longer, yes, no = (names.index(name) for name in ("is longer, in words", "begins with “yes”", "begins with “no”"))
    assert (chosen[:, longer].tolist(), rejected[:, longer].tolist()) == ([1, 0], [0, 1])
    assert (chosen[:, yes].tolist(), rejected[:, yes].tolist()) == ([1, 0], [0, 1])
    assert (chosen[:, no].tolist(), rejected[:, no].tolist()) == ([0, 1], [1, 0])
    person = names.index("has more first person")
    assert (chosen[0, person], rejected[0, person]) == (1, 0)


def test_one_shortcut_alone_is_counted_as_among_all() -> None:
    said = "Yes no I you can't - ``` ? ! doctor sorry, as an AI don’t 12 (maybe) perhaps You"
    words = [*said.split(), "\n1.", "\n**bold**"]
    rng = np.random.default_rng(0)
    chosen, rejected = ([" ".join(rng.choice(words, rng.integers(1, 20))) for _ in range(60)] for _ in range(2))
    data = _data(chosen, rejected)
    silent = features_of(pairs_where(np.zeros((2, 60, D_SAE), bool)))
    features, names = with_shortcuts(silent, data.pairs, first_words(data.pairs))
    among_all = (features.chosen - features.rejected).toarray()[:, D_SAE:]
    assert np.abs(among_all).sum(0).astype(bool).sum() > 15
    for name, column in zip(names, among_all.T, strict=True):
        np.testing.assert_array_equal(has_shortcut(name, data.pairs), column, err_msg=name)


def test_a_shortcut_that_wins_is_found_beside_latents_that_do_nothing() -> None:
    rng = np.random.default_rng(0)
    longer = rng.random(N) < 0.8
    texts = [f"word number {i}" for i in range(N)], [f"word number {i} {'and more ' * 2}" for i in range(N)]
    chosen, rejected = ([texts[int(is_longer ^ side)][i] for i, is_longer in enumerate(longer)] for side in (False, True))
    found = insights_of(_data(chosen, rejected), pairs_where(rng.random((2, N, D_SAE)) < 0.3), tiny_sae())
    assert [(one.feature, one.name) for one in found.findings] == [(None, "is longer, in words")]
    assert found.findings[0].win_rate == pytest.approx(longer.mean())


def test_without_pairs_it_says_so() -> None:
    with pytest.raises(SparseRMError, match="no usable pairs; expected one or more"):
        insights_of(_data([], []), pairs_where(np.zeros((2, 0, D_SAE), bool)), tiny_sae())


def test_reports_show_every_finding_and_no_text_as_markup() -> None:
    _label(tiny_sae().fingerprint, {1: _name(1, "says <b>|& no"), 3: _name(3, None)})
    found = _insights()
    rows = list(csv.DictReader(io.StringIO(to_csv(findings_table(found)))))
    assert {row["name"] for row in rows} == {"says <b>|& no", "feature 3"} and float(rows[0]["win_rate"]) > 0
    page = to_html(found)
    assert (
        "says &lt;b&gt;|&amp; no" in page
        and "<b>|" not in page
        and found.verdict.split(" (")[0].replace("<", "&lt;")[:20] in page
    )
    assert not re.search(r"(?:src|href)=", page)  # nothing from elsewhere
    lines = to_markdown(found).splitlines()
    table = [re.split(r"(?<!\\)\|", line) for line in lines if line.startswith("|")]
    assert len(table) == 2 + len(found.findings) and len({len(row) for row in table}) == 1
    assert "feature 3 (fires on: no)" in to_markdown(found)


def test_plain_values_have_the_names_that_others_rely_on() -> None:
    value = json.loads(json.dumps(_insights().to_dict(), allow_nan=False))
    assert {"n_pairs", "features", "verdict"} <= set(value)
    assert {"feature", "label", "win_rate", "ci95", "n", "q", "stability", "family"} <= set(value["features"][0])
    assert value["features"][0]["label"] is None


def test_findings_beside_length_go_before_those_that_length_explains() -> None:
    found = _insights().findings
    assert [one.strength for one in found] == sorted((one.strength for one in found), reverse=True)
    one = found[0]
    assert (
        replace(one, length_held_z=-one.length_held_z).strength == 0
        and not replace(one, length_held_z=-5.0 * one.z).beside_length
    )
    assert replace(one, length_held_z=one.z / 4).strength == pytest.approx(abs(one.z) / 4)


@pytest.mark.parametrize("latent", [1, 2, 3])
def test_the_pairs_of_a_finding_are_those_that_are_counted(latent: int) -> None:
    data, pairs = _made(0.85, 0)
    own = pairs_with(data, pairs, [Member(latent, "x")])[:, 0]
    effects = measure_effects(features_of(pairs), np.array([latent]))
    assert ((own != 0).sum(), (own > 0).sum()) == (effects.n[0], effects.wins[0])


def test_the_pairs_of_a_shortcut_are_found_by_its_name() -> None:
    data = _data(["a b c", "a"], ["a b", "a b"])
    own = pairs_with(data, pairs_where(np.zeros((2, 2, D_SAE), bool)), [Member(None, LONGER), Member(0, "x")])
    assert own.tolist() == [[1, 0], [-1, 0]]


def test_what_speaks_against_a_label_is_counted_in_findings_beside_length() -> None:
    one = _insights().findings[0]
    up, down, by_length = (replace(one, z=z, length_held_z=held) for z, held in ((9, 9), (-9, -9), (9, 1)))
    own = np.array([[1, 1, 1], [-1, 1, 1], [0, 0, -1]], np.int8)
    assert [counts.tolist() for counts in doubts(own, [up, down, by_length])] == [[1, 0, 0], [1, 2, 0]]


def test_a_text_that_many_prompts_share_is_told_and_one_of_few_is_not() -> None:
    chosen = ["No comment.  | <b>" if i % 4 == 0 else f"word {i} a" for i in range(N)]
    rejected = ["Well." if i < 4 else "No comment.  | <b>" if i == 7 else f"word {i} b" for i in range(N)]
    data = _data(chosen, rejected)
    (one,) = repeated_texts(data)
    assert (one.text, one.chosen, one.rejected) == ("No comment. | <b>", N // 4, 1)
    found = insights_of(data, pairs_where(np.zeros((2, N, D_SAE), bool)), tiny_sae())
    assert f"Repeated: “No comment. | <b>” is the chosen response of {N // 4} pairs and the rejected one of 1." in found.verdict
    assert (
        found.to_dict()["repeated"][0]["chosen"] == N // 4 and "<b>" not in to_html(found).split("<body>")[1].split("<table")[0]
    )


def test_pairs_of_one_prompt_repeat_no_text() -> None:
    pairs = tuple(PreferencePair((Message("user", "one"),), "same", f"other {i}") for i in range(50))
    assert repeated_texts(PreferenceData("d", pairs, (), 50, "h")) == ()


def test_what_length_may_explain_is_marked_and_length_itself_has_no_figure_of_its_own() -> None:
    found = _insights()
    one = found.findings[0]
    marked = replace(one, name="x", length_held_z=0.1)
    length = replace(one, feature=None, name=LONGER)
    shown = replace(found, findings=(one, marked, length))
    assert [row["direction"].partition(" ")[2] for row in findings_table(shown)] == ["", "(length)", ""]
    assert [("| – |" in line) for line in to_markdown(shown).splitlines() if line.startswith(("| rew", "| pun"))] == [
        *(False, False, True)
    ]


def test_names_are_no_markdown() -> None:
    found = _insights()
    one = replace(found.findings[0], name="a\\| [x](http://y) **b** <i>\n`c`", named=True)
    text = to_markdown(replace(found, findings=(one,), data="# new\nline"))
    (row,) = (line for line in text.splitlines() if line.startswith(("| rew", "| pun")))
    assert "a\\\\\\| \\[x\\](http://y) \\*\\*b\\*\\* \\<i\\> \\`c\\`" in row
    assert text.startswith("# What \\# new line rewards\n")


def test_length_is_told_of_the_pairs_that_differ_in_it() -> None:
    data, pairs = _made(0.85, 0)
    same = replace(pairs.chosen, n_tokens=np.full(N, 7, np.int32)), replace(pairs.rejected, n_tokens=np.full(N, 7, np.int32))
    equal = insights_of(data, replace(pairs, chosen=same[0], rejected=same[1]), tiny_sae())
    assert equal.longer_wins is None and "Length:" not in equal.verdict
    one = replace(same[0], n_tokens=np.where(np.arange(N) < 8, 9, 7).astype(np.int32))
    few = insights_of(data, replace(pairs, chosen=one, rejected=same[1]), tiny_sae())
    assert few.longer_wins == 1.0 and "in 100% of the 8 pairs of unequal length." in few.verdict


def test_sure_findings_without_a_name_are_told_as_such() -> None:
    assert "2 findings are sure, but none of them both has a name" in _insights().verdict
