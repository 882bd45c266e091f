"""Silences the progress bars of libraries."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Two threads that put the bars back in each other's order would leave them off.
_BARS = threading.RLock()


@contextmanager
def without_bars() -> Iterator[None]:
    """The progress bars of transformers off for the while: ours take their place, and the user's setting comes back."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers import modeling_gguf_pytorch_utils as gguf_reader
    from transformers.utils import logging

    with _BARS:
        shown, hub_silent, gguf_bar = logging.is_progress_bar_enabled(), are_progress_bars_disabled(), gguf_reader.tqdm
        logging.disable_progress_bar()
        gguf_reader.tqdm = logging.tqdm  # its own bar heeds no setting
        try:
            yield
        finally:
            gguf_reader.tqdm = gguf_bar
            if shown:
                logging.enable_progress_bar()  # the hub's bars with them
            if hub_silent:
                disable_progress_bars()
            elif not shown:
                enable_progress_bars()
