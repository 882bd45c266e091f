"""Data sets that do not say `chosen` and `rejected`: a label, ratings or ranks tell which response won.

Each :class:`Layout` turns a row into rows with `prompt`, `chosen` and `rejected`. Ties are left out by name. What a label means
is what the card of its data set says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from typing import Any

from sparserm.pairs.cells import is_blank, parsed
from sparserm.pairs.messages import RowError, is_missing, plain, text_beside
from sparserm.pairs.rows import RawRow

#: What the letter of a response may follow in a verdict.
_NUMBERED = ("model", "response", "assistant", "answer", "option", "conversation")
#: Columns of the prompt, the first one that a row has; of texts that stand before it; and of what follows an instruction.
_PROMPTS = ("prompt", "instruction", "question", "input", "query")
BEFORE, _AFTER = (
    ("context", "contexts", "passage", "passages", "document", "documents", "article", "evidence", "history"),
    "input",
)
#: Words of a verdict that say tie; and those that may stand beside them.
_TIE = {"tie", "tied", "draw", "both", "bothbad", "bothgood", "neither", "same", "equal", "equally", "a=b", "b=a", "a==b"}
_BESIDE_TIE = {"a", "about", "all", "are", "bad", "good", "is", "it", "the"}
#: Where a pair says which of two responses its label preferred: no name that a column can have.
WON = "\0won"
#: A row, and what it becomes.
Row = Mapping[str, Any]


class LabelError(Exception):
    """A label that does not mean what it means in its layout, so that all labels of the source may mean something else."""


class TieError(Exception):
    """No response of a row was preferred."""

    def __init__(self, column: str, problem: str) -> None:
        super().__init__(f"{column} {problem}")
        self.column, self.problem = column, problem


@dataclass(frozen=True)
class Layout:
    """One way of telling which response won.

    Attributes:
        about: how a source is read, e.g. ``` `better_response_id` as the number of the chosen response```.
        columns: that a source must have.
        read: the pairs of a row, as rows with ``prompt``, ``chosen`` and ``rejected``.
        holds: whether a row is of this layout, where its columns do not say it.
        is_exact: whether a label counts from where the spelling of the columns says, so that no other will do.
        names: how the columns of a source are called in the layout, where they are spelled otherwise.
        responses: the columns of the two responses that a verdict on both of them compares.
        verdict: the column of that verdict.
        has_scores: whether each response has a verdict of its own, so that there may be more of them.
        rivals: other layouts of the same responses, which have a verdict of their own.
    """

    about: str
    columns: frozenset[str]
    read: Callable[[Row], list[dict[str, Any]]]
    holds: Callable[[Row], bool] = lambda row: True
    is_exact: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    responses: tuple[str, str] | tuple[()] = ()
    verdict: str = ""
    has_scores: bool = False
    rivals: tuple[Layout, ...] = ()

    def named(self, row: Row) -> dict[str, Any]:
        """A row with the names of the layout."""
        return {self.names.get(name, name): value for name, value in row.items()}


def canonical(name: str) -> str:
    """A column's name in lower case with underscores: ``Response A`` is ``response_a``."""
    return re.sub("[^a-z0-9.]+", "_", name.lower()).strip("_")


def find_layout(present: Sequence[str], rows: Sequence[Row] = ()) -> Layout | None:
    """The first layout whose columns are all there, if need be in another spelling; None if chosen and rejected are.

    Args:
        rows: some rows of the source.
    """
    if {"chosen", "rejected"} <= set(map(canonical, present)):
        return None
    fits = _fits(present, rows)
    if (found := next(fits, None)) is None:
        return None
    return replace(found, rivals=tuple(one for one in fits if found.responses and one.responses == found.responses))


def verdicts_beside(present: Sequence[str], rows: Sequence[Row]) -> list[Layout]:
    """The layouts with a verdict on two responses that stand beside chosen and rejected."""
    return [one for one in _fits(present, rows) if one.responses]


