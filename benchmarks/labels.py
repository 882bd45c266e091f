"""Labels of the shipped heads' features, written by reading: ``python -m benchmarks.labels ask|judge|save FOLDER``.

``ask`` writes what is known about every feature to ``FOLDER/read``: where it fires in texts of the labelling half, strongly
and weakly, and texts in which it does not. Whoever reads it answers beside it, in ``<name>.json``, with a label for each
feature, or with the reason why there is none: ``{"12": {"label": "denies that something exists"}, "40": {"why": "..."}}``.

``judge`` writes each label with texts of held-out prompts, in half of which the feature fires, to ``FOLDER/judge``. Another
reader, who knows nothing but this, answers with the numbers of the texts to which the label applies: ``{"12": [1, 4, 9]}``.

``save`` turns the answers into labels with detection scores in ``assets/labels``, which the app shows. Where a written label is
not reliable, that of the local rule is used, if it is. Counts and scores go to ``benchmarks/results/labels.json``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import ROOT, task_pairs, write_results
from sparserm.features.auto_labels import LabelContext, Proposal, Rule, Unlabelled, label_features
from sparserm.features.detection import Contrast, ResponseTexts, contrast, gather_texts
from sparserm.features.firing import FiresAt, find_firings
from sparserm.features.logit_lens import load_unembedding, logit_lens
from sparserm.heads.labels import AutoLabel, Detection, better_label, shipped_labels, write_auto_labels
from sparserm.heads.saved import list_heads
from sparserm.model import SparseRM
from sparserm.representations.values import PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.support.defaults import DEFAULT_BACKBONE, TASKS
from sparserm.support.files import one_line
from sparserm.types import PreferenceData

#: Features in a file, texts judged for a label, and characters shown of a text to a judge, and of one without the feature.
FEATURES, JUDGED, CHARACTERS, QUIET_CHARACTERS = 16, 40, 1500, 240
#: Texts without the feature that a reader sees.
QUIET = 6


@dataclass(frozen=True)
class Shipped:
    """A shipped head with its training data; ``features`` are those that it weighs most of all heads with the same SAE."""

    name: str
    model: SparseRM
    sae: SparseAutoencoder
    data: PreferenceData
    features: tuple[int, ...]

    @cached_property
    def pairs(self) -> PairRepresentations:
        """The training pairs with latent strengths."""
        return self.model.represent(self.data, sae=self.sae, strengths=True)

    @cached_property
    def texts(self) -> ResponseTexts:
        """The distinct responses."""
        return gather_texts(self.data.pairs, self.pairs)

    def contrast(self, feature: int) -> Contrast:
        """Texts in which a feature fires, and others."""
        return contrast(self.texts.peaks(feature, self.pairs), self.texts)

    def firing(self) -> dict[int, FiresAt]:
        """Where the features fire in texts of the labelling half."""
        rows = self.texts.rows[self.texts.finding]
        return find_firings(self.features, self.data.pairs, self.pairs, rows, self.model.backbone, self.sae)

    def parts(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and features of the files that this head's features are spread over."""
        starts = range(0, len(self.features), FEATURES)
        return [(f"{self.name}.{i}", self.features[start : start + FEATURES]) for i, start in enumerate(starts)]


def shipped_heads() -> list[Shipped]:
    """All shipped heads; a feature of several heads belongs to the one with the largest absolute weight."""
    names = [name for name, folder in list_heads().items() if folder.is_relative_to(ROOT / "assets")]
    models = {name: SparseRM.from_pretrained(name) for name in names}
    owner: dict[tuple[str, int], tuple[float, str]] = {}
    for name, model in models.items():
        for feature, weight in zip(model.head.features.tolist(), np.abs(model.head.weights).tolist(), strict=True):
            key = (model.card.sae_fingerprint, feature)
            owner[key] = max(owner.get(key, (0.0, "")), (weight, name))
    found = []
    for name, model in models.items():
        own = [one for one in model.head.features.tolist() if owner[model.card.sae_fingerprint, one][1] == name]
        data = task_pairs(next(task for task in TASKS if name.startswith(task)), "train")
        found.append(Shipped(name, model, model.load_sae(), data, tuple(own)))
    return found


def ask(folder: Path) -> None:
    """Write what readers need."""
    unembedding = load_unembedding(DEFAULT_BACKBONE)
    for head in shipped_heads():
        firing = head.firing()
        for name, features in head.parts():
            lens = logit_lens(head.sae, unembedding, np.array(features))
            sections = [
                _evidence(head, feature, firing[feature], [str(token) for token in promoted])
                for feature, promoted in zip(features, lens.promoted, strict=True)
            ]
            _write(folder / "read" / f"{name}.md", sections)
        print(head.name, len(head.features), flush=True)


def _evidence(head: Shipped, feature: int, found: FiresAt, promoted: Sequence[str]) -> str:
    texts, about = head.texts, head.contrast(feature)
    quiet = about.find.rows[~about.find.active][:QUIET]
    largest = found.snippets[0].activation if found.snippets else 1.0
    lines = [
        f"## {feature}",
        f"Fires in {about.n_firing} of {len(texts.texts)} responses. Share of strong firings at the first word of a response "
        f"{found.first:.0%}, at the last {found.last:.0%}.",
        f"Words at which it fires: {_words(found.words)}",
        f"Words right before: {_words(found.before)}",
        f"Words right after: {_words(found.after)}",
        f"Tokens that its direction promotes: {' · '.join(json.dumps(one, ensure_ascii=False) for one in promoted)}",
        "Firings, one of each response, with the activation relative to the strongest:",
        *(f"- {one.activation / largest:.2f} {one}" for one in found.snippets),
        "It does not fire in:",
        *(f"- {one_line(texts.texts[row], QUIET_CHARACTERS)}" for row in quiet),
    ]
    return "\n".join(lines)


