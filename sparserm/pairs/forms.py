"""Readers of rows that tell in another way than by the columns `chosen` and `rejected` which response won.

Each turns a row into rows with `prompt`, `chosen` and `rejected`. What a label means is what the card of its data set says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

from sparserm.pairs.cells import is_blank, parsed
from sparserm.pairs.messages import RowError, is_missing, plain, text_beside
from sparserm.pairs.preferences import TieError, either, grade_of, letter, number
from sparserm.pairs.rows import Row, canonical

#: Columns of the prompt, the first one that a row has; of texts that stand before it; and of what follows an instruction.
_PROMPTS = ("prompt", "instruction", "question", "input", "query")
BEFORE, _AFTER = (
    ("context", "contexts", "passage", "passages", "document", "documents", "article", "evidence", "history"),
    "input",
)
#: Columns of two responses beside a verdict in words.
SIDES = (
    *(
        (f"{name}{mark}{a}", f"{name}{mark}{b}")
        for name in ("response", "answer", "output", "completion")
        for mark in ("_", "")
        for a, b in ("ab", "12", "01")
    ),
)
#: Where a pair says which of two responses its label preferred: no name that a column can have.
WON = "\0won"


def _pair(prompt: Any, responses: Sequence[Any], won: int, row: Row) -> list[dict[str, Any]]:
    """The pair of two responses of which the one at index ``won`` was chosen."""
    return [{**row, "prompt": prompt, "chosen": responses[won], "rejected": responses[1 - won], WON: won}]


def judged(
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


def arena(row: Row) -> list[dict[str, Any]]:
    """Whole conversations, which hold the prompt."""
    responses = [row.get("conversation_a"), row.get("conversation_b")]
    won = letter(row, "winner")
    return [{**row, "chosen": responses[won], "rejected": responses[1 - won]}]


def scored(a: str, b: str, score_a: str, score_b: str) -> Callable[[Row], list[dict[str, Any]]]:
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


def argilla(row: Row) -> list[dict[str, Any]]:
    """Argilla's answers of several people: what most of them chose."""
    answers = plain(row.get("preference.responses"))
    votes = [re.sub("[^a-z0-9]", "", str(one).lower()) for one in answers] if isinstance(answers, (list, tuple)) else []
    if unknown := [one for one in votes if one not in ("response1", "response2", "tie", "same", "equal")]:
        raise RowError("preference.responses", f"has the vote {unknown[0]!r:.40}, expected response1 or response2")
    first, second = votes.count("response1"), votes.count("response2")
    if first == second:
        raise TieError("preference.responses", "has no majority for one of the responses")
    return _pair(_prompt(row), [row.get("response1"), row.get("response2")], int(second > first), row)


def renamed(chosen: str, rejected: str) -> Callable[[Row], list[dict[str, Any]]]:
    """The responses under other names, which say by convention which one won."""

    def read(row: Row) -> list[dict[str, Any]]:
        return [{**row, "prompt": _prompt(row), "chosen": row.get(chosen), "rejected": row.get(rejected)}]

    return read


def two_outputs(row: Row) -> list[dict[str, Any]]:
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


def rejected_messages(row: Row) -> list[dict[str, Any]]:
    """Two whole conversations, as ms-swift writes them."""
    return [{**row, "chosen": row.get("messages"), "rejected": row.get("rejected_messages")}]


def arena_flags(row: Row) -> list[dict[str, Any]]:
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


def context_or_prompt(row: Row) -> Any:
    """The context if it is messages, else the prompt with the context before it; of a row without one, the context."""
    context = row.get("context")
    is_text = isinstance(context, (str, type(None)))
    return _prompt(row) if is_text and any(row.get(name) is not None for name in _PROMPTS) else context


def swift(row: Row) -> list[dict[str, Any]]:
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


