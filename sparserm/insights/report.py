"""Insights as tables, and as a Markdown or HTML page that needs nothing else."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

from sparserm.insights.shortcuts import LONGER
from sparserm.insights.values import MOST, Against, Difference, Finding, Insights, Side, Slice, Snippet

_HEADER = (
    "",
    "a response that …",
    "chosen",
    "95% interval",
    "pairs that differ",
    "equally long",
    "returns",
    "q",
    "goes together with",
)
_NOTES = (
    "**chosen**: of the pairs in which exactly one response has the feature, the share in which that one was chosen; the "
    "interval is over prompts.",
    "**equally long**: how often it would be chosen if both responses were equally long (conditional logistic regression). "
    "What is not sure then is marked with (length): length may be the reason.",
    "**returns**: share of the halves of the prompts in which the effect is sure again, with the same sign.",
    "**q**: false discovery rate over all features tested, which may depend on each other (Benjamini and Yekutieli).",
    "A feature is a latent of a sparse autoencoder that fires somewhere in the response, or something counted in its text. "
    "What has no reliable label, or one whose words are not those at which it fires in these pairs, is named by its number and "
    "the words at which it fires.",
)
_AGAINST_HEADER = ("", "a response that …", "chosen here", "chosen there", "here minus there", "q", "goes together with")
_AGAINST_NOTE = (
    "A feature is tested if exactly one response has it in enough pairs of both files. The interval is of the difference of "
    "the two win rates (Agresti and Caffo). What is not sure with length held fixed is marked with (length)."
)
_STYLE = """:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%}th,td{padding:.35rem .6rem;text-align:right;border-bottom:1px solid #8884;
vertical-align:top;font-variant-numeric:tabular-nums}th:nth-child(2),td:nth-child(2),th:last-child,td:last-child{text-align:left}
.up>td:first-child{color:light-dark(#0f766e,#2dd4bf)}.down>td:first-child{color:light-dark(#c2410c,#fb923c)}
small,summary{opacity:.8}.wide{overflow-x:auto}td.more,td.more *{text-align:left}td.more p{margin:.3rem 0}
mark{color:inherit;border-radius:.2em}"""
#: Colours in which chosen and rejected snippets are lit.
_LIT = {"chosen": "13 148 136", "rejected": "234 88 12"}


def findings_table(found: Insights) -> list[dict[str, Any]]:
    """One row for each finding, for a table or CSV."""
    return [
        {
            "feature": one.feature,
            "name": one.name,
            "labelled": one.told,
            "evidence": one.fires_on,
            "detection": one.detection,
            "direction": one.direction,
            "win_rate": one.win_rate,
            "low": one.ci95[0],
            "high": one.ci95[1],
            "n": one.n,
            "share_of_pairs": one.n / found.n_pairs,
            "length_held": one.length_held,
            "length_held_z": one.length_held_z,
            "returns": one.returns,
            "z": one.z,
            "q": one.q,
            "family": "; ".join(member.name for member in one.family),
            "slices": "; ".join(map(slice_text, one.slices)),
        }
        for one in found.findings
    ]


def differences_table(against: Against) -> list[dict[str, Any]]:
    """One row for each feature whose effects differ between two files, for a table or CSV."""
    return [
        {
            "feature": one.feature,
            "name": one.name,
            "labelled": one.named,
            "evidence": one.evidence,
            "how": one.how,
            "here": one.here.win_rate,
            "n_here": one.here.n,
            "there": one.there.win_rate,
            "n_there": one.there.n,
            "gap": one.gap,
            "low": one.ci95[0],
            "high": one.ci95[1],
            "z": one.z,
            "q": one.q,
            "family": "; ".join(member.name for member in one.family),
        }
        for one in against.differences
    ]


def to_markdown(found: Insights) -> str:
    """The verdict, the findings with their slices and snippets, the differences, and what the figures mean."""
    parts = [f"# What {_escaped(found.data)} rewards", *map(_escaped, _verdicts(found)), _escaped(_facts(found))]
    if found.findings:
        parts += [_markdown_table(_HEADER, map(_cells, found.findings)), "\n".join(f"- {note}" for note in _NOTES)]
    for one in found.findings:
        if one.slices or one.snippets:
            lines = [f"- {_escaped(slice_text(each))}" for each in one.slices]
            lines += [f"- {each.side}, row {each.row}: {_markdown_snippet(each)}" for each in one.snippets]
            parts += [f"## {_escaped(one.title)}", "\n".join(lines)]
    if found.against and found.against.differences:
        parts += [
            f"# Against {_escaped(found.against.data)}",
            _markdown_table(_AGAINST_HEADER, map(_difference_cells, found.against.differences)),
            _AGAINST_NOTE,
        ]
    return "\n\n".join(parts) + "\n"


def to_html(found: Insights) -> str:
    """The same as a page that opens from disk without a network."""
    title = html.escape(f"What {found.data} rewards")
    verdict = "".join(f"<p>{html.escape(line)}</p>" for line in _verdicts(found))
    notes = "".join(f"<li>{_bold(note)}</li>" for note in _NOTES)
    rows = ((_cells(one), one.rewarded, _html_more(one)) for one in found.findings)
    body = f"{_html_table(_HEADER, rows)}<ul>{notes}</ul>" if found.findings else ""
    if found.against and found.against.differences:
        rows = ((_difference_cells(one), one.gap > 0, "") for one in found.against.differences)
        heading = f"<h2>{html.escape(f'Against {found.against.data}')}</h2>"
        body += f"{heading}{_html_table(_AGAINST_HEADER, rows)}<p><small>{html.escape(_AGAINST_NOTE)}</small></p>"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><meta name="viewport" '
        f'content="width=device-width"><style>{_STYLE}</style></head><body><h1>{title}</h1>{verdict}'
        f"<p><small>{html.escape(_facts(found))}</small></p>{body}</body></html>\n"
    )


def _verdicts(found: Insights) -> list[str]:
    return [*found.verdict.splitlines(), *(found.against.verdict.splitlines() if found.against else ())]


def _markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(map(_escaped, row)) + " |" for row in rows)])


def _html_table(header: Sequence[str], rows: Iterable[tuple[Sequence[str], bool, str]]) -> str:
    """A table; each row has its cells, whether it speaks in favour, and what stands below it."""
    head = "".join(f"<th>{name}</th>" for name in header)
    body = ""
    for cells, up, more in rows:
        body += f'<tr class="{"up" if up else "down"}">' + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
        body += f'<tr><td class="more" colspan="{len(header)}">{more}</td></tr>' if more else ""
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _html_more(one: Finding) -> str:
    """Slices and snippets of a finding, folded."""
    lines = [f"<p>{html.escape(slice_text(each))}</p>" for each in one.slices]
    lines += [f"<p><small>{each.side}, row {each.row}:</small> {_html_snippet(each)}</p>" for each in one.snippets]
    what = " and ".join([*(["where it differs"] if one.slices else []), *(["examples"] if one.snippets else [])])
    return f"<details><summary>{what}</summary>{''.join(lines)}</details>" if lines else ""


def _html_snippet(one: Snippet) -> str:
    return "".join(
        f'<mark style="background:rgb({_LIT[one.side]} / {strength / 2:.2f})">{html.escape(text)}</mark>'
        if strength
        else f"<span>{html.escape(text)}</span>"
        for text, strength in one.parts
    )


def _markdown_snippet(one: Snippet) -> str:
    """The text on one line, with what is lit in bold."""
    found = ""
    for text, strength in one.parts:
        inner = _escaped(text)
        left, right = (" " * text[:1].isspace(), " " * text[-1:].isspace()) if inner else (" ", "")
        found += f"{left}**{inner}**{right}" if strength and inner else f"{left}{inner}{right}"
    return found.replace("****", "").strip()


def slice_text(one: Slice) -> str:
    low, high = one.ci95
    turns = ", the other way round" if one.turns else ""
    return f"{one.name}: {one.win_rate:.0%} of {one.n:,} pairs ({low:.0%} to {high:.0%}){turns}; elsewhere {one.elsewhere:.0%}"


def _facts(found: Insights) -> str:
    families = f"{'the surest of them ' if found.n_sure > MOST else ''}in {len(found.findings):,} families"
    return (
        f"{found.n_pairs:,} pairs of {found.n_prompts:,} prompts; {found.n_tested:,} features tested, {found.n_sure:,} sure, "
        f"{families}. Features: SAE {found.sae}, {found.hook}."
    )


def _cells(one: Finding) -> list[str]:
    low, high = one.ci95
    return [
        one.direction,
        one.title if one.told else f"{one.title}{f' ({one.fires_on})' if one.fires_on else ''}",
        f"{one.win_rate:.0%}",
        f"{low:.0%} to {high:.0%}",
        f"{one.n:,}",
        "–" if one.name == LONGER else f"{one.length_held:.0%}",
        f"{one.returns:.0%}",
        f"{one.q:.1g}",
        "; ".join(member.name for member in one.family),
    ]


def _difference_cells(one: Difference) -> list[str]:
    low, high = one.ci95
    return [
        one.how,
        one.name if one.named else f"{one.name}{f' ({one.evidence})' if one.evidence else ''}",
        _side(one.here),
        _side(one.there),
        f"{100 * one.gap:+.0f} points ({100 * low:+.0f} to {100 * high:+.0f})",
        f"{one.q:.1g}",
        "; ".join(member.name for member in one.family),
    ]


def _side(one: Side) -> str:
    low, high = one.ci95
    return f"{one.win_rate:.0%} of {one.n:,} ({low:.0%} to {high:.0%})"


def _escaped(text: str) -> str:
    """A text on one line of Markdown, with nothing in it that Markdown would read as its own."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(text.split()))


def _bold(note: str) -> str:
    name, *rest = note.split("**")[1:] or ["", note]
    return f"<b>{html.escape(name)}</b>{html.escape(''.join(rest))}" if name else html.escape(note)