def _words(shares: Sequence[tuple[str, float]]) -> str:
    return " · ".join(f"{word or '(end)'} {share:.0%}" for word, share in shares)


def judge(folder: Path) -> None:
    """Write what judges need: labels, and texts of held-out prompts in random order."""
    heads = shipped_heads()
    for head in heads:
        answers = _answers(folder / "read", head, heads)
        for name, features in head.parts():
            sections = []
            for feature in features:
                if label := answers.get(str(feature), {}).get("label"):
                    rows = shuffled_rows(head.contrast(feature), feature)
                    shown = [f"{i}. {_line(head.texts.texts[row])}" for i, row in enumerate(rows, 1)]
                    sections.append("\n".join([f"## {feature}: {label}", *shown]))
            _write(folder / "judge" / f"{name}.md", sections)


def shuffled_rows(found: Contrast, feature: int) -> np.ndarray:
    """``[m]`` rows of the texts on which a label is judged, in a judge's order: another for each feature."""
    rows = found.judge.limited(JUDGED).rows
    return rows[np.random.default_rng(feature).permutation(len(rows))]


def _line(text: str) -> str:
    """A text on one line that shows where lines break."""
    return one_line(text.replace("\n", " ⏎ "), CHARACTERS)


@dataclass(frozen=True)
class Written:
    """A :class:`~sparserm.features.auto_labels.Labeller` with the answers for one feature."""

    source: str
    feature: int
    answer: Mapping[str, Any]
    verdicts: frozenset[int]
    most_judged: int | None = JUDGED

    def propose(self, context: LabelContext) -> Proposal:
        """The reader's label, and the judge's verdicts."""
        label = self.answer.get("label")
        if not label:
            raise Unlabelled(str(self.answer.get("why") or "a reader found nothing that its firings have in common"))
        shown = shuffled_rows(context.found, self.feature).tolist()
        applies = {row for number, row in enumerate(shown, 1) if number in self.verdicts}
        return Proposal(str(label), lambda rows: np.array([float(row in applies) for row in rows.tolist()]))


def labels_of_head(
    head: Shipped, read: Mapping[str, Any], verdicts: Mapping[str, Any], reader: str, judged_by: str
) -> Iterator[tuple[int, AutoLabel]]:
    """Each feature with its written label, or the rule's where only that is reliable."""
    firing = head.firing()
    for feature in head.features:
        own = Written(reader, feature, read.get(str(feature), {}), frozenset(verdicts.get(str(feature), ())))
        ruled, written = (
            dict(label_features([feature], head.data, head.pairs, head.texts, labeller, firing))[feature]
            for labeller in (Rule(), own)
        )
        if written.detection:
            written = replace(written, judge=judged_by)
        yield feature, ruled if ruled.text and not written.text else better_label(ruled, written)


def save(folder: Path, reader: str, judged_by: str) -> None:
    """Write the labels of all shipped heads' features, and their counts."""
    kept: dict[str, dict[int, AutoLabel]] = {}
    heads = shipped_heads()
    for head in heads:
        read, verdicts = (_answers(folder / kind, head, heads) for kind in ("read", "judge"))
        kept.setdefault(head.sae.fingerprint, {}).update(labels_of_head(head, read, verdicts, reader, judged_by))
    for path in (ROOT / "assets" / "labels").glob("*.auto.json"):
        path.unlink()
    for fingerprint, labels in kept.items():
        write_auto_labels(shipped_labels(fingerprint), labels)
    found = {one.name: summary(kept[one.sae.fingerprint][i] for i in one.model.head.features.tolist()) for one in heads}
    for name, counts in found.items():
        print(name, counts, flush=True)
    write_results("labels", found)


def summary(labels: Iterable[AutoLabel]) -> dict[str, float | int | None]:
    """Counts and medians over the features of one head."""
    labels = list(labels)
    proposed = [label.detection for label in labels if label.detection]
    shown = [label.detection for label in labels if label.detection and label.text is not None]
    examples = [label.examples for label in labels if label.examples]
    return {
        "features": len(labels),
        "labelled": len(shown),
        "shown": _median(shown),
        "proposed": len(proposed),
        "proposed_median": _median(proposed),
        "proposed_above_chance": _above_chance(proposed),
        "examples": len(examples),
        "examples_median": _median(examples),
        "examples_above_chance": _above_chance(examples),
    }


def _median(scores: list[Detection]) -> float | None:
    return float(np.median([score.accuracy for score in scores])) if scores else None


def _above_chance(scores: list[Detection]) -> int:
    return sum(score.ci95[0] > 0.5 for score in scores)


def _answers(folder: Path, head: Shipped, heads: Sequence[Shipped]) -> dict[str, Any]:
    """All answers about latents of a head's SAE, from the files of any head that has it: a feature may change its head."""
    found: dict[str, Any] = {}
    for other in heads:
        if other.sae.fingerprint == head.sae.fingerprint:
            for path in sorted(folder.glob(f"{other.name}.*.json")):
                found |= json.loads(path.read_text(encoding="utf-8"))
    return found


def _write(path: Path, sections: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def main() -> None:
    """Run one of the three steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=("ask", "judge", "save"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--reader", default="a language model")
    parser.add_argument("--judge", default="a language model that saw the label alone")
    given = parser.parse_args()
    if given.step == "save":
        save(given.folder, given.reader, given.judge)
    else:
        {"ask": ask, "judge": judge}[given.step](given.folder)


if __name__ == "__main__":
    main()
