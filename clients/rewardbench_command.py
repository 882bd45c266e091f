"""RewardBench's own command on an exported head, with the transformers that it pins."""

from __future__ import annotations

import json
import os
import runpy
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

from clients.kinds import Check, Client, Place, close, equal


def _on_this_device() -> AbstractContextManager[Any]:
    """RewardBench moves its inputs to a GPU whatever there is; on a machine without one they stay where they are."""
    import torch
    from transformers import BatchEncoding

    moved = BatchEncoding.to

    def to(self: Any, device: str, **options: Any) -> Any:
        return moved(self, device if torch.cuda.is_available() else "cpu", **options)

    return mock.patch.object(BatchEncoding, "to", to)


def _command(place: Place) -> None:
    """Run ``rewardbench`` on pairs of the responses to the same prompt, the first as chosen.

    The chosen ones come with thinking and white space around them, which are not scored.
    """
    folder, exported = Path(place.folder), Path(place.exported)
    rows, expected = [], []
    rewards = place.rewards["float32"]
    for i in range(0, len(place.prompts), 2):
        asked = {"role": "user", "content": place.prompts[i]}
        said = (f"<think>Which one?</think>\n\n{place.responses[i]} \n", place.responses[i + 1])
        both = [[asked, {"role": "assistant", "content": text}] for text in said]
        rows.append({"prompt": place.prompts[i], "chosen": both[0], "rejected": both[1]})
        expected.append(rewards[i : i + 2])
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    os.chdir(exported.parent)
    output = folder / "results"
    sys.argv = ["rewardbench", "--model", exported.name, "--dataset", str(folder / "pairs.jsonl"), "--load_json"]
    sys.argv += ["--trust_remote_code", "--not_quantized", "--torch_dtype", "float32", "--batch_size", "2"]
    sys.argv += ["--output_dir", f"{output}{os.sep}"]
    with _on_this_device():
        runpy.run_module("rewardbench.rewardbench", run_name="__main__")
    found = [json.loads(line) for line in (output / f"{exported.name}_outputs.jsonl").read_text().splitlines()]
    for side, name in enumerate(("scores_chosen", "scores_rejected")):
        got = [row[name][0] if isinstance(row[name], list) else row[name] for row in found]
        close(got, [pair[side] for pair in expected], 1e-3)
    summary = json.loads((output / f"{exported.name}.json").read_text())
    equal(summary["accuracy"], sum(chosen > rejected for chosen, rejected in expected) / len(expected))


CLIENT = Client(
    name="RewardBench",
    package="rewardbench",
    # Its own pins, without what only other models need, such as bitsandbytes and FastChat's server.
    alone=(
        "rewardbench>=0.1.4,<0.2",
        "transformers==4.51.0",
        "tokenizers>=0.21,<0.22",
        "huggingface_hub>=0.30,<1",
        "datasets>=3,<4",
        "fsspec<2025",
        "trl>=0.9,<0.12",
        "fschat>=0.2.36,<0.3",
        "setuptools<81",
    ),
    checks=(
        Check(
            "`rewardbench --model exported --load_json` gives SparseRM's rewards and accuracy, also of responses with thinking",
            _command,
        ),
    ),
    serves=False,
    exports=True,
    note="with transformers 4.51.0, as it pins; where there is no GPU, to which it moves all inputs, they stay on the CPU",
)