def _fits(present: Sequence[str], rows: Sequence[Row]) -> Iterator[Layout]:
    """The layouts whose columns are all there: those in this spelling before those in another one."""
    columns = {canonical(name): name for name in present}
    exact = [one for one in LAYOUTS if one.columns <= set(present)]
    yield from (one for one in exact if all(map(one.holds, rows)))
    for one in LAYOUTS:
        spelled = {canonical(name): name for name in one.columns}
        if spelled.keys() <= columns.keys() and not one.is_exact and one not in exact and all(map(one.holds, rows)):
            yield replace(one, names={name: spelled.get(canonical(name), canonical(name)) for name in present})


def _pair(prompt: Any, responses: Sequence[Any], won: int, row: Row) -> list[dict[str, Any]]:
    """The pair of two responses of which the one at index ``won`` was chosen."""
    return [{**row, "prompt": prompt, "chosen": responses[won], "rejected": responses[1 - won], WON: won}]


def number(row: Row, column: str) -> float:
    """The number in a cell, also written as text; 1 and 0 for true and false.

    Raises:
        RowError: there is none.
    """
    value = plain(row.get(column))
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return float(value.strip().lower() == "true")
    if (number := grade_of(value)) is not None:
        return number
    said = "empty" if is_missing(value) or value == "nan" else f"{value!r:.60}"
    raise RowError(column, f"is {said}, expected a number that says which response was preferred")


def _either(first: float, second: float) -> Callable[[Row, str], int]:
    """What tells from a number which response won; it raises :class:`LabelError` for any but these two."""

    def won(row: Row, column: str) -> int:
        value = number(row, column)
        if value not in (first, second):
            raise LabelError(f"{column} is {value:g}, expected {first:g} or {second:g}")
        return int(value == second)

    return won


def _strength(row: Row, column: str) -> int:
    """0 if the first response is better (below zero), 1 if the second one is."""
    value = number(row, column)
    if abs(value) > 3:
        raise LabelError(f"{column} is {value:g}, expected -3 to 3")
    if value == 0:
        raise TieError(column, "is 0: neither response was preferred")
    return int(value > 0)


def _judged(
    a: str, b: str, verdict: str, won: Callable[[Row, str], int], prompt: Callable[[Row], Any] | None = None
) -> Callable[[Row], list[dict[str, Any]]]:
    """Two responses beside a verdict.

    Args:
        won: 0 if the verdict of a row says that the first response won, 1 if the second.
        prompt: of a row; by default what stands in the columns that are called so.
    """

    def read(row: Row) -> list[dict[str, Any]]:
        side = won(row, verdict)
        return _pair((prompt or _prompt)(row), [row.get(a), row.get(b)], side, row)

    return read


def _check_two(layout: Layout, row: Row) -> None:
    """Check that a verdict on two responses has no others beside them, which it may be about, too.

    Raises:
        RowError: there are others.
    """
    if layout.responses and not layout.has_scores and (others := others_like(layout.responses, row)):
        raise RowError(
            others[0],
            f"stands beside {' and '.join(layout.responses)} and would be lost: expected two responses; write each pair into a "
            "row of its own, or the responses and their scores into lists in the columns responses and scores",
        )


def _letter(row: Row, column: str, names: Sequence[str] = ()) -> int:
    """0 if a verdict in words says that the first response won (``a``, ``model_a``, ``response_a``, ``A>B``), 1 if the second.

    Args:
        names: the columns of the two responses, which a verdict may name, too.

    Raises:
        TieError: it says that neither did.
        RowError: it says neither, such as a number, of which nobody knows what it counts.
    """
    value = plain(row.get(column))
    said = value.strip().lower() if isinstance(value, str) else ""
    models = [one.strip().lower() if isinstance(one := plain(row.get(name)), str) else "" for name in ("model_a", "model_b")]
    if said and said in models:  # arenas may name the model that won
        if models[0] == models[1]:
            raise RowError(column, f"is {value!r:.40}, and so are model_a and model_b: expected model_a, model_b or a tie")
        return models.index(said)
    if said and canonical(said) in (named := [canonical(name) for name in names]):
        return named.index(canonical(said))
    if says_tie(said):
        raise TieError(column, f"is {value!r:.40}: neither response was preferred")
    said = re.sub(r"[^a-z0-9>= ]+", " ", said).strip()
    for won, letter in enumerate("ab"):
        other, word = "ba"[won], (("left", "first"), ("right", "second"))[won]
        if said in (letter, *word, *(f"{name} {letter}" for name in _NUMBERED), f"{letter}>{other}", f"{letter}>>{other}"):
            return won
    unclear = " (a number may mean either response)" if grade_of(value) is not None else ""
    raise RowError(column, f"is {value!r:.40}, expected model_a, model_b, a, b or a tie{unclear}")


