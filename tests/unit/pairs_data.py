"""Made-up preference pairs: rows as a file holds them, and the same parsed."""

from __future__ import annotations

import numpy as np

from sparserm.pairs.parsing import parse_pairs

SETTINGS = {"k": 4, "selection": "effect_size", "l2": 0.1}


def preference_rows(n: int = 40, n_prompts: int = 10, seed: int = 0) -> list[dict[str, str]]:
    """Kind answers are mostly preferred over rude ones, whatever their length."""
    rng = np.random.default_rng(seed)
    kind, rude = ["please", "thanks", "gladly", "of", "course", "happily"], ["shut", "up", "go", "away", "idiot", "never"]
    rows = []
    for i in range(n):
        good, bad = (" ".join(rng.choice(words, rng.integers(2, 6))) + f" {i}" for words in (kind, rude))
        chosen, rejected = (bad, good) if rng.random() < 0.15 else (good, bad)
        rows.append({"prompt": f"Question {i % n_prompts}, set {seed}?", "chosen": chosen, "rejected": rejected})
    return rows


TRAIN, TEST = parse_pairs(preference_rows(), "train.jsonl"), parse_pairs(preference_rows(14, 7, seed=1), "test.jsonl")
