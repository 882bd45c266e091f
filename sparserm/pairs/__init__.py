"""Preference pairs: loading from files, datasets and memory, validation, and splits by prompt."""

from sparserm.pairs.load import load_pairs
from sparserm.pairs.messages import as_prompt, as_response, prompt_text
from sparserm.pairs.parsing import PairsError, parse_pairs
from sparserm.pairs.split import Split, check_leakage, split_by_prompt

__all__ = [
    "PairsError",
    "Split",
    "as_prompt",
    "as_response",
    "check_leakage",
    "load_pairs",
    "parse_pairs",
    "prompt_text",
    "split_by_prompt",
]
