"""A plain copy of a model in a GGUF file: transformers would keep the weights packed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparserm.support.quiet import without_bars
from sparserm.types import Progress


@without_bars()
def dequantise(gguf: Path, target: Path, progress: Progress | None = None) -> None:
    """Write model and tokenizer of a GGUF file as ``save_pretrained`` does, in float32.

    Raises:
        OSError: it cannot be written.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if progress:
        progress(0, 2, "Unpacking the backbone (step)")
    source: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    packed = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = packed.config.to_dict()
    for key in ("quantization_config", "_model_name_or_path"):
        config.pop(key, None)
    if progress:
        progress(1, 2, "Writing the backbone (step)")
    model = type(packed)(type(packed.config)(**config))
    model.load_state_dict(packed.state_dict())
    model.tie_weights()
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