def _letter_or_one(row: Row, column: str) -> int:
    """0 if a verdict in words, or a label of 1, says that the first response won, 1 if the second."""
    is_written = isinstance(plain(row.get(column)), str) and re.search("[A-Za-z]", str(row[column])) is not None
    return _letter(row, column) if is_written else _either(1, 0)(row, column)  # JudgeBench writes A>B


def says_verdict(value: Any, names: Sequence[str] = ()) -> bool:
    """Whether a cell says in words which of two responses won, or that neither did."""
    try:
        _letter({"verdict": value}, "verdict", names)
    except RowError:
        return False
    except TieError:
        pass
    return True


def says_tie(verdict: Any) -> bool:
    """Whether a verdict in words says that neither response was preferred, and nothing else."""
    said = re.sub("[^a-z0-9=]+", " ", verdict.lower()).strip() if isinstance(verdict, str) else ""
    words = set(said.split())
    return said == "no preference" or bool(words & _TIE and words <= _TIE | _BESIDE_TIE)


def _arena(row: Row) -> list[dict[str, Any]]:
    """Whole conversations, which hold the prompt."""
    responses = [row.get("conversation_a"), row.get("conversation_b")]
    won = _letter(row, "winner")
    return [{**row, "chosen": responses[won], "rejected": responses[1 - won]}]


def _scored(a: str, b: str, score_a: str, score_b: str) -> Callable[[Row], list[dict[str, Any]]]:
    """Two responses or more, each with a score of its own."""

    def read(row: Row) -> list[dict[str, Any]]:
        responses = [a, b, *others_like((a, b), row)]
        if len(responses) > 2:
            scores = [score_a[:-1] + name[len(a) - 1 :] for name in responses]
            entries = [{"text": row[name], "score": number(row, score)} for name, score in zip(responses, scores, strict=True)]
            return _graded({**row, a: entries}, _asked(row), a, "text", ["score"])
        first, second = number(row, score_a), number(row, score_b)
        if first == second:
            raise TieError(score_a, f"and {score_b} are both {first:g}: neither response was preferred")
        return _pair(_asked(row), [row.get(a), row.get(b)], int(second > first), row)

    return read


def others_like(names: Sequence[str], row: Row) -> list[str]:
    """Columns with a text that are called like those of two responses, with another letter or number at the end."""
    stem = names[0][:-1]
    end = "[0-9]+" if names[0][-1].isdigit() else "[c-h]"  # and no plural
    others = (one for one in row if one not in names and re.fullmatch(re.escape(stem) + end, one, re.IGNORECASE))
    return [one for one in others if not is_missing(plain(row[one])) and not is_blank(row[one])]


def _asked(row: Row) -> Any:
    """The prompt, also of WebGPT, whose question is an object with its text."""
    question = plain(row.get("question"))
    full = question.get("full_text") if isinstance(question, Mapping) else None
    return full if isinstance(full, str) else _prompt(row)


def _prompt(row: Row) -> Any:
    """What stands in the first column that is called like a prompt, with the passage before it and the input after it."""
    found = next((name for name in _PROMPTS if row.get(name) is not None), None)
    if found is None:
        raise RowError("prompt", "is missing from this row")
    names = [name for name in (*BEFORE, found, *([_AFTER] if found != _AFTER else [])) if name in row]
    texts = {name: text for name in names if name != found and (text := text_beside(row, name))}
    if not texts:
        return row[found]
    if not isinstance(asked := plain(row[found]), str):
        raise RowError(found, f"is messages, and a text stands beside it in {', '.join(texts)}: expected one of them")
    return "\n\n".join(asked.strip() if name == found else texts[name] for name in names if name == found or name in texts)


