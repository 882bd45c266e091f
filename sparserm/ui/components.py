"""Parts that pages share: the figures of a result, the facts of a head, and the response's tokens, coloured."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from sparserm.card import HeadCard
from sparserm.types import Explanation
from sparserm.ui.charts.style import DOWN, UP
from sparserm.ui.session import Scored

# User text reaches the page as data and is set with textContent: it is never markup.
_TOKENS = st.components.v2.component(
    "sparserm.tokens",
    html='<div class="tokens" role="list"></div>',
    css="""
    .tokens { font-family: var(--st-font); font-size: 1rem; line-height: 2; white-space: pre-wrap; overflow-wrap: anywhere;
              color: var(--st-text-color); }
    .tokens span { border-radius: 3px; padding: 2px 0; cursor: default; }
    .tokens span:hover, .tokens span:focus { outline: 2px solid var(--st-text-color); }
    """,
    js="""
    export default function ({ parentElement, data }) {
      const box = parentElement.querySelector('.tokens');
      box.replaceChildren(...data.tokens.map(({ text, colour, share, note }) => {
        const span = document.createElement('span');
        span.textContent = text;
        span.title = note;
        span.setAttribute('role', 'listitem');
        span.style.backgroundColor = `color-mix(in srgb, ${colour} ${share}%, transparent)`;
        return span;
      }));
    }
    """,
)


def result_metrics(scored: Scored) -> None:
    """The reward and its two chances."""
    reward, chosen, rejected = st.columns(3)
    reward.metric(
        "Reward", f"{scored.explanation.reward:+.2f}", help="Zero is the mean of the training responses.", border=True
    )
    what = "Bradley-Terry chance against the median {} response of the training pairs."
    chosen.metric("Beats a typical chosen", f"{scored.beats[0]:.0%}", help=what.format("chosen"), border=True)
    rejected.metric("Beats a typical rejected", f"{scored.beats[1]:.0%}", help=what.format("rejected"), border=True)
    if scored.explanation.n_truncated:
        st.warning(
            f"{scored.explanation.n_truncated} tokens of the prompt were cut from the left: the text exceeds the context."
        )


def head_facts(card: HeadCard) -> None:
    """What a head was made from and how far it can be trusted."""
    training, metrics = card.training, card.metrics
    facts = [f"**{card.name}** head: {card.hook}, {training['settings']['k']} features of {card.sae}"]
    facts.append(
        f"trained on {training['n_pairs']:,} pairs of {training['data']} ({training.get('licence') or 'licence not stated'})"
    )
    if metrics:
        low, high = metrics["ci95"]
        facts.append(f"accuracy {metrics['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}) on {metrics['measured_on']}")
        facts.append(f"random directions {metrics['random_directions']:.1%}, longer is better {metrics['length_baseline']:.1%}")
    st.caption(" · ".join(facts))


def running_reward_tokens(explanation: Explanation, spread: float) -> None:
    """The response, each token coloured by the reward of the response up to and with it.

    Args:
        spread: the reward at which the colour is full, e.g. that of a very good training response.
    """
    rows = zip(explanation.tokens, _steps(explanation.running_reward.tolist()), strict=True)
    tokens = [
        {
            "text": text,
            "colour": UP if running > 0 else DOWN,
            "share": round(70 * min(1.0, abs(running) / max(spread, 1e-9))),
            "note": f"running reward {running:+.2f} ({step:+.2f} by this token)",
        }
        for text, (running, step) in rows
    ]
    _TOKENS(data={"tokens": tokens}, key="tokens")


def _steps(running: Sequence[float]) -> list[tuple[float, float]]:
    """Each value with the step that led to it."""
    return [(value, value - before) for value, before in zip(running, [0.0, *running[:-1]], strict=True)]
