"""Are labels true of the texts that they are shown beside? ``python -m benchmarks.bars ask|count FOLDER [--judge NAME]``.

``ask`` writes test responses to a judge, each with the labels of the largest bars that a shipped head shows for it and of some
silent features, in random order. The judge, who is not told which is which, answers beside each file, in ``<name>.json``, with
the letters of the labels that are true of each response: ``{"12": ["a", "d"]}``. ``count`` writes the counts to
``benchmarks/results/bars.json``.
"""

from __future__ import annotations

import argparse
import json
import string
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.common import write_results
from benchmarks.explanations import Task, contributions_in_pairs, fires_in_pairs, load_task
from sparserm.features.auto_labels import LEAST_DETECTION
from sparserm.heads.labels import auto_labels
from sparserm.support.defaults import TASKS
from sparserm.support.files import one_line

#: Largest bars looked at in a response.
BARS = 10
#: Test responses whose bars are read: all of the first pairs.
BAR_PAIRS = {"truthfulness": 100}
OTHER_BAR_PAIRS = 50
#: Silent features whose labels a judge sees among those of a response's bars, responses in a file, and names of labels.
SILENT, IN_FILE, LETTERS = 4, 25, string.ascii_lowercase
#: Kinds of bars: whether the property is counted as present, and whether a judge finds it.
KINDS = {(True, True): "right", (True, False): "not_found", (False, True): "backwards", (False, False): "lacking"}


@dataclass(frozen=True)
class Bars:
    """The largest bars of test responses, counted.

    Attributes:
        responses: responses read.
        n: bars, those of features that contribute nothing left out.
        firing: bars whose latent fires in the text.
        labelled: bars whose feature has a label.
        right: labelled bars whose property a judge finds in the text, and that count it as present: the contribution has the
            sign of the weight.
        not_found: labelled bars that count a property as present which the judge does not find.
        backwards: labelled bars that count a property as lacking which the judge finds.
        lacking: labelled bars that count a property as lacking which the judge does not find.
        silent, silent_found: labels of silent features that the judge was shown among the others, and those that were found.
        features, features_labelled: features of the head, and those with a label, whose detection interval lies above
            :data:`~sparserm.features.auto_labels.LEAST_DETECTION`.
    """

    responses: int
    n: int
    firing: int
    labelled: int
    right: int
    not_found: int
    backwards: int
    lacking: int
    silent: int
    silent_found: int
    features: int
    features_labelled: int


@dataclass(frozen=True)
class Read:
    """One response as a judge reads it.

    Attributes:
        text: the response.
        bars: of the largest bars, the index of the feature in the head, whether it is counted as present, and whether it fires.
        silent: indices of labelled features that are silent in it.
        order: labelled features in the order in which the judge sees their labels.
    """

    text: str
    bars: tuple[tuple[int, bool, bool], ...]
    silent: tuple[int, ...]
    order: tuple[int, ...]


def read_bars(task: Task, name: str) -> list[Read]:
    """The largest bars of the first test responses as the Score page shows them, in the order of all chosen, all rejected."""
    head, labels = task.model.head, _labels(task)
    n = BAR_PAIRS.get(name, OTHER_BAR_PAIRS)
    shown = task.test.take(np.arange(n))
    texts = [pair.chosen for pair in task.test_pairs[:n]] + [pair.rejected for pair in task.test_pairs[:n]]
    rng = np.random.default_rng(0)
    found = []
    for text, part, fired in zip(texts, contributions_in_pairs(head, shown), fires_in_pairs(shown, head.features), strict=True):
        largest = [j for j in np.argsort(-np.abs(part), kind="stable")[:BARS].tolist() if part[j]]
        quiet = [j for j in np.flatnonzero(~fired).tolist() if j in labels]
        silent = rng.permutation(quiet)[:SILENT].tolist()
        order = rng.permutation([*(j for j in largest if j in labels), *silent]).astype(int).tolist()
        bars = tuple((j, bool(part[j] * head.weights[j] > 0), bool(fired[j])) for j in largest)
        found.append(Read(text, bars, tuple(silent), tuple(order)))
    return found


def ask(task: Task, name: str, folder: Path) -> None:
    """Write responses and labels to a judge, :data:`IN_FILE` responses in a file."""
    labels, read = _labels(task), read_bars(task, name)
    prompts = 2 * [pair.prompt for pair in task.test_pairs[: len(read) // 2]]
    for start in range(0, len(read), IN_FILE):
        sections = []
        for i, one in enumerate(read[start : start + IN_FILE], start):
            lettered = [f"{LETTERS[k]}. {labels[j]}" for k, j in enumerate(one.order)]
            sections.append(
                "\n".join([f"## {i}", f"Prompt: {one_line(str(prompts[i]), 300)}", f"Response: {one.text}", *lettered])
            )
        path = folder / f"{name}.{start // IN_FILE}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def count_bars(task: Task, name: str, folder: Path) -> Bars:
    """Count a judge's answers.

    Raises:
        FileNotFoundError: a file has no answers.
    """
    head, labels, read = task.model.head, _labels(task), read_bars(task, name)
    counts = dict.fromkeys(Bars.__dataclass_fields__, 0)
    counts |= {"responses": len(read), "features": len(head.features), "features_labelled": len(labels)}
    for i, one in enumerate(read):
        answers = json.loads((folder / f"{name}.{i // IN_FILE}.json").read_text(encoding="utf-8"))
        true = {j for k, j in enumerate(one.order) if LETTERS[k] in answers[str(i)]}
        counts["n"] += len(one.bars)
        counts["silent"] += len(one.silent)
        counts["silent_found"] += len(true & set(one.silent))
        for j, present, fires_here in one.bars:
            counts["firing"] += fires_here
            if j in labels:
                counts["labelled"] += 1
                counts[KINDS[present, j in true]] += 1
    return Bars(**counts)


def _labels(task: Task) -> dict[int, str]:
    """Reliable labels by index of the feature in the head."""
    known = auto_labels(task.model.card.sae_fingerprint)
    found = {}
    for j, feature in enumerate(task.model.head.features.tolist()):
        label = known.get(feature)
        if label and label.text and label.detection and label.detection.ci95[0] > LEAST_DETECTION:
            found[j] = label.text
    return found


def main() -> None:
    """Ask a judge about the bars of the shipped heads, or count the answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=("ask", "count"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--judge", default="a language model that saw text and labels alone")
    given = parser.parse_args()
    if given.step == "ask":
        for name in given.tasks:
            ask(load_task(name), name, given.folder)
        return
    found = {name: asdict(count_bars(load_task(name), name, given.folder)) for name in given.tasks}
    write_results("bars", {"judge": given.judge, "heads": found})


if __name__ == "__main__":
    main()