def _argilla(row: Row) -> list[dict[str, Any]]:
    """Argilla's answers of several people: what most of them chose."""
    answers = plain(row.get("preference.responses"))
    votes = [re.sub("[^a-z0-9]", "", str(one).lower()) for one in answers] if isinstance(answers, (list, tuple)) else []
    if unknown := [one for one in votes if one not in ("response1", "response2", "tie", "same", "equal")]:
        raise RowError("preference.responses", f"has the vote {unknown[0]!r:.40}, expected response1 or response2")
    first, second = votes.count("response1"), votes.count("response2")
    if first == second:
        raise TieError("preference.responses", "has no majority for one of the responses")
    return _pair(_prompt(row), [row.get("response1"), row.get("response2")], int(second > first), row)


def _renamed(chosen: str, rejected: str) -> Callable[[Row], list[dict[str, Any]]]:
    """The responses under other names, which say by convention which one won."""

    def read(row: Row) -> list[dict[str, Any]]:
        return [{**row, "prompt": _prompt(row), "chosen": row.get(chosen), "rejected": row.get(rejected)}]

    return read


def _two_outputs(row: Row) -> list[dict[str, Any]]:
    """LLaMA-Factory's form until 2024: the better output stands first."""
    found = plain(row.get("output"))
    if any(name in row for name in ("score", "scores", "preference", "rejected")):
        raise RowError("output", "stands beside a column that tells which response is better, and nobody knows how")
    if not isinstance(found, (list, tuple)) or len(found) != 2:
        raise RowError("output", "is not a list of two responses, the better one first: there is nothing to compare")
    return [{**row, "prompt": alpaca_prompt(row), "chosen": found[0], "rejected": found[1]}]


def alpaca_prompt(row: Row) -> str:
    """An instruction of Alpaca, with its input if there is one."""
    parts = [plain(row.get(name)) for name in ("instruction", "input")]
    return "\n\n".join(one.strip() for one in parts if isinstance(one, str) and not is_blank(one))


def _rejected_messages(row: Row) -> list[dict[str, Any]]:
    return [{**row, "chosen": row.get("messages"), "rejected": row.get("rejected_messages")}]


def _arena_flags(row: Row) -> list[dict[str, Any]]:
    """Kaggle's form: one column for each outcome, and prompt and responses as lists with one entry for each turn."""
    flags = [number(row, name) for name in ("winner_model_a", "winner_model_b", "winner_tie")]
    if sorted(flags) != [0, 0, 1]:
        raise RowError("winner_model_a", "winner_model_b and winner_tie are not one 1 and two 0, expected one outcome")
    if flags[2]:
        raise TieError("winner_tie", "is 1: neither response was preferred")
    asked, *answered = (_turns(row, name) for name in ("prompt", "response_a", "response_b"))
    if not all(len(asked) == len(one) for one in answered):
        raise RowError("response_a", "or response_b has another number of turns than prompt")
    won = int(flags[1] > flags[0])
    told = [[turn for pair in zip(asked, one, strict=True) for turn in _exchange(*pair)] for one in answered]
    others = {name: value for name, value in row.items() if name != "prompt"}  # it is in the conversations
    return [{**others, "chosen": told[won], "rejected": told[1 - won]}]


def _turns(row: Row, column: str) -> list[str]:
    """The turns of one side: a list of texts, also written as JSON, or one text."""
    value = plain(row.get(column))
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = parsed(value)
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(one, str) for one in value):
        raise RowError(column, "is neither text nor a list of texts, one for each turn")
    return list(value)


def _exchange(asked: str, answer: str) -> tuple[dict[str, str], dict[str, str]]:
    return {"role": "user", "content": asked}, {"role": "assistant", "content": answer}


def _context_or_prompt(row: Row) -> Any:
    """The context if it is messages, else the prompt with the context before it; of a row without one, the context."""
    context = row.get("context")
    is_text = isinstance(context, (str, type(None)))
    return _prompt(row) if is_text and any(row.get(name) is not None for name in _PROMPTS) else context


