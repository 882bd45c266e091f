"""Labels of the shipped SAEs' latents, written by reading: ``python -m benchmarks.labels ask|judge|save FOLDER``.

Of each SAE the latents are labelled that a head may use: those that a fit to the training pairs of some task chooses in
:data:`OFTEN` of the halves of the prompts or more, of all latents or of those that are left when latents without a reliable
label are not used. So there are rounds: what comes in instead of these is asked for in the next. The shipped heads then use
latents that have a label (``benchmarks.heads``).

``ask`` writes what is known about every latent to ``FOLDER/read``: where it fires in texts of the labelling half, strongly
and weakly, and texts in which it does not. Whoever reads it answers beside it, in ``<name>.json``, with a label for each
latent, or with the reason why there is none: ``{"12": {"label": "denies that something exists"}, "40": {"why": "..."}}``.

``judge`` writes each label with texts of held-out prompts, in half of which the latent fires, to ``FOLDER/judge``. Another
reader, who knows nothing but this, answers with the numbers of the texts to which the label applies: ``{"12": [1, 4, 9]}``.

``save`` turns the answers into labels with detection scores in ``assets/labels``, which the app shows. Counts and scores go to
``benchmarks/results/labels.json``.
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
from benchmarks.heads import represent
from sparserm.backbone.model import Backbone
from sparserm.features.auto_labels import LabelContext, Proposal, Unlabelled, label_features
from sparserm.features.detection import Contrast, ResponseTexts, contrast, gather_texts
from sparserm.features.firing import FiresAt, find_firings
from sparserm.features.logit_lens import load_unembedding, logit_lens
from sparserm.heads.fitting import FitSettings, fit_statistics
from sparserm.heads.gated_selection import GatedStatistics
from sparserm.heads.labels import AutoLabel, Detection, auto_labels, shipped_labels, write_auto_labels
from sparserm.representations.values import PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder, load_sae
from sparserm.support.defaults import DEFAULT_BACKBONE, DEFAULT_LAYERS, TASKS
from sparserm.support.files import one_line
from sparserm.types import PreferenceData

#: Share of the halves of a task's prompts in which a latent must be chosen to be labelled, see the selection of gated heads.
OFTEN = 0.3
#: Features in a file, texts judged for a label, and characters shown of a text to a judge, and of one without the feature.
FEATURES, JUDGED, CHARACTERS, QUIET_CHARACTERS = 16, 40, 1500, 240
#: Texts without the feature that a reader sees.
QUIET = 6


@dataclass(frozen=True)
class Source:
    """Training pairs of a task with an SAE, and the latents that are labelled on them.

    Attributes:
        name: of the task and the layer.
        pairs: the represented pairs, with latent strengths.
        features: latents that fits to these pairs choose more often than those to another task's.
    """

    name: str
    backbone: Backbone
    sae: SparseAutoencoder
    data: PreferenceData
    pairs: PairRepresentations
    features: tuple[int, ...]

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
        return find_firings(self.features, self.data.pairs, self.pairs, rows, self.backbone, self.sae)

    def parts(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and features of the files that the features are spread over."""
        starts = range(0, len(self.features), FEATURES)
        return [(f"{self.name}.{i}", self.features[start : start + FEATURES]) for i, start in enumerate(starts)]


def sources() -> list[Source]:
    """The training pairs of all tasks with all shipped SAEs."""
    saes = [load_sae(f"{DEFAULT_BACKBONE}/layer_{layer}") for layer in DEFAULT_LAYERS]
    backbone = Backbone.load(DEFAULT_BACKBONE, through_layer=max(DEFAULT_LAYERS))
    data = {task: task_pairs(task, "train") for task in TASKS}
    represented = {task: represent(own, backbone, saes) for task, own in data.items()}
    found = []
    for sae in saes:
        pairs = {task: own[sae.hook.layer] for task, own in represented.items()}
        frequency = {task: selection_frequency(own, sae) for task, own in pairs.items()}
        owner, read = np.argmax(list(frequency.values()), axis=0), np.zeros(sae.d_sae, bool)
        read[list(auto_labels(sae.fingerprint))] = True
        for i, (task, often) in enumerate(frequency.items()):
            features = np.flatnonzero(((often >= OFTEN) | read) & (owner == i)).tolist()
            found.append(Source(f"{task}-layer{sae.hook.layer}", backbone, sae, data[task], pairs[task], tuple(features)))
    return found


