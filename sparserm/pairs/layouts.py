"""Data sets that do not say `chosen` and `rejected`: a label, ratings or ranks tell which response won.

Each :class:`Layout` turns a row into rows with `prompt`, `chosen` and `rejected`. Ties are left out by name. What a label means
is what the card of its data set says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from sparserm.pairs import forms
from sparserm.pairs.messages import RowError, is_missing, plain
from sparserm.pairs.preferences import either, letter, letter_or_one, strength
from sparserm.pairs.rows import RawRow, Row, canonical


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


def _check_two(layout: Layout, row: Row) -> None:
    """Check that a verdict on two responses has no others beside them, which it may be about, too.

    Raises:
        RowError: there are others.
    """
    if layout.responses and not layout.has_scores and (others := forms.others_like(layout.responses, row)):
        raise RowError(
            others[0],
            f"stands beside {' and '.join(layout.responses)} and would be lost: expected two responses; write each pair into a "
            "row of its own, or the responses and their scores into lists in the columns responses and scores",
        )


def _judged(
    about: str, columns: tuple[str, str, str], won: Callable[[Row, str], int], prompt: Callable[[Row], Any] | None = None
) -> Layout:
    """The layout of two responses and a verdict, which stand in these columns (:func:`~sparserm.pairs.forms.judged`)."""
    return Layout(about, frozenset(columns), forms.judged(*columns, won, prompt))


def _compared(
    about: str, columns: tuple[str, str, str], won: Callable[[Row, str], int], prompt: Callable[[Row], Any] | None = None
) -> Layout:
    """As :func:`_judged`, of two responses that other verdicts may compare, too."""
    a, b, verdict = columns
    return replace(_judged(about, columns, won, prompt), responses=(a, b), verdict=verdict)


#: Columns of a verdict in words.
VERDICTS = ("winner", "preference", "preferred", "better_response", "better", "verdict", "comparison", "label")

#: The first layout whose columns a source has is used.
LAYOUTS = (
    _judged(
        "`labels` as SHP does: 1 if `human_ref_A` was preferred",
        ("human_ref_A", "human_ref_B", "labels"),
        either(1, 0),
        lambda row: row.get("history"),
    ),
    _judged(
        "`better_response_id` as the number of the chosen response",
        ("response_0", "response_1", "better_response_id"),
        either(0, 1),
    ),
    _judged(
        "`safer_response_id` as the number of the chosen response",
        ("response_0", "response_1", "safer_response_id"),
        either(0, 1),
    ),
    replace(
        _compared(
            "`label`: 1 or A>B if `response_A` was preferred (check it: elsewhere 0 may mean A)",
            ("response_A", "response_B", "label"),
            letter_or_one,
        ),
        is_exact=True,
    ),
    Layout("`winner` of two conversations", frozenset({"conversation_a", "conversation_b", "winner"}), forms.arena),
    Layout(
        "`winner_model_a`, `winner_model_b` and `winner_tie`",
        frozenset({"response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie"}),
        forms.arena_flags,
    ),
    _compared("`label` as the number of the chosen output", ("output_1", "output_2", "label"), either(1, 2)),
    *(
        _compared(f"`{verdict}` of `{a}` and `{b}`", (a, b, verdict), partial(letter, names=(a, b)))
        for a, b in (("response_A", "response_B"), *forms.SIDES)
        for verdict in VERDICTS
        if (a, verdict) != ("response_A", "label")
    ),
    _compared(
        "`preference_strength`: -3 to 3, below zero if `response_1` is better",
        ("response_1", "response_2", "preference_strength"),
        strength,
    ),
    _compared(
        "`overall_preference`: -3 to 3, below zero if `response1` is better",
        ("response1", "response2", "overall_preference"),
        strength,
        forms.context_or_prompt,
    ),
    Layout(
        "`preference.responses` as the votes of people",
        frozenset({"response1", "response2", "preference.responses"}),
        forms.argilla,
    ),
    Layout(
        "`preferred_output` as chosen, `non_preferred_output` as rejected",
        frozenset({"input", "preferred_output", "non_preferred_output"}),
        forms.renamed("preferred_output", "non_preferred_output"),
    ),
    Layout(
        "`response_j` as chosen, `response_k` as rejected",
        frozenset({"response_j", "response_k"}),
        forms.renamed("response_j", "response_k"),
    ),
    Layout("`y_w` as chosen, `y_l` as rejected", frozenset({"y_w", "y_l"}), forms.renamed("y_w", "y_l")),
    Layout(
        "the last messages of `messages` and `rejected_messages` as chosen and rejected",
        frozenset({"messages", "rejected_messages"}),
        forms.rejected_messages,
    ),
    Layout("`generations` by their `ratings`", frozenset({"generations", "ratings"}), forms.listed("generations", "ratings")),
    Layout("`responses` by their `scores`", frozenset({"responses", "scores"}), forms.listed("responses", "scores")),
    Layout("`responses` by their `rewards`", frozenset({"responses", "rewards"}), forms.listed("responses", "rewards")),
    Layout(
        "the last message as chosen, `rejected_response` as rejected", frozenset({"messages", "rejected_response"}), forms.swift
    ),
    Layout("`completions` by their scores", frozenset({"contents", "completions"}), forms.gemini),
    _judged(
        "`choice` as the number of the chosen candidate",
        ("candidate_0", "candidate_1", "choice"),
        either(0, 1),
        lambda row: row.get("input_text"),
    ),
    Layout(
        "the candidates of the last message by their `preferenceLabel`",
        frozenset({"messages"}),
        forms.nova,
        forms.has_candidates,
    ),
    Layout("the choices in `mc2_targets` by their labels", frozenset({"mc2_targets"}), forms.targets),
    Layout(
        "the side that most `annotations` select of the two answers in `data`",
        frozenset({"data", "annotations"}),
        forms.label_studio,
    ),
    *(
        Layout(
            f"`{a}` and `{b}` by `{score_a}` and `{score_b}`",
            frozenset({a, b, score_a, score_b}),
            forms.scored(a, b, score_a, score_b),
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
    Layout("`completions` by their scores", frozenset({"instruction", "completions"}), forms.ultrafeedback),
    Layout("`completions` by their ranks", frozenset({"context", "completions"}), forms.nemo),
    Layout(
        "every answer in `correct_answers` with every one in `incorrect_answers`",
        frozenset({"correct_answers", "incorrect_answers"}),
        forms.true_and_false,
    ),
    Layout("`answers` by their ranks", frozenset({"prompt", "answers"}), forms.nectar),
    Layout("`choice` as the number of the chosen summary", frozenset({"info", "summaries", "choice"}), forms.summaries),
    Layout("the first `output` as chosen, the second as rejected", frozenset({"instruction", "output"}), forms.two_outputs),
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
