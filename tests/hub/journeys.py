"""What people do with names of the Hub: called in a process that has the hub of the tests as its Hub."""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sparserm.jobs.queue import JobCancelled

PROMPTS, RESPONSES = ["Question 1?", "Question 2?", "Hello"], ["gladly, of course", "go away, idiot", "thanks 7"]


def fit(pairs: str, backbone: str, sae: str, folder: Path) -> list[float]:
    """Train a head from names, save it and return rewards."""
    from sparserm import SparseRM

    model = SparseRM.fit(pairs, backbone=backbone, sae=sae, k=4, l2=0.1, name="kindness")
    model.save_pretrained(folder)
    return model.score(PROMPTS, RESPONSES).tolist()


def score(head: str) -> tuple[list[float], float]:
    """Rewards of a head by name, and the seconds that they took."""
    from sparserm import SparseRM

    start = time.perf_counter()
    return SparseRM.from_pretrained(head).score(PROMPTS, RESPONSES).tolist(), time.perf_counter() - start


def load_pairs(name: str, split: str | None = None, config: str | None = None) -> tuple[str, int]:
    from sparserm.pairs.load import load_pairs

    data = load_pairs(name, split=split, config=config)
    return data.name, len(data.pairs)


def load_backbone(name: str) -> tuple[int, int]:
    from sparserm.backbone.model import Backbone

    backbone = Backbone.load(name)
    return backbone.n_layers, backbone.d_model


def at_once(journey: Callable[..., Any], name: str) -> Any:
    """A journey without the seconds that the Hub's client waits before it tries again, and in blocks smaller than a model."""
    with patch("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 4096), patch("time.sleep"):
        return journey(name)


def load_head(name: str) -> str:
    from sparserm import SparseRM

    return SparseRM.from_pretrained(name).card.name


def in_folder(folder: Path, journey: Callable[..., Any], *args: Any) -> Any:
    """A journey where the current folder is this one."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        return journey(*args)
    finally:
        os.chdir(before)


def load_head_in(folder: Path, name: str) -> str:
    return in_folder(folder, load_head, name)


def name_of_head(source: str) -> str:
    from sparserm.heads.saved import head_name

    return head_name(source)


def judge(source: str) -> tuple[str, list[float]]:
    """Name of a judge, and its rewards."""
    from sparserm.pairs.messages import as_prompt
    from sparserm.policy.judges import Judge
    from sparserm.types import Text

    found = Judge.load(source)
    texts = [Text(as_prompt(prompt), response) for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    return found.name, found.judge(texts).rewards.tolist()


def fingerprint(backbone: str) -> str:
    from sparserm.backbone.model import Backbone

    return Backbone.load(backbone).fingerprint


def sae_fingerprint(name: str) -> str:
    from sparserm.sae.autoencoder import load_sae

    return load_sae(name).fingerprint


def load_sae(name: str) -> str:
    from sparserm.sae.autoencoder import load_sae

    return load_sae(name).name


def sae_of_head(head: str) -> str:
    from sparserm import SparseRM

    return SparseRM.from_pretrained(head).load_sae().name


def download(name: str, revision: str | None = None) -> str:
    """``hf download``."""
    from huggingface_hub import snapshot_download

    return snapshot_download(name, revision=revision)


def download_revision(name: str, revision: str) -> str:
    """The type of error with which the Hub's own client says that there is none."""
    try:
        return download(name, revision)
    except Exception as error:
        return type(error).__name__


def export_and_push(head: Path, folder: Path, form: str, repo: str) -> str:
    from sparserm.integrations import hf

    {"head": hf.export_head, "classifier": hf.export_classifier, "steering": hf.export_steering}[form](head, folder)
    return hf.push_to_hub(folder, repo)


def classify(name: str) -> list[float]:
    """Rewards of an exported classifier through transformers alone."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(name, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(name)
    rewards = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        with torch.no_grad():
            rewards.append(float(model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits[0, 0]))
    return rewards


def score_in_float32(head: str, backbone: str) -> list[float]:
    from sparserm import SparseRM
    from sparserm.backbone.model import Backbone

    return SparseRM.from_pretrained(head, backbone=Backbone.load(backbone, dtype="float32")).score(PROMPTS, RESPONSES).tolist()


def command(*arguments: str) -> str:
    """What a command prints to stdout."""
    from sparserm.cli import common

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        common.app([*arguments], standalone_mode=False)
    return out.getvalue()


def whoami() -> Any:
    from huggingface_hub import whoami

    return whoami()["name"]


def download_in_parts(name: str, stop_at: int | None) -> tuple[list[tuple[int, int]], str]:
    """What the download of a model reports, in kilobytes; it is cancelled at the given report."""
    from sparserm.backbone.model import look_for, resolve

    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int, what: str) -> None:
        assert what == "Download of the language model (MB)"
        seen.append((done, total))
        if len(seen) == stop_at:
            raise JobCancelled

    look_for(name)
    try:
        with patch("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 4096), patch("sparserm.support.hub.MEGABYTE", 1e3):
            resolve(name, progress)
    except JobCancelled:
        return seen, "cancelled"
    return seen, "done"
