"""The opened feature on the Insights page: its facts and examples, the pairs that differ in it, and one of them, lit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from sparserm.features.cards import SIDES
from sparserm.insights.find import doubts
from sparserm.insights.report import slice_text
from sparserm.insights.snippets import Lit, Response
from sparserm.insights.values import Finding, Member
from sparserm.pairs.messages import prompt_text
from sparserm.ui.insights import state
from sparserm.ui.insights.state import Found
from sparserm.ui.insights.view import download_pairs
from sparserm.ui.shared.context import selected
from sparserm.ui.shared.examples import ColouredText, ExampleRow, show_examples
from sparserm.ui.shared.links import card_link, edit_link, open_in_compare
from sparserm.ui.shared.pairs_picker import Represented
from sparserm.ui.shared.place import Place
from sparserm.ui.shared.rename import rename_button
from sparserm.ui.shared.text import plain
from sparserm.ui.shared.tokens import coloured_tokens

#: Findings that must speak against a label beyond those that speak for it, and their share, for it to be questioned.
MANY, NEARLY_ALL = 3, 0.8


def draw(feature: Member, found: Found, here: Place, pairs: Represented) -> None:
    """Everything about one feature.

    Args:
        pairs: as they came.
    """
    finding = found.finding(feature)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader(plain(feature.name), anchor=False)
        if feature.feature is not None:
            head = selected()
            rename_button(here.sae_fingerprint, feature.feature, head.card.labels if head else {}, key="insights")
            card_link(feature.feature)
            if head and feature.feature in head.saved.head.features:
                edit_link(feature.feature)
    _facts(feature, finding, here)
    own = state.has(here, found.pairs, [feature])[:, 0]
    if not own.any():
        st.caption("In no pair exactly one response has it, so these pairs say nothing about it.")
        return
    _examples(state.examples(here, found.pairs, feature), found, _sign(finding, own))
    index = _pairs(own, found, here, pairs)
    if index is not None:
        _pair(index, feature, found, here, _sign(finding, own))


def _sign(finding: Finding | None, own: np.ndarray) -> int:
    """+1 for what the pairs reward, -1 for what they punish."""
    return 1 if (finding.rewarded if finding else own.sum() >= 0) else -1


def _facts(feature: Member, finding: Finding | None, here: Place) -> None:
    """Detection score, evidence, family and slices, each on a line."""
    lines = []
    if finding is None:
        lines.append("Not a finding of its own: either not sure in these pairs, or shown under another one of its family.")
    else:
        low, high = finding.ci95
        lines.append(
            f"Chosen in {finding.win_rate:.0%} of the {finding.n:,} pairs in which one response has it ({low:.0%} to "
            f"{high:.0%}); {finding.length_held:.0%} if both were equally long; sure again in {finding.returns:.0%} of the "
            f"halves of the prompts; q = {finding.q:.1g}."
        )
        lines += _name_facts(finding)
        if finding.family:
            names = [plain(member.name) for member in finding.family[:6]]
            more = f" and {len(finding.family) - 6:,} more" if len(finding.family) > 6 else ""
            lines.append(f"Goes together with: {'; '.join(names)}{more}.")
    st.markdown("  \n".join(lines))
    for one in finding.slices[:6] if finding else ():
        st.markdown(f"- {plain(slice_text(one))}")


def _name_facts(finding: Finding) -> list[str]:
    """At which words it fires, and how reliable its name is."""
    lines = []
    if finding.here:
        lines.append(f"In these pairs it fires on: {plain(finding.here)}.")
    elif finding.evidence:
        lines.append(f"{plain(finding.evidence[:1].upper() + finding.evidence[1:])}.")
    if not finding.told and finding.named:
        made = finding.evidence.removeprefix("fires on: ")
        lines.append(f"**The name may not fit:** where it was made, the feature fires on: {plain(made)}.")
    elif finding.detection is not None:
        lines.append(f"Where it was made, the name detects the feature with an accuracy of {finding.detection:.2f}.")
    return lines


def _examples(read: list[tuple[Response, Lit]], found: Found, sign: int) -> None:
    """Responses that have the feature where the other one has not, chosen and rejected ones side by side."""
    full = max((value for _, lit in read for value in lit.values), default=0.0)
    sides = [[_coloured(place, lit, found, sign) for place, lit in read if place[1] == side] for side in SIDES]
    n = max(map(len, sides))
    padded = [[*side, *[None] * (n - len(side))] for side in sides]
    rows = [ExampleRow(chosen, rejected) for chosen, rejected in zip(*padded, strict=True)]
    st.caption("Responses that have it where the other response of the pair has not; the other side shows counter-examples.")
    show_examples(rows, full=full, unit="activation", none="no other pair", key="snippets")


def _coloured(place: Response, lit: Lit, found: Found, sign: int) -> ColouredText:
    pair = found.pairs.data.pairs[place[0]]
    return ColouredText(f"Row {pair.row:,}", pair.prompt[-1].content, lit.pieces, sign * np.array(lit.values or (0.0,)))


def _pairs(own: np.ndarray, found: Found, here: Place, pairs: Represented) -> int | None:
    """The pairs that differ in the feature, to select, export, drop or flip. Returns the pair to open."""
    won, lost = np.flatnonzero(own > 0), np.flatnonzero(own < 0)
    options = {f"Chosen has it ({len(won):,})": won, f"Rejected has it ({len(lost):,})": lost}
    first = next(iter(options)) if len(won) else list(options)[1]
    which = st.segmented_control("Pairs", list(options), default=first, key="side", required=True)
    rows = options.get(str(which), won)
    if not len(rows):
        st.caption("There is no such pair.")
        return None
    selected = _table(rows, found, here)
    chosen = [int(rows[place]) for place in selected]
    _actions(chosen, found, pairs)
    return chosen[0] if chosen else None


def _table(rows: np.ndarray, found: Found, here: Place) -> list[int]:
    """Table of pairs with how many findings speak for and against each label. Returns the places of the selected rows."""
    findings = found.insights.findings
    speak = doubts(state.has(here, found.pairs, [one.member for one in findings]), findings)
    own = found.pairs
    gaps = own.pairs.chosen.n_tokens - own.pairs.rejected.n_tokens
    table = pd.DataFrame(
        [
            {
                **{name: getattr(own.data.pairs[i], name) for name in ("row", "category", "chosen", "rejected")},
                "for": int(speak[0][i]),
                "against": int(speak[1][i]),
                "gap": int(gaps[i]),
                "flipped": int(found.kept[i]) in found.edits.flipped,
                "prompt": prompt_text(own.data.pairs[i].prompt),
            }
            for i in rows.tolist()
        ]
    )
    optional = [name for name in ("category", "flipped") if table[name].astype(bool).any()]
    number = st.column_config.NumberColumn
    event: Any = st.dataframe(
        table,
        hide_index=True,
        height=min(330, 38 + 35 * len(table)),
        on_select="rerun",
        selection_mode="multi-row",
        key=f"pairs of a feature {hash((tuple(rows.tolist()), own.data.content_hash))}",
        column_order=["row", *optional, "for", "against", "gap", "prompt", "chosen", "rejected"],
        column_config={
            "row": number("Row", width=60),
            "category": st.column_config.TextColumn("Category", width=120),
            "flipped": st.column_config.CheckboxColumn("Flipped", width=60),
            "for": number(
                "For", width=55, help="Findings in which the two responses differ, and that speak for the chosen one."
            ),
            "against": number("Against", width=70, help="Findings that speak for the rejected one. Doubtful labels have many."),
            "gap": number("Longer by", format="%+d", width=80, help="Tokens of chosen minus those of rejected."),
            "prompt": st.column_config.TextColumn("Prompt", width="medium"),
            "chosen": st.column_config.TextColumn("Chosen", width="medium"),
            "rejected": st.column_config.TextColumn("Rejected", width="medium"),
        },
    )
    places: list[int] = event["selection"]["rows"]
    return [place for place in places if place < len(rows)]


def _actions(chosen: list[int], found: Found, pairs: Represented) -> None:
    """Buttons for the selected pairs; pressing one changes the list above."""
    original = frozenset(int(found.kept[i]) for i in chosen)
    if pairs.sampled_of is not None:
        st.caption("Select a pair to open it. Once all pairs are read they can be dropped, flipped and exported.")
        return
    if not chosen:
        st.caption("Select pairs to drop, flip or export them; the first one is opened below.")
        return
    with st.container(horizontal=True):
        for label, icon, edits in (
            ("Drop", ":material/delete_sweep:", found.edits.drop(original)),
            ("Flip", ":material/swap_horiz:", found.edits.flip(original)),
        ):
            st.button(
                f"{label} {len(chosen):,}",
                icon=icon,
                key=f"{label} pairs",
                on_click=state.set_edits,
                args=(pairs.data.content_hash, edits),
            )
        download_pairs("Export", found.pairs, chosen, "selected-pairs.jsonl")


def _pair(index: int, feature: Member, found: Found, here: Place, sign: int) -> None:
    """One pair with both responses lit, and what the other findings say of its label."""
    pair = found.pairs.data.pairs[index]
    st.markdown(f"**Row {pair.row:,}**")
    for turn in pair.prompt:
        st.caption(turn.role.capitalize())
        st.text(turn.content)
    read = state.lit_pair(here, found.pairs, feature, index)
    full = max((value for lit in read for value in lit.values), default=0.0)
    for place, side, lit in zip(st.columns(2, gap="large"), SIDES, read, strict=True):
        with place, st.container(border=True):
            fires = "has it" if any(lit.values) else "has not got it"
            st.caption(f"{side.capitalize()}: {fires}")
            notes = [f"activation {value:.2f}" if feature.feature is not None else "" for value in lit.values]
            coloured_tokens(lit.pieces, [sign * value for value in lit.values], notes, full=full, key=f"lit {side}")
    _doubt(index, found, here)
    open_in_compare(pair.prompt, (pair.chosen, pair.rejected))


def _doubt(index: int, found: Found, here: Place) -> None:
    """What the findings in which the two responses differ say of the label."""
    findings = found.insights.findings
    own = state.has(here, found.pairs, [one.member for one in findings])[[index]]
    speak_for, speak_against = (int(counts[0]) for counts in doubts(own, findings))
    if not speak_for + speak_against:
        return
    against = [
        plain(one.name)
        for one, has in zip(findings, own[0].tolist(), strict=True)
        if has * one.z < 0 and one.beside_length and one.named
    ]
    text = f"The responses differ in {speak_for + speak_against} sure findings: {speak_for} speak for the chosen one, "
    text += f"{speak_against} for the rejected one"
    text += f" (which {'; '.join(against[:3])})." if against else "."
    if speak_against - speak_for >= MANY and speak_against >= NEARLY_ALL * (speak_for + speak_against):
        st.warning(f"**The label may be wrong.** {text}", icon=":material/help:")
    else:
        st.caption(text)
