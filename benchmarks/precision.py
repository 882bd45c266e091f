"""Dependence of rewards on the batch and on the dtype: ``python -m benchmarks.precision``.

The responses of the truthfulness starter pairs are scored one by one and all together, in float32 and in bfloat16.
"""

from __future__ import annotations

import os

import numpy as np

from benchmarks.common import write_results
from sparserm.backbone.model import Backbone
from sparserm.heads.saved import load_head
from sparserm.model import SparseRM
from sparserm.pairs.load import load_pairs
from sparserm.support.defaults import DEFAULT_BACKBONE

PAIRS = 20


def main() -> None:
    """Measure the largest differences in reward, and the standard deviation of the rewards."""
    os.environ["SPARSERM_STORE"] = "off"  # so that nothing comes from an earlier run
    saved = load_head("truthfulness")
    pairs = load_pairs("truthfulness").pairs[:PAIRS]
    prompts = [pair.prompt for pair in pairs] * 2
    responses = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    together, alone = {}, {}
    for dtype in ("float32", "bfloat16"):
        backbone = Backbone.load(DEFAULT_BACKBONE, through_layer=saved.card.hook_point.layer, dtype=dtype)
        model = SparseRM(saved, backbone)
        together[dtype] = np.array(model.score(prompts, responses))
        alone[dtype] = np.array([model.score([p], [r])[0] for p, r in zip(prompts, responses, strict=True)])
    result = {
        "n_responses": len(responses),
        "reward_std": float(together["float32"].std()),
        **{f"alone_vs_together_{dtype}": float(np.abs(alone[dtype] - together[dtype]).max()) for dtype in together},
        "bfloat16_vs_float32_max": float(np.abs(together["bfloat16"] - together["float32"]).max()),
        "bfloat16_vs_float32_mean": float(np.abs(together["bfloat16"] - together["float32"]).mean()),
        "bfloat16_vs_float32_correlation": float(np.corrcoef(together["bfloat16"], together["float32"])[0, 1]),
    }
    write_results("precision", result)
    print(result)


if __name__ == "__main__":
    main()