def _swift(row: Row) -> list[dict[str, Any]]:
    """The answer is the last message; the other one stands beside it."""
    turns = plain(row.get("messages"))
    if not isinstance(turns, (list, tuple)) or len(turns) < 2:
        raise RowError("messages", "has no question and answer, expected a list of two messages or more")
    return [{**row, "prompt": list(turns[:-1]), "chosen": [turns[-1]], "rejected": row.get("rejected_response")}]


def _graded(row: Row, prompt: Any, entries: str, text: str, grades: Sequence[str], sign: int = 1) -> list[dict[str, Any]]:
    """Of several responses in a list each with each that has a lower grade, of the first kind that two of them have.

    Args:
        sign: -1 where a lower number is better, as of ranks.
    """
    found = plain(row.get(entries))
    if not isinstance(found, (list, tuple)) or not all(isinstance(one, Mapping) for one in found):
        raise RowError(entries, "is not a list of responses, each with its text and its rating")
    cells = [(name, plain(one.get(name))) for one in found for name in grades]
    if unread := [
        (name, cell) for name, cell in cells if isinstance(cell, str) and grade_of(cell) is None and re.search(r"\d", cell)
    ]:
        raise RowError(entries, f"has the {unread[0][0]} {unread[0][1]!r:.40}, expected a number such as 4.5")
    all_graded = ([grade_of(one.get(name)) for one in found] for name in grades)
    values = next((one for one in all_graded if len(one) - one.count(None) > 1), None)
    if values is None:
        raise RowError(entries, f"has no two responses with a number as {' or '.join(grades)}")
    graded = [(one.get(text), sign * value) for one, value in zip(found, values, strict=True) if value is not None]
    pairs = [
        {**row, "prompt": prompt, "chosen": better, "rejected": worse}
        for (one, high), (other, low) in combinations(graded, 2)
        if high != low
        for better, worse in ([(one, other)] if high > low else [(other, one)])
    ]
    if not pairs:
        raise TieError(entries, "has no two responses with different ratings")
    return pairs


def grade_of(value: Any) -> float | None:
    """A grade as a number, also if it is written as text, in Europe with a comma; None if it is none."""
    value = plain(value)
    if isinstance(value, str) and re.fullmatch(r"\s*[-+]?\d+,\d+\s*", value) and not re.search(r",\d{3}\s*$", value):
        value = value.replace(",", ".")  # three digits may be thousands
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(found) else found


def _listed(texts: str, grades: str) -> Callable[[Row], list[dict[str, Any]]]:
    """Responses in one list and their ratings in another."""

    def read(row: Row) -> list[dict[str, Any]]:
        responses, ratings = plain(row.get(texts)), plain(row.get(grades))
        if not isinstance(responses, (list, tuple)) or not isinstance(ratings, (list, tuple)) or len(responses) != len(ratings):
            raise RowError(grades, f"and {texts} are not two lists of the same length")
        entries = [{"text": one, "rating": rating} for one, rating in zip(responses, ratings, strict=True)]
        return _graded({**row, texts: entries}, _prompt(row), texts, "text", ["rating"])

    return read


def _nemo(row: Row) -> list[dict[str, Any]]:
    return _graded(row, row.get("context"), "completions", "completion", ["rank"], -1)


def _ultrafeedback(row: Row) -> list[dict[str, Any]]:
    names = ["fine-grained_score", "overall_score", "score", "rating"]
    return _graded(row, _prompt(row), "completions", "response", names)


def _nectar(row: Row) -> list[dict[str, Any]]:
    return _graded(row, _prompt(row), "answers", "answer", ["rank"], -1)


def _summaries(row: Row) -> list[dict[str, Any]]:
    info, summaries = plain(row.get("info")), plain(row.get("summaries"))
    if not isinstance(info, Mapping) or not isinstance(summaries, (list, tuple)) or len(summaries) != 2:
        raise RowError("summaries", "is not a list of two summaries beside the post in info")
    texts = [one.get("text") if isinstance(one, Mapping) else one for one in summaries]
    return _pair(info.get("post") or info.get("article"), texts, _either(0, 1)(row, "choice"), row)