def selection_frequency(pairs: PairRepresentations, sae: SparseAutoencoder) -> np.ndarray:
    """``[d_sae]`` share of the halves of the prompts in which a latent is chosen, of all or of those that may have a name."""
    statistics = fit_statistics(pairs, sae, FitSettings())
    if not isinstance(statistics, GatedStatistics):
        raise TypeError(f"{sae.name} has no thresholds of its latents")
    nameable = np.ones(sae.d_sae, bool)
    nameable[[latent for latent, label in auto_labels(sae.fingerprint).items() if label.text is None]] = False
    return np.maximum(statistics.frequency, replace(statistics, among=nameable).frequency)


def ask(folder: Path) -> None:
    """Write what readers need."""
    unembedding = load_unembedding(DEFAULT_BACKBONE)
    for source in sources():
        firing = source.firing()
        for name, features in source.parts():
            lens = logit_lens(source.sae, unembedding, np.array(features))
            sections = [
                _evidence(source, feature, firing[feature], [str(token) for token in promoted])
                for feature, promoted in zip(features, lens.promoted, strict=True)
            ]
            _write(folder / "read" / f"{name}.md", sections)
        print(source.name, len(source.features), flush=True)


def _evidence(source: Source, feature: int, found: FiresAt, promoted: Sequence[str]) -> str:
    texts, about = source.texts, source.contrast(feature)
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
    every = sources()
    for source in every:
        answers = _answers(folder / "read", source, every)
        for name, features in source.parts():
            sections = []
            for feature in features:
                if label := answers.get(str(feature), {}).get("label"):
                    rows = shuffled_rows(source.contrast(feature), feature)
                    shown = [f"{i}. {_line(source.texts.texts[row])}" for i, row in enumerate(rows, 1)]
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


def labels_of_source(
    source: Source, read: Mapping[str, Any], verdicts: Mapping[str, Any], reader: str, judged_by: str
) -> Iterator[tuple[int, AutoLabel]]:
    """The written labels of features; those that were not read, or not judged, are left out."""
    firing = source.firing()
    for feature in source.features:
        answer = read.get(str(feature))
        if answer is None or ("label" in answer and str(feature) not in verdicts):
            continue
        own = Written(reader, feature, answer, frozenset(verdicts.get(str(feature), ())))
        written = dict(label_features([feature], source.data, source.pairs, source.texts, own, firing))[feature]
        yield feature, replace(written, judge=judged_by) if written.detection else written


def save(folder: Path, reader: str, judged_by: str) -> None:
    """Write the labels of all shipped SAEs, and their counts."""
    kept: dict[str, dict[int, AutoLabel]] = {}
    found = {}
    every = sources()
    for source in every:
        read, verdicts = (_answers(folder / kind, source, every) for kind in ("read", "judge"))
        own = dict(labels_of_source(source, read, verdicts, reader, judged_by))
        kept.setdefault(source.sae.fingerprint, {}).update(own)
        found[source.name] = summary(own.values())
        print(source.name, found[source.name], flush=True)
    for path in (ROOT / "assets" / "labels").glob("*.auto.json"):
        path.unlink()
    for fingerprint, labels in kept.items():
        write_auto_labels(shipped_labels(fingerprint), labels)
    write_results("labels", found)


def summary(labels: Iterable[AutoLabel]) -> dict[str, float | int | None]:
    """Counts and medians over the features of one source."""
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


def _answers(folder: Path, source: Source, every: Sequence[Source]) -> dict[str, Any]:
    """All answers about latents of a source's SAE, from the files of any source: a feature may change its source."""
    found: dict[str, Any] = {}
    for other in every:
        if other.sae.fingerprint == source.sae.fingerprint:
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
