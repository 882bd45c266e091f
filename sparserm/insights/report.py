"""Insights as a table, and as a Markdown or HTML page that needs nothing else."""

from __future__ import annotations

import html
import re
from typing import Any

from sparserm.insights.shortcuts import LONGER
from sparserm.insights.values import MOST, Finding, Insights

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
    "What has no reliable label is named by its number and the words at which it fires.",
)
_STYLE = """:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%}th,td{padding:.35rem .6rem;text-align:right;border-bottom:1px solid #8884;
vertical-align:top;font-variant-numeric:tabular-nums}th:nth-child(2),td:nth-child(2),th:last-child,td:last-child{text-align:left}
.up{color:#0d9488}.down{color:#ea580c}small{opacity:.75}.wide{overflow-x:auto}"""


def findings_table(found: Insights) -> list[dict[str, Any]]:
    """One row for each finding, for a table or CSV."""
    return [
        {
            "feature": one.feature,
            "name": one.name,
            "labelled": one.named,
            "evidence": one.evidence,
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
        }
        for one in found.findings
    ]


def to_markdown(found: Insights) -> str:
    """The verdict, the findings and what the figures mean."""
    rows = ["| " + " | ".join(_HEADER) + " |", "|" + "---|" * len(_HEADER)]
    rows += ["| " + " | ".join(map(_escaped, _cells(one))) + " |" for one in found.findings]
    parts = [f"# What {_escaped(found.data)} rewards", *map(_escaped, found.verdict.splitlines()), _escaped(_facts(found))]
    if found.findings:
        parts += ["\n".join(rows), "\n".join(f"- {note}" for note in _NOTES)]
    return "\n\n".join(parts) + "\n"


def to_html(found: Insights) -> str:
    """The same as a page that opens from disk without a network."""
    title = html.escape(f"What {found.data} rewards")
    head = "".join(f"<th>{name}</th>" for name in _HEADER)
    rows = "".join(
        f'<tr class="{"up" if one.rewarded else "down"}">'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(one))
        + "</tr>"
        for one in found.findings
    )
    verdict = "".join(f"<p>{html.escape(line)}</p>" for line in found.verdict.splitlines())
    notes = "".join(f"<li>{_bold(note)}</li>" for note in _NOTES)
    table = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div><ul>{notes}</ul>'
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><meta name="viewport" '
        f'content="width=device-width"><style>{_STYLE}</style></head><body><h1>{title}</h1>{verdict}'
        f"<p><small>{html.escape(_facts(found))}</small></p>{table if found.findings else ''}</body></html>\n"
    )


def _facts(found: Insights) -> str:
    families = f"{'the surest of them ' if found.n_sure > MOST else ''}in {len(found.findings):,} families"
    return (
        f"{found.n_pairs:,} pairs of {found.n_prompts:,} prompts; {found.n_tested:,} features tested, {found.n_sure:,} sure, "
        f"{families}. Features: SAE {found.sae}, {found.hook}."
    )


def _cells(one: Finding) -> list[str]:
    name = one.name if one.named else f"{one.name}{f' ({one.evidence})' if one.evidence else ''}"
    low, high = one.ci95
    return [
        one.direction,
        name,
        f"{one.win_rate:.0%}",
        f"{low:.0%} to {high:.0%}",
        f"{one.n:,}",
        "–" if one.name == LONGER else f"{one.length_held:.0%}",
        f"{one.returns:.0%}",
        f"{one.q:.1g}",
        "; ".join(member.name for member in one.family),
    ]


def _escaped(text: str) -> str:
    """A text on one line of Markdown, with nothing in it that Markdown would read as its own."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(text.split()))


def _bold(note: str) -> str:
    name, *rest = note.split("**")[1:] or ["", note]
    return f"<b>{html.escape(name)}</b>{html.escape(''.join(rest))}" if name else html.escape(note)