def _gemini(row: Row) -> list[dict[str, Any]]:
    """Vertex AI's form for Gemini: turns and answers made of parts."""
    turns, answers = plain(row.get("contents")), plain(row.get("completions"))
    if not isinstance(turns, (list, tuple)) or not isinstance(answers, (list, tuple)):
        raise RowError("contents", "or completions is not a list")
    texts = [
        {**one, "text": [_of_parts(one.get("completion"), "completions")]} if isinstance(one, Mapping) else one
        for one in answers
    ]
    prompt = [_of_parts(one, "contents") for one in turns]
    return _graded({**row, "completions": texts}, prompt, "completions", "text", ["score"])


def _of_parts(turn: Any, column: str) -> dict[str, Any]:
    """A turn with role and parts as a message."""
    parts = plain(turn.get("parts")) if isinstance(turn, Mapping) else None
    if not isinstance(parts, (list, tuple)):
        raise RowError(column, "has a turn without parts, expected role and parts of each")
    return {"role": turn.get("role", "user"), "content": list(parts)}


def _has_candidates(row: Row) -> bool:
    turns = plain(row.get("messages"))
    last = turns[-1] if isinstance(turns, (list, tuple)) and turns else None
    return isinstance(last, Mapping) and isinstance(plain(last.get("candidates")), (list, tuple))


def _nova(row: Row) -> list[dict[str, Any]]:
    """Amazon's form for Nova: the last turn has two candidates."""
    if not _has_candidates(row):
        raise RowError("messages", "has no candidates in its last turn, as the first row has")
    *turns, last = plain(row["messages"])
    candidates = [one for one in plain(last["candidates"]) if isinstance(one, Mapping)]
    sides = {str(one.get("preferenceLabel")): one.get("content") for one in candidates}
    if sorted(sides) != ["non-preferred", "preferred"] or len(candidates) > 2:
        raise RowError("messages", "has no two candidates with the preferenceLabel preferred and non-preferred")
    told = ([{"role": "assistant", "content": sides[label]}] for label in ("preferred", "non-preferred"))
    return [{**row, "prompt": turns, **dict(zip(("chosen", "rejected"), told, strict=True))}]


def _true_and_false(row: Row) -> list[dict[str, Any]]:
    """TruthfulQA: every correct answer with every incorrect one."""
    sides = {"chosen": _answers(row, "correct_answers"), "rejected": _answers(row, "incorrect_answers")}
    return [{**row, "prompt": _prompt(row), **sides}]


def _answers(row: Row, column: str) -> list[str]:
    """The answers of a cell: a list, also written as text, or one text with semicolons between them."""
    value = plain(row.get(column))
    if isinstance(value, str):
        written = parsed(value) if value.lstrip().startswith("[") else None
        value = written if written is not None else value.split(";")
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in value):
        raise RowError(column, "is neither a list of answers nor a text with semicolons between them")
    found = [one.strip() for one in value if one.strip()]
    if not found:
        raise RowError(column, "has no answer")
    return found


def _targets(row: Row) -> list[dict[str, Any]]:
    """TruthfulQA's multiple choice: every choice with the label 1 with every one with 0."""
    found = plain(row.get("mc2_targets"))
    choices, labels = (plain(found.get(name)) for name in ("choices", "labels")) if isinstance(found, Mapping) else (None, None)
    if not isinstance(choices, (list, tuple)) or not isinstance(labels, (list, tuple)) or len(choices) != len(labels):
        raise RowError("mc2_targets", "has no choices and labels of the same length")
    sides = {name: [one for one, label in zip(choices, labels, strict=True) if label == value] for name, value in _LABELS}
    return [{**row, "prompt": _prompt(row), **sides}]


_LABELS = (("chosen", 1), ("rejected", 0))


