"""Sampling: as many responses as were asked for, each to its own prompt, the same ones again."""

from __future__ import annotations

import pytest

from sparserm.policy import sample_responses
from sparserm.types import Message, SparseRMError

PROMPTS = [(Message("user", text),) for text in ("What is the sum of these long and many words?", "Hi", "Tell me")]


def test_every_prompt_has_its_responses_and_the_seed_decides_them(tiny_folder) -> None:
    seen = []
    first = sample_responses(PROMPTS, model=tiny_folder, n=3, max_new_tokens=5, progress=lambda *step: seen.append(step[:2]))
    assert [len(texts) for texts in first] == [3, 3, 3]
    assert all(isinstance(text, str) for texts in first for text in texts)
    assert seen[-1] == (9, 9)
    assert first == sample_responses(PROMPTS, model=tiny_folder, n=3, max_new_tokens=5)
    assert first != sample_responses(PROMPTS, model=tiny_folder, n=3, max_new_tokens=5, seed=1)


def test_company_and_padding_do_not_reach_a_prompts_own_responses(tiny_folder) -> None:
    """As good as greedy: at a temperature near zero the response depends on the prompt alone."""
    cold = {"model": tiny_folder, "max_new_tokens": 6, "temperature": 1e-4}
    together = sample_responses(PROMPTS, **cold)
    assert together == [sample_responses([prompt], **cold)[0] for prompt in PROMPTS]


def test_a_prompt_without_room_is_refused(tiny_folder) -> None:
    with pytest.raises(SparseRMError, match="leaves no room"):
        sample_responses([(Message("user", "word " * 600),)], model=tiny_folder)
