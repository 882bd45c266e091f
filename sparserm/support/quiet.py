"""Disables the progress bars of libraries."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

# The settings are global: two threads that restore them in the wrong order would leave the bars off.
_BARS = threading.RLock()


@contextmanager
def without_bars() -> Iterator[None]:
    """Disable the progress bars of transformers and the Hub inside the block, then restore the user's settings."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers import modeling_gguf_pytorch_utils as gguf_reader
    from transformers.utils import logging

    with _BARS:
        shown, hub_silent, gguf_bar = logging.is_progress_bar_enabled(), are_progress_bars_disabled(), gguf_reader.tqdm
        logging.disable_progress_bar()
        gguf_reader.tqdm = logging.tqdm  # the GGUF reader's own bar ignores the setting
        try:
            yield
        finally:
            gguf_reader.tqdm = gguf_bar
            if shown:
                logging.enable_progress_bar()  # also enables the Hub's bars
            if hub_silent:
                disable_progress_bars()
            elif not shown:
                enable_progress_bars()