def _label_studio(row: Row) -> list[dict[str, Any]]:
    """A task of Label Studio: what most people selected of a pair, the answer on the left or the one on the right."""
    data = plain(row.get("data"))
    data = {canonical(str(name)): value for name, value in data.items()} if isinstance(data, Mapping) else {}
    names = next((pair for pair in _SIDES if set(pair) <= set(data)), None)
    if names is None:
        listed = ", ".join(map(str, data))
        raise RowError("data", f"has {listed:.100}, expected a prompt and two answers called answer1 and answer2")
    votes = [_side(result) for result in _results(row)]
    first, second = votes.count("left"), votes.count("right")
    if first == second:
        raise TieError("annotations", "have no majority for the left or the right answer")
    asked, system = _prompt(data), next((data[name] for name in ("system", "system_prompt") if data.get(name)), None)
    turns = [{"role": role, "content": text} for role, text in (("system", system), ("user", asked))] if system else asked
    return _pair(turns, [data[name] for name in names], int(second > first), {**row, **data})


def _results(row: Row) -> list[Any]:
    """The results of the annotations that people did not skip."""
    annotations = plain(row.get("annotations"))
    done = [
        one
        for one in (annotations if isinstance(annotations, (list, tuple)) else ())
        if isinstance(one, Mapping) and not one.get("was_cancelled") and isinstance(plain(one.get("result")), (list, tuple))
    ]
    return [result for one in done for result in plain(one["result"])]


def _side(result: Any) -> str:
    """The side that a result selects, ``left`` or ``right``; empty for a result of another kind."""
    value = result.get("value") if isinstance(result, Mapping) and result.get("type") == "pairwise" else None
    side = value.get("selected") if isinstance(value, Mapping) else None
    return side if side in ("left", "right") else ""


def _on_two(
    about: str, columns: tuple[str, str, str], won: Callable[[Row, str], int], prompt: Callable[[Row], Any] | None = None
) -> Layout:
    """The layout of two responses and a verdict on them (:func:`_judged`), which may stand beside other verdicts."""
    a, b, verdict = columns
    return Layout(about, frozenset(columns), _judged(*columns, won, prompt), responses=(a, b), verdict=verdict)


#: Columns of two responses beside a verdict in words.
_SIDES = (
    *(
        (f"{name}{mark}{a}", f"{name}{mark}{b}")
        for name in ("response", "answer", "output", "completion")
        for mark in ("_", "")
        for a, b in ("ab", "12", "01")
    ),
)
#: Columns of a verdict in words.
VERDICTS = ("winner", "preference", "preferred", "better_response", "better", "verdict", "comparison", "label")

