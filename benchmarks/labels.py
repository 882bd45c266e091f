"""Labels of the shipped SAEs' latents, written by reading: ``python -m benchmarks.labels ask|judge|save FOLDER``.

Of each SAE the latents are labelled that a head may use: those that a fit to the training pairs of some task chooses in
:data:`OFTEN` of the halves of the prompts or more, of all latents or of those that are left when latents without a reliable
label are not used. So there are rounds: after ``save``, what comes in instead of these is asked for in the next. The shipped
heads then use latents that have a label (``benchmarks.heads``).

``ask`` writes what is known about every latent that nobody has read yet to ``FOLDER/read``: where it fires in texts of the
labelling half, strongly and weakly, and texts in which it does not. Whoever reads it answers beside it, in ``<name>.json``,
with a label for each latent, or with the reason why there is none: ``{"12": {"label": "denies that something exists"}, "40":
{"why": "..."}}``.

``judge`` writes each label that nobody has judged yet with texts of held-out prompts, in half of which the latent fires, to
``FOLDER/judge``. Another reader, who knows nothing but this, answers with the numbers of the texts to which the label applies:
``{"12": [1, 4, 9]}``.

``save`` turns the answers of all rounds into labels with detection scores in ``assets/labels``, which the app shows. Counts and
scores go to ``benchmarks/results/labels.json``.
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
    """Training pairs of a task with an SAE.

    Attributes:
        name: of the task and the layer; files are named after it.
        pairs: the represented pairs, with latent strengths.
    """

    name: str
    backbone: Backbone
    sae: SparseAutoencoder
    data: PreferenceData
    pairs: PairRepresentations

    @cached_property
    def texts(self) -> ResponseTexts:
        """The distinct responses."""
        return gather_texts(self.data.pairs, self.pairs)

    def contrast(self, feature: int) -> Contrast:
        """Texts in which a feature fires, and others."""
        return contrast(self.texts.peaks(feature, self.pairs), self.texts)

    def firing(self, features: Sequence[int]) -> dict[int, FiresAt]:
        """Where features fire in texts of the labelling half."""
        rows = self.texts.rows[self.texts.finding]
        return find_firings(features, self.data.pairs, self.pairs, rows, self.backbone, self.sae)

    def answers(self, folder: Path) -> dict[int, Any]:
        """What has been answered about latents on these pairs, in all rounds."""
        return _answers(folder.glob(f"{self.name}.*.json"))

    def answered(self, folder: Path) -> dict[int, Any]:
        """What has been answered about latents of the SAE, on the pairs of any task."""
        return _answers(folder.glob(f"*-layer{self.sae.hook.layer}.*.json"))

    def write(self, folder: Path, sections: Sequence[str]) -> None:
        """Write files of this round, after those of earlier ones."""
        folder.mkdir(parents=True, exist_ok=True)
        before = len(list(folder.glob(f"{self.name}.*.md")))
        for i, start in enumerate(range(0, len(sections), FEATURES), before):
            text = "\n\n".join(sections[start : start + FEATURES])
            (folder / f"{self.name}.{i}.md").write_text(text + "\n", encoding="utf-8")
        print(self.name, len(sections), flush=True)


def sources() -> list[Source]:
    """The training pairs of all tasks with all shipped SAEs."""
    saes = [load_sae(f"{DEFAULT_BACKBONE}/layer_{layer}") for layer in DEFAULT_LAYERS]
    backbone = Backbone.load(DEFAULT_BACKBONE, through_layer=max(DEFAULT_LAYERS))
    data = {task: task_pairs(task, "train") for task in TASKS}
    represented = {task: represent(own, backbone, saes) for task, own in data.items()}
    return [
        Source(f"{task}-layer{sae.hook.layer}", backbone, sae, data[task], represented[task][sae.hook.layer])
        for sae in saes
        for task in TASKS
    ]


def chosen_latents(every: Sequence[Source]) -> Iterator[tuple[Source, list[int]]]:
    """Each source with the latents that fits to its pairs choose often, and more often than fits to other tasks' pairs."""
    for fingerprint in dict.fromkeys(source.sae.fingerprint for source in every):
        own = [source for source in every if source.sae.fingerprint == fingerprint]
        frequency = np.array([selection_frequency(source.pairs, source.sae) for source in own])
        for i, source in enumerate(own):
            yield source, np.flatnonzero((frequency[i] >= OFTEN) & (frequency.argmax(0) == i)).tolist()


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
    for source, chosen in chosen_latents(sources()):
        known = source.answered(folder / "read")
        features = [feature for feature in chosen if feature not in known]
        firing, lens = source.firing(features), logit_lens(source.sae, unembedding, np.array(features, np.int64))
        sections = [
            _evidence(source, feature, firing[feature], [str(token) for token in promoted])
            for feature, promoted in zip(features, lens.promoted, strict=True)
        ]
        source.write(folder / "read", sections)


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
    for source in sources():
        known = source.answered(folder / "judge")
        sections = []
        for feature, answer in source.answers(folder / "read").items():
            if "label" in answer and feature not in known:
                rows = shuffled_rows(source.contrast(feature), feature)
                shown = [f"{i}. {_line(source.texts.texts[row])}" for i, row in enumerate(rows, 1)]
                sections.append("\n".join([f"## {feature}: {answer['label']}", *shown]))
        source.write(folder / "judge", sections)


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


def labels_of_source(source: Source, folder: Path, reader: str, judged_by: str) -> Iterator[tuple[int, AutoLabel]]:
    """The labels that were judged on a source's texts, and the latents that were read on them without finding one.

    The numbers in a verdict count texts of the source whose file it stands in; the label may have been read on another.
    """
    read, verdicts = source.answered(folder / "read"), source.answers(folder / "judge")
    judged = {feature for feature in verdicts if read.get(feature, {}).get("label")}
    unnamed = {feature for feature, answer in source.answers(folder / "read").items() if not answer.get("label")}
    features = sorted(judged | unnamed)
    firing = source.firing(features)
    for feature in features:
        own = Written(reader, feature, read[feature], frozenset(verdicts.get(feature, ())))
        written = dict(label_features([feature], source.data, source.pairs, source.texts, own, firing))[feature]
        yield feature, replace(written, judge=judged_by) if written.detection else written


def save(folder: Path, reader: str, judged_by: str) -> None:
    """Write the labels of all shipped SAEs, and their counts."""
    kept: dict[str, dict[int, AutoLabel]] = {}
    found = {}
    for source in sources():
        own = dict(labels_of_source(source, folder, reader, judged_by))
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


def _answers(paths: Iterable[Path]) -> dict[int, Any]:
    """Answers by latent."""
    return {int(latent): answer for path in sorted(paths) for latent, answer in json.loads(path.read_text("utf-8")).items()}


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