def listed(texts: str, grades: str) -> Callable[[Row], list[dict[str, Any]]]:
    """Responses in one list and their ratings in another."""

    def read(row: Row) -> list[dict[str, Any]]:
        responses, ratings = plain(row.get(texts)), plain(row.get(grades))
        if not isinstance(responses, (list, tuple)) or not isinstance(ratings, (list, tuple)) or len(responses) != len(ratings):
            raise RowError(grades, f"and {texts} are not two lists of the same length")
        entries = [{"text": one, "rating": rating} for one, rating in zip(responses, ratings, strict=True)]
        return _graded({**row, texts: entries}, _prompt(row), texts, "text", ["rating"])

    return read


def nemo(row: Row) -> list[dict[str, Any]]:
    """NeMo RL: completions with ranks, 0 for the best."""
    return _graded(row, row.get("context"), "completions", "completion", ["rank"], -1)


def ultrafeedback(row: Row) -> list[dict[str, Any]]:
    """UltraFeedback: completions with scores of several kinds, the first kind that two of them have."""
    names = ["fine-grained_score", "overall_score", "score", "rating"]
    return _graded(row, _prompt(row), "completions", "response", names)


def nectar(row: Row) -> list[dict[str, Any]]:
    """Nectar: answers with ranks, 1 for the best."""
    return _graded(row, _prompt(row), "answers", "answer", ["rank"], -1)


def summaries(row: Row) -> list[dict[str, Any]]:
    """Summarize-from-feedback: two summaries of a post or an article."""
    info, summaries = plain(row.get("info")), plain(row.get("summaries"))
    if not isinstance(info, Mapping) or not isinstance(summaries, (list, tuple)) or len(summaries) != 2:
        raise RowError("summaries", "is not a list of two summaries beside the post in info")
    texts = [one.get("text") if isinstance(one, Mapping) else one for one in summaries]
    return _pair(info.get("post") or info.get("article"), texts, either(0, 1)(row, "choice"), row)


def gemini(row: Row) -> list[dict[str, Any]]:
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


def has_candidates(row: Row) -> bool:
    """Whether the last message has candidates, as in Amazon's form for Nova."""
    turns = plain(row.get("messages"))
    last = turns[-1] if isinstance(turns, (list, tuple)) and turns else None
    return isinstance(last, Mapping) and isinstance(plain(last.get("candidates")), (list, tuple))


def nova(row: Row) -> list[dict[str, Any]]:
    """Amazon's form for Nova: the last turn has two candidates."""
    if not has_candidates(row):
        raise RowError("messages", "has no candidates in its last turn, as the first row has")
    *turns, last = plain(row["messages"])
    candidates = [one for one in plain(last["candidates"]) if isinstance(one, Mapping)]
    sides = {str(one.get("preferenceLabel")): one.get("content") for one in candidates}
    if sorted(sides) != ["non-preferred", "preferred"] or len(candidates) > 2:
        raise RowError("messages", "has no two candidates with the preferenceLabel preferred and non-preferred")
    told = ([{"role": "assistant", "content": sides[label]}] for label in ("preferred", "non-preferred"))
    return [{**row, "prompt": turns, **dict(zip(("chosen", "rejected"), told, strict=True))}]


def true_and_false(row: Row) -> list[dict[str, Any]]:
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


def targets(row: Row) -> list[dict[str, Any]]:
    """TruthfulQA's multiple choice: every choice with the label 1 with every one with 0."""
    found = plain(row.get("mc2_targets"))
    choices, labels = (plain(found.get(name)) for name in ("choices", "labels")) if isinstance(found, Mapping) else (None, None)
    if not isinstance(choices, (list, tuple)) or not isinstance(labels, (list, tuple)) or len(choices) != len(labels):
        raise RowError("mc2_targets", "has no choices and labels of the same length")
    sides = {name: [one for one, label in zip(choices, labels, strict=True) if label == value] for name, value in _LABELS}
    return [{**row, "prompt": _prompt(row), **sides}]


_LABELS = (("chosen", 1), ("rejected", 0))


def label_studio(row: Row) -> list[dict[str, Any]]:
    """A task of Label Studio: what most people selected of a pair, the answer on the left or the one on the right."""
    data = plain(row.get("data"))
    data = {canonical(str(name)): value for name, value in data.items()} if isinstance(data, Mapping) else {}
    names = next((pair for pair in SIDES if set(pair) <= set(data)), None)
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
