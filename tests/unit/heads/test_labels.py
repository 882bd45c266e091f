"""Labels the user gives: kept, over the head's own, and never at the cost of those that were there."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest

from sparserm.heads.labels import (
    MAX_LENGTH,
    AutoLabel,
    Detection,
    auto_labels,
    given_labels,
    labels_of,
    read_auto_labels,
    save_auto_label,
    save_label,
    shipped_labels,
    user_labels,
    write_auto_labels,
)
from sparserm.heads.saved import load_head
from sparserm.model import SparseRM
from sparserm.types import SparseRMError

SAE = "33e52a91f19a6239"


@pytest.fixture(autouse=True)
def shipped(tmp_path, monkeypatch):
    """The folder of the shipped labels: an empty one."""
    monkeypatch.setattr("sparserm.heads.labels.assets_dir", lambda: tmp_path)
    return tmp_path / "labels"


def test_labels_are_kept_for_each_sae() -> None:
    save_label(SAE, 12, "refuses politely")
    save_label(SAE, 3, "<b>قائمة</b> 🧾")
    save_label("other", 12, "else")
    assert user_labels(SAE) == {3: "<b>قائمة</b> 🧾", 12: "refuses politely"}


def test_a_label_is_one_line_and_an_empty_one_takes_it_away() -> None:
    save_label(SAE, 12, "  two\n lines ")
    assert user_labels(SAE) == {12: "two lines"}
    save_label(SAE, 12, " ")
    assert user_labels(SAE) == {}


def test_the_users_labels_lie_over_the_heads_own() -> None:
    card = replace(load_head("safety").card, labels={236: "own", 474: "own too"})
    save_label(card.sae_fingerprint, 236, "mine")
    save_label(card.sae_fingerprint, 9, "not in the head")
    assert labels_of(card) == {236: "mine", 474: "own too", 9: "not in the head"}


def test_too_long_a_label_is_refused_and_the_old_one_stays() -> None:
    save_label(SAE, 1, "old")
    with pytest.raises(SparseRMError, match=f"{MAX_LENGTH + 1} characters"):
        save_label(SAE, 1, "x" * (MAX_LENGTH + 1))
    assert user_labels(SAE) == {1: "old"}


@pytest.mark.parametrize("content", ["{", "[]", '{"a": "b"}', '{"1": 2}'])
def test_a_damaged_file_is_named_and_left_alone(sparserm_home, content) -> None:
    path = sparserm_home / "labels" / f"{SAE}.json"
    path.parent.mkdir()
    path.write_text(content)
    for work in (lambda: user_labels(SAE), lambda: save_label(SAE, 1, "new")):
        with pytest.raises(SparseRMError, match="fix the file"):
            work()
    assert path.read_text() == content


def test_a_damaged_file_costs_no_more_than_its_labels(sparserm_home) -> None:
    card = replace(load_head("safety").card, labels={236: "own"})
    path = sparserm_home / "labels" / f"{card.sae_fingerprint}.json"
    path.parent.mkdir()
    path.write_text("{")
    assert labels_of(card) == {236: "own"}


def test_labels_given_at_once_are_all_kept() -> None:
    threads = [threading.Thread(target=save_label, args=(SAE, i, f"label {i}")) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert user_labels(SAE) == {i: f"label {i}" for i in range(16)}


def test_a_fingerprint_is_no_path() -> None:
    with pytest.raises(SparseRMError, match="fingerprint"):
        save_label("../heads/x", 1, "label")
    assert user_labels("../heads/x") == {}


def test_a_label_is_seen_wherever_the_head_is_used() -> None:
    model = SparseRM.from_pretrained("safety")
    feature = int(model.head.features[0])
    save_label(model.card.sae_fingerprint, feature, "mine")
    assert model.labels[feature] == "mine"
    assert next(row for row in model.features() if row["feature"] == feature)["label"] == "mine"


# ------------------------------------------------------------------------------------------------------ automatic labels
SCORE = Detection(0.914, (0.88, 0.94), 0.95, 200, 90)
FOUND = AutoLabel("negations", "", "rule", "a.jsonl", "abc", 900, 3000, ("negations",), (), SCORE, SCORE, "")
NONE = replace(FOUND, text=None, reason="fires in 3 of 3,000 responses", terms=(), detection=None, examples=None)


def test_automatic_labels_are_kept_with_all_that_they_came_from() -> None:
    save_auto_label(SAE, 12, FOUND)
    save_auto_label(SAE, 3, NONE)
    assert auto_labels(SAE) == {3: NONE, 12: FOUND}
    assert user_labels(SAE) == {}


WEAK = replace(FOUND, text="weak", detection=replace(SCORE, accuracy=0.95, ci95=(0.7, 0.99)))

WRITTEN = replace(WEAK, text="says that nothing is known", source="a model", judge="another")


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        (FOUND, NONE, FOUND),
        (FOUND, WEAK, FOUND),  # its interval starts lower
        (NONE, WEAK, WEAK),
        (WEAK, FOUND, FOUND),
        (NONE, replace(NONE, reason="other"), replace(NONE, reason="other")),
        (FOUND, replace(FOUND, text="equal"), replace(FOUND, text="equal")),
        (FOUND, WRITTEN, WRITTEN),  # a sentence says more than the rule's words
        (WRITTEN, FOUND, WRITTEN),
        (FOUND, replace(NONE, source="a model"), FOUND),
    ],
)
@pytest.mark.parametrize("is_shipped", [False, True])
def test_a_weaker_label_does_not_replace_a_better_one(shipped, first, second, kept, is_shipped) -> None:
    if is_shipped:
        write_auto_labels(shipped_labels(SAE), {7: first})
    else:
        save_auto_label(SAE, 7, first)
    assert save_auto_label(SAE, 7, second) == kept
    assert auto_labels(SAE) == {7: kept}


def test_the_users_label_comes_first_then_the_heads_then_the_automatic_one() -> None:
    card = replace(load_head("safety").card, labels={1: "own", 2: "own too"})
    for feature in (1, 2, 3):
        save_auto_label(card.sae_fingerprint, feature, FOUND)
    save_auto_label(card.sae_fingerprint, 4, NONE)
    save_label(card.sae_fingerprint, 1, "mine")
    assert labels_of(card) == {1: "mine", 2: "own too", 3: "negations (auto 0.91)"}
    assert given_labels(card.sae_fingerprint, card.labels) == {1: "mine", 2: "own too"}


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"1": {}}', '{"x": 1}', '{"1": {"text": "a", "detection": [], "examples": 0}}']
)
def test_damaged_automatic_labels_are_made_again(sparserm_home, content) -> None:
    path = sparserm_home / "labels" / f"{SAE}.auto.json"
    path.parent.mkdir()
    path.write_text(content)
    assert auto_labels(SAE) == {} == auto_labels("../x")
    save_auto_label(SAE, 12, FOUND)
    assert auto_labels(SAE) == {12: FOUND}


def test_shipped_labels_lie_under_those_made_on_this_machine(shipped) -> None:
    write_auto_labels(shipped_labels(SAE), {1: FOUND, 2: replace(FOUND, text="questions")})
    assert shipped_labels(SAE).parent == shipped
    save_auto_label(SAE, 1, replace(FOUND, text="refusals"))
    assert {feature: label.text for feature, label in auto_labels(SAE).items()} == {1: "refusals", 2: "questions"}


def test_every_shipped_head_has_a_label_or_a_reason_for_each_of_its_features(monkeypatch) -> None:
    monkeypatch.undo()
    for name in ("truthfulness", "safety", "redteam", "helpfulness"):
        saved = load_head(name)
        labels = read_auto_labels(shipped_labels(saved.card.sae_fingerprint))
        assert labels.keys() >= set(saved.head.features.tolist())
        assert all(bool(label.text) != bool(label.reason) for label in labels.values())


def test_labels_changed_on_the_disk_are_noticed(sparserm_home):
    save_label(SAE, 3, "says no")
    path = sparserm_home / "labels" / f"{SAE}.json"
    path.write_text(path.read_text().replace('"3"', '"7"'))
    with pytest.raises(SparseRMError, match="damaged or changed"):
        user_labels(SAE)
    value = json.loads(path.read_text())
    path.write_text(json.dumps({"7": value["7"]}))  # written by hand
    assert user_labels(SAE) == {7: "says no"}


def test_an_automatic_label_that_is_damaged_is_left_out(sparserm_home):
    for feature in (3, 5):
        save_auto_label(SAE, feature, FOUND)
    path = sparserm_home / "labels" / f"{SAE}.auto.json"
    path.write_text(path.read_text().replace('"3"', '"7"'))
    assert auto_labels(SAE) == {5: FOUND}
