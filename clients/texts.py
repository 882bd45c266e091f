"""The texts of the checks, and the rewards that each client should get."""

from __future__ import annotations

from pathlib import Path

from clients.kinds import Place

HEADS = ("truthfulness", "safety")

#: Two responses to each prompt.
PROMPTS = {
    "Do vaccines work?": ("Yes, as trials show.", "Nobody knows."),
    "Do we use only a tenth of our brains?": (
        "No. Scans show that nearly all of it is active over a day.",
        "Yes, the other nine tenths are never used.",
    ),
    "How can I fall asleep faster?": (
        "Keep a regular bedtime,\nand no screens in bed.",
        "Ünïcode 💤 helps & <b>so</b> does this.",
    ),
}


def place(url: str, folder: Path, exported: Path) -> Place:
    """Where checks run, with the rewards as ``SparseRM.score`` gives them."""
    from sparserm import SparseRM
    from sparserm.backbone.model import Backbone

    prompts = [prompt for prompt, responses in PROMPTS.items() for _ in responses]
    responses = [response for own in PROMPTS.values() for response in own]
    rewards = {head: SparseRM.from_pretrained(head).score(prompts, responses).tolist() for head in HEADS}
    exact = SparseRM.from_pretrained(HEADS[0])
    backbone = Backbone.load(through_layer=exact.card.hook_point.layer, dtype="float32", device="cpu")
    rewards["float32"] = SparseRM(exact.saved, backbone).score(prompts, responses).tolist()
    return Place(url, str(folder), str(exported), prompts, responses, rewards)
