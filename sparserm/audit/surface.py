"""Surface features of responses (length, refusals, lists, punctuation, ...) and how well they alone predict the labels.

A reward model can learn these shortcuts instead of the preference. Each feature is counted with a regular expression (English
words) and tested as a rule, "prefer the response with more of it"; all features together are tested in one Bradley-Terry model.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sparserm.evaluation.intervals import accuracy_interval
from sparserm.heads.bradley_terry import choose_l2, fit_bradley_terry, prompt_folds
from sparserm.support.threads import one_thread
from sparserm.types import PreferencePair


@dataclass(frozen=True)
class Mark:
    """A surface feature: what a regular expression counts in a response; ``what`` describes it to users.

    The other fields count the same faster: a text has ``pattern`` only if it has one of ``hints`` (in lower case; an empty one
    is in all). ``words`` or ``characters``, if given, are all that it counts, besides ``rest`` where a hint is.
    """

    name: str
    what: str
    pattern: re.Pattern[str]
    words: frozenset[str] = frozenset()
    characters: str = ""
    hints: tuple[str, ...] = ()
    rest: re.Pattern[str] | None = None

    def count(self, lower: str, words: Mapping[str, int]) -> int:
        """How often it is in a text in lower case with these words."""
        if self.characters:
            return sum(map(lower.count, self.characters))
        found = sum(words.get(word, 0) for word in self.words)
        rest = self.rest if self.words else self.pattern
        if rest is not None and any(hint in lower for hint in self.hints):
            found += len(rest.findall(lower))
        return found


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE | re.MULTILINE)


def _mark(name: str, what: str, pattern: str, *hints: str) -> Mark:
    return Mark(name, what, _compiled(pattern), hints=hints)


def _words(name: str, what: str, words: str, rest: str = "", *hints: str) -> Mark:
    """Whole words, separated by spaces, and whatever else ``rest`` finds."""
    pattern = rf"\b(?:{words.replace(' ', '|')})\b" + (f"|{rest}" if rest else "")
    own = _compiled(rest) if rest else None
    return Mark(name, what, _compiled(pattern), words=frozenset(words.lower().split()), hints=hints, rest=own)


def _characters(name: str, characters: str) -> Mark:
    return Mark(name, "", _compiled(f"[{characters}]"), characters=characters)


_WORD = re.compile(r"\w+")
_DECLINES = r"can(?:no|')t|can not|won't|will not|(?:not able|unable) to|must decline"
_EXPERTS = r"professional|doctor|lawyer|therapist|expert|authorities"
MARKS = (
    _mark("words", "length in words", _WORD.pattern),
    _mark(
        "refusals",
        "“I can't …”, “I'm sorry, but”",
        rf"\bI(?:'m| am)? ?(?:{_DECLINES})\b|\bI(?:'m| am) (?:very )?sorry,? but\b",
        *("can't", "cannot", "can not", "won't", "will not", "able to", "must decline", "sorry"),
    ),
    _mark(
        "disclaimers",
        "“as an AI”, “see a doctor”",
        rf"\bas an? (?:AI|language model)|\b(?:consult|seek|see)\b[^.\n]{{0,40}}\b(?:{_EXPERTS})",
        *("as a ai", "as an ai", "as a language model", "as an language model", *_EXPERTS.split("|")),
    ),
    _words(
        "hedges",
        "“may”, “perhaps”, “often”",
        "may might could perhaps possibly probably likely generally usually often sometimes seem seems",
    ),
    _words("negations", "“not”, “no”, “never”", "no not never none nothing nobody cannot", r"n't\b", "n't"),
    _words("first person", "“I”, “my”, “we”", "I me my mine we us our"),
    _words("second person", "“you”, “your”", "you your yours yourself"),
    _words("politeness", "“please”, “thank you”, “sorry”", "please thank thanks sorry apologise apologize"),
    _mark("list items", "lines that begin with -, * or 1.", r"^[ \t]*(?:[-*•]|\d+[.)])[ \t]", *"-*•", ". ", ".\t", ") ", ")\t"),
    _mark("markdown", "headings, bold, code", r"^#{1,6} |\*\*[^*\n]+\*\*|`+", "#", "**", "`"),
    _characters("line breaks", "\n"),
    _characters("question marks", "?？"),
    _characters("exclamation marks", "!！"),
    _characters("commas", ",，、"),
    _mark("numbers", "", r"\d+(?:[.,]\d+)*", ""),
    _mark("quotations", "", r"[“\"«][^“”\"«»\n]+[”\"»]", *'“"«'),
)


@dataclass(frozen=True)
class SurfaceRule:
    """Result for one surface feature.

    Attributes:
        name, what: of the :class:`Mark`.
        mean_chosen, mean_rejected: mean count per chosen and per rejected response.
        n_differ: number of pairs whose responses have different counts; the rule does not apply to the others.
        accuracy, ci95: of the rule "prefer the response with more of it" on these pairs; below one half, fewer is preferred.
        weight: in the model of all features, per standard deviation of ``log(1 + count)``.
    """

    name: str
    what: str
    mean_chosen: float
    mean_rejected: float
    n_differ: int
    accuracy: float
    ci95: tuple[float, float]
    weight: float


@dataclass(frozen=True)
class Surface:
    """How well surface features alone predict the labels.

    Attributes:
        rules: one per feature whose counts differ in any pair, the most predictive first.
        accuracy, ci95: of all features together, cross-validated over prompts; a tie counts half.
        n: number of pairs.
    """

    rules: tuple[SurfaceRule, ...]
    accuracy: float
    ci95: tuple[float, float]
    n: int


def surface(pairs: Sequence[PreferencePair], groups: np.ndarray) -> Surface:
    """Measure how well each surface feature, and all of them together, predict the labels.

    Args:
        pairs: ``n`` pairs, at least one.
        groups: ``[n]``, equal for pairs of the same prompt.
    """
    chosen, rejected = _counts(pairs)
    x = _differences(chosen, rejected) / _deviations(chosen, rejected)
    with one_thread():
        l2 = choose_l2(x, groups).best
        weights = fit_bradley_terry(x, l2)
        margins = _held_out_margins(x, groups, l2)
    won = np.where(margins == 0, 0.5, margins > 0)
    rules = [
        _rule(mark, chosen[:, j], rejected[:, j], groups, weights[j])
        for j, mark in enumerate(MARKS)
        if (chosen[:, j] != rejected[:, j]).any()
    ]
    rules.sort(key=lambda rule: -abs(rule.accuracy - 0.5) * rule.n_differ)
    return Surface(tuple(rules), float(won.mean()), accuracy_interval(won, groups), len(pairs))


def surface_margins(
    train: Sequence[PreferencePair], groups: np.ndarray, test: Sequence[PreferencePair] | None = None
) -> np.ndarray:
    """``[n]`` margins of one model of all surface features, fitted to the training pairs.

    Args:
        groups: the prompt of each training pair.
        test: the pairs whose margins are returned; None for the training pairs, each from a model fitted on other prompts.
    """
    counts = _counts(train)
    deviations = _deviations(*counts)
    x = _differences(*counts) / deviations
    with one_thread():
        l2 = choose_l2(x, groups).best
        if test is None:
            return _held_out_margins(x, groups, l2)
        return np.asarray(_differences(*_counts(test)) / deviations @ fit_bradley_terry(x, l2))


def _counts(pairs: Sequence[PreferencePair]) -> tuple[np.ndarray, np.ndarray]:
    return count_marks([pair.chosen for pair in pairs]), count_marks([pair.rejected for pair in pairs])


def _differences(chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    return np.asarray(np.log1p(chosen) - np.log1p(rejected))


def _deviations(chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    found = np.log1p(np.concatenate([chosen, rejected])).std(0)
    return np.where(found > 0, found, 1)


def count_mark(mark: Mark, texts: Sequence[str]) -> np.ndarray:
    """``[n]`` count of one surface feature in each text, as in :func:`count_marks`."""
    found = []
    for text in texts:
        lower = _lower(text)
        words = Counter(_WORD.findall(lower)) if mark.words or mark is MARKS[0] else Counter[str]()
        found.append(words.total() if mark is MARKS[0] else mark.count(lower, words))
    return np.array(found, float)


def count_marks(texts: Sequence[str]) -> np.ndarray:
    """``[n, len(MARKS)]`` count of each surface feature in each text."""
    return np.array([_count_text(text) for text in texts], float).reshape(len(texts), len(MARKS))


@functools.lru_cache(maxsize=1 << 15)  # the same texts come again when some of the pairs are edited
def _count_text(text: str) -> tuple[int, ...]:
    lower = _lower(text)
    words = Counter(_WORD.findall(lower))
    return words.total(), *(mark.count(lower, words) for mark in MARKS[1:])


def _lower(text: str) -> str:
    return text.replace("’", "'").lower()


def _rule(mark: Mark, chosen: np.ndarray, rejected: np.ndarray, groups: np.ndarray, weight: float) -> SurfaceRule:
    differ = chosen != rejected
    more = (chosen > rejected)[differ]
    return SurfaceRule(
        name=mark.name,
        what=mark.what,
        mean_chosen=float(chosen.mean()),
        mean_rejected=float(rejected.mean()),
        n_differ=int(differ.sum()),
        accuracy=float(more.mean()),
        ci95=accuracy_interval(more, groups[differ]),
        weight=float(weight),
    )


def _held_out_margins(x: np.ndarray, groups: np.ndarray, l2: float) -> np.ndarray:
    """``[n]`` margins, each from the model fitted on other prompts; zero for a single pair."""
    margins = np.zeros(len(x))
    for train, held_out in prompt_folds(groups) if len(x) > 1 else ():
        margins[held_out] = x[held_out] @ fit_bradley_terry(x[train], l2)
    return margins