#: The first layout whose columns a source has is used.
LAYOUTS = (
    Layout(
        "`labels` as SHP does: 1 if `human_ref_A` was preferred",
        frozenset({"human_ref_A", "human_ref_B", "labels"}),
        _judged("human_ref_A", "human_ref_B", "labels", _either(1, 0), lambda row: row.get("history")),
    ),
    Layout(
        "`better_response_id` as the number of the chosen response",
        frozenset({"response_0", "response_1", "better_response_id"}),
        _judged("response_0", "response_1", "better_response_id", _either(0, 1)),
    ),
    Layout(
        "`safer_response_id` as the number of the chosen response",
        frozenset({"response_0", "response_1", "safer_response_id"}),
        _judged("response_0", "response_1", "safer_response_id", _either(0, 1)),
    ),
    replace(
        _on_two(
            "`label`: 1 or A>B if `response_A` was preferred (check it: elsewhere 0 may mean A)",
            ("response_A", "response_B", "label"),
            _letter_or_one,
        ),
        is_exact=True,
    ),
    Layout("`winner` of two conversations", frozenset({"conversation_a", "conversation_b", "winner"}), _arena),
    Layout(
        "`winner_model_a`, `winner_model_b` and `winner_tie`",
        frozenset({"response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie"}),
        _arena_flags,
    ),
    _on_two("`label` as the number of the chosen output", ("output_1", "output_2", "label"), _either(1, 2)),
    *(
        _on_two(f"`{verdict}` of `{a}` and `{b}`", (a, b, verdict), partial(_letter, names=(a, b)))
        for a, b in (("response_A", "response_B"), *_SIDES)
        for verdict in VERDICTS
        if (a, verdict) != ("response_A", "label")
    ),
    _on_two(
        "`preference_strength`: -3 to 3, below zero if `response_1` is better",
        ("response_1", "response_2", "preference_strength"),
        _strength,
    ),
    _on_two(
        "`overall_preference`: -3 to 3, below zero if `response1` is better",
        ("response1", "response2", "overall_preference"),
        _strength,
        _context_or_prompt,
    ),
    Layout(
        "`preference.responses` as the votes of people", frozenset({"response1", "response2", "preference.responses"}), _argilla
    ),
    Layout(
        "`preferred_output` as chosen, `non_preferred_output` as rejected",
        frozenset({"input", "preferred_output", "non_preferred_output"}),
        _renamed("preferred_output", "non_preferred_output"),
    ),
    Layout(
        "`response_j` as chosen, `response_k` as rejected",
        frozenset({"response_j", "response_k"}),
        _renamed("response_j", "response_k"),
    ),
    Layout("`y_w` as chosen, `y_l` as rejected", frozenset({"y_w", "y_l"}), _renamed("y_w", "y_l")),
    Layout(
        "the last messages of `messages` and `rejected_messages` as chosen and rejected",
        frozenset({"messages", "rejected_messages"}),
        _rejected_messages,
    ),
    Layout("`generations` by their `ratings`", frozenset({"generations", "ratings"}), _listed("generations", "ratings")),
    Layout("`responses` by their `scores`", frozenset({"responses", "scores"}), _listed("responses", "scores")),
    Layout("`responses` by their `rewards`", frozenset({"responses", "rewards"}), _listed("responses", "rewards")),
    Layout("the last message as chosen, `rejected_response` as rejected", frozenset({"messages", "rejected_response"}), _swift),
    Layout("`completions` by their scores", frozenset({"contents", "completions"}), _gemini),
    Layout(
        "`choice` as the number of the chosen candidate",
        frozenset({"candidate_0", "candidate_1", "choice"}),
        _judged("candidate_0", "candidate_1", "choice", _either(0, 1), lambda row: row.get("input_text")),
    ),
    Layout("the candidates of the last message by their `preferenceLabel`", frozenset({"messages"}), _nova, _has_candidates),
    Layout("the choices in `mc2_targets` by their labels", frozenset({"mc2_targets"}), _targets),
    Layout(
        "the side that most `annotations` select of the two answers in `data`",
        frozenset({"data", "annotations"}),
        _label_studio,
    ),
    *(
        Layout(
            f"`{a}` and `{b}` by `{score_a}` and `{score_b}`",
            frozenset({a, b, score_a, score_b}),
            _scored(a, b, score_a, score_b),
            responses=(a, b),
            verdict=score_a,
            has_scores=True,
        )
        for a, b, score_a, score_b in (
            ("answer_0", "answer_1", "score_0", "score_1"),
            ("response_0", "response_1", "score_0", "score_1"),
            ("response_1", "response_2", "score_1", "score_2"),
            ("response_a", "response_b", "score_a", "score_b"),
        )
    ),
    Layout("`completions` by their scores", frozenset({"instruction", "completions"}), _ultrafeedback),
    Layout("`completions` by their ranks", frozenset({"context", "completions"}), _nemo),
    Layout(
        "every answer in `correct_answers` with every one in `incorrect_answers`",
        frozenset({"correct_answers", "incorrect_answers"}),
        _true_and_false,
    ),
    Layout("`answers` by their ranks", frozenset({"prompt", "answers"}), _nectar),
    Layout("`choice` as the number of the chosen summary", frozenset({"info", "summaries", "choice"}), _summaries),
    Layout("the first `output` as chosen, the second as rejected", frozenset({"instruction", "output"}), _two_outputs),
)


def pairs_of(layout: Layout, row: RawRow) -> Iterable[RawRow]:
    """The rows of pairs that a row gives: by the first verdict that it has, if several may stand there.

    Raises:
        RowError: it cannot be read.
        TieError: no response was preferred.
    """
    values = row.values or {}
    given = (one for one in (layout, *layout.rivals) if not is_missing(plain(one.named(values).get(one.verdict))))
    one = next(given, layout) if layout.rivals else layout
    _check_two(one, one.named(values))
    return [RawRow(row.row, found) for found in one.read(one.named(values))]
