"""Activations of a text corpus for SAE training: several layers from one pass of the backbone, on disk, resumable."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparserm.backbone.model import Backbone
from sparserm.pairs.limits import MAX_ROW, Budget, Size
from sparserm.pairs.streams import unpacked
from sparserm.support.files import one_line, write_json
from sparserm.support.parsing import parse_json
from sparserm.types import HookPoint, Message, Progress, SparseRMError, TokenizedText

#: Rows between two updates of the manifest; an interruption loses at most this many.
CHUNK_ROWS = 256

#: Maximum length of a corpus text in tokens; longer ones are truncated.
CONTEXT_SIZE = 512

#: Tokens with more than this many times the median norm are attention sinks, and left out as the opening tokens are. Of Gemma 3
#: 270M at layer 9 they are one in 400 (a lone apostrophe, a last space), eight to twelve times the median, where no other token
#: reaches three times; in 9,228 tokens of the default backbone at layer 15 none did.
SINK = 5.0

#: Bytes of memory of a message beyond its text.
_TURN = 300


@dataclass(frozen=True)
class Corpus:
    """Conversations in a fixed random order; the first ``n_held_out`` are for evaluation and never trained on."""

    conversations: tuple[tuple[Message, ...], ...]
    n_held_out: int
    content_hash: str

    @property
    def held_out(self) -> tuple[tuple[Message, ...], ...]:
        """The conversations for evaluation."""
        return self.conversations[: self.n_held_out]

    @property
    def training(self) -> tuple[tuple[Message, ...], ...]:
        """The conversations to train on, without any that also occur among the held-out ones."""
        held_out = set(self.held_out)
        return tuple(one for one in self.conversations[self.n_held_out :] if one not in held_out)


@dataclass(frozen=True)
class ActivationCache:
    """Activations on disk: one file of float16 ``[n_tokens, d_in]`` for each hook point."""

    folder: Path
    hooks: tuple[HookPoint, ...]
    n_tokens: int
    d_in: int

    def array(self, hook: HookPoint) -> np.ndarray:
        """``[n_tokens, d_in]`` float16, memory-mapped."""
        return np.memmap(_file(self.folder, hook), np.float16, "r", shape=(self.n_tokens, self.d_in))


def read_corpus(path: Path, *, n_held_out: int = 200) -> Corpus:
    """Read JSON lines (``.jsonl``, ``.jsonl.gz``) with ``messages`` (chat) or ``text`` (one user turn) in each row.

    Raises:
        SparseRMError: the file cannot be read, a row has another form, or there are too few rows.
    """
    conversations = []
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            budget = Budget(f"the corpus {path} cannot be read: it", os.fstat(file.fileno()).st_size)
            text = io.TextIOWrapper(unpacked(file, budget), encoding="utf-8")
            for number, line in enumerate(iter(lambda: text.readline(MAX_ROW + 1), ""), 1):
                if len(line) > MAX_ROW:
                    raise SparseRMError(
                        f"line {number} of {path} has more than {MAX_ROW >> 20} MB; expected a conversation per line; split it"
                    )
                digest.update(line.encode())
                conversation = _conversation(line, number, path)
                conversations.append(conversation)
                budget.add_row(Size(len(line) + _TURN * len(conversation), 0), has_finding=False)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SparseRMError(
            f"the corpus {path} cannot be read ({reason}); expected UTF-8 JSON lines, plain or gzipped"
        ) from error
    if len(conversations) <= n_held_out:
        raise SparseRMError(
            f"the corpus {path} has {len(conversations)} rows; expected more than the {n_held_out} held out for evaluation; "
            "give a larger corpus"
        )
    order = np.random.default_rng(0).permutation(len(conversations))
    return Corpus(tuple(conversations[i] for i in order), n_held_out, digest.hexdigest()[:16])


def extract_activations(
    backbone: Backbone,
    corpus: Corpus,
    hooks: Sequence[HookPoint],
    folder: Path,
    *,
    n_tokens: int,
    progress: Progress | None = None,
) -> ActivationCache:
    """Write activations of at least ``n_tokens`` tokens, or of the whole corpus if that is shorter, to ``folder``.

    An interrupted run is resumed. The tokens that open every conversation (a default system prompt) are left out: causal
    attention gives them the same activations each time, and the first one is the attention sink, whose norm is a hundred
    times that of all others.

    Raises:
        SparseRMError: the folder holds activations of other inputs, or they exceed the range of float16.
    """
    hooks = tuple(sorted(hooks))
    rows = corpus.training
    identity = {
        "backbone": backbone.fingerprint,
        "corpus": corpus.content_hash,
        "n_held_out": corpus.n_held_out,
        "context_size": CONTEXT_SIZE,
        "hooks": [hook.name for hook in hooks],
        "d_in": backbone.d_model,
    }
    folder.mkdir(parents=True, exist_ok=True)
    manifest = _read_manifest(folder, identity, len(rows))
    with ExitStack() as stack:
        files = {hook: stack.enter_context(_file(folder, hook).open("ab")) for hook in hooks}
        for file in files.values():  # a killed run may have written more than its manifest says
            file.truncate(manifest["n_tokens"] * backbone.d_model * 2)
        while manifest["n_tokens"] < n_tokens and manifest["n_rows"] < len(rows):
            chunk = rows[manifest["n_rows"] : manifest["n_rows"] + CHUNK_ROWS]
            for states in corpus_states(backbone, chunk, hooks):
                for hook, state in states.items():
                    files[hook].write(_half(state, hook))
                manifest["n_tokens"] += len(next(iter(states.values())))
                if progress:
                    progress(min(manifest["n_tokens"], n_tokens), n_tokens, "Activations (tokens)")
            manifest["n_rows"] += len(chunk)
            for file in files.values():
                file.flush()
            write_json(folder / "manifest.json", {**identity, **manifest})
    return ActivationCache(folder, hooks, manifest["n_tokens"], backbone.d_model)


def corpus_states(
    backbone: Backbone, conversations: Sequence[Sequence[Message]], hooks: Sequence[HookPoint]
) -> Iterator[dict[HookPoint, np.ndarray]]:
    """Yield ``{hook: [n, d] float32 array}`` for :data:`CHUNK_ROWS` conversations at a time, in order.

    Left out are opening tokens and attention sinks of any of the hooks.

    Raises:
        SparseRMError: a state is NaN or infinite.
    """
    skip = backbone.chat.shared_prefix()
    for start in range(0, len(conversations), CHUNK_ROWS):
        chunk = [tokenize_conversation(backbone, one) for one in conversations[start : start + CHUNK_ROWS]]
        texts = [text for text in chunk if text.end > skip]
        found = dict(backbone.hidden_states(texts, hooks))
        if texts:
            states = {hook: np.concatenate([found[i][hook][skip:].cpu().numpy() for i in range(len(texts))]) for hook in hooks}
            usual = np.logical_and.reduce([_usual(state) for state in states.values()])
            yield {hook: state if usual.all() else state[usual] for hook, state in states.items()}


def tokenize_conversation(backbone: Backbone, conversation: Sequence[Message]) -> TokenizedText:
    """Tokenise a conversation of the corpus, truncated to :data:`CONTEXT_SIZE` tokens."""
    ids = backbone.chat.conversation(conversation)[: min(CONTEXT_SIZE, backbone.chat.max_length)]
    return TokenizedText(ids, 0, len(ids))


def _usual(states: np.ndarray) -> np.ndarray:
    """``[n]`` bool, which of ``[n, d]`` states are no attention sinks; see :data:`SINK`."""
    norms = np.linalg.norm(states, axis=1)
    return np.asarray(norms <= SINK * np.median(norms))


def _half(state: np.ndarray, hook: HookPoint) -> bytes:
    half = state.astype(np.float16)
    if not np.isfinite(half).all():
        raise SparseRMError(
            f"activations at {hook.name} reach {np.abs(state).max():.3g}, more than float16 holds (65,504); choose another "
            "layer"
        )
    return half.tobytes()


def _conversation(line: str, number: int, path: Path) -> tuple[Message, ...]:
    try:
        row = json.loads(line)
        turns = row["messages"] if "messages" in row else [{"role": "user", "content": row["text"]}]
        messages = tuple(Message(one["role"], one["content"]) for one in turns)
        for message in messages:  # values may not be strings, or hold a lone surrogate, which no tokenizer accepts
            "".join((message.role, message.content)).encode()
        return messages
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SparseRMError(
            f"line {number} of {path}: got {line.strip()[:80]!r}; expected a JSON object with `messages` (a list of role and "
            f"content) or `text`; fix or remove the line ({type(error).__name__})"
        ) from error


def _file(folder: Path, hook: HookPoint) -> Path:
    return folder / f"{hook.name}.f16"


def _read_manifest(folder: Path, identity: dict, n_rows: int) -> dict[str, int]:
    path = folder / "manifest.json"
    if not path.is_file():
        return {"n_rows": 0, "n_tokens": 0}
    try:
        manifest = parse_json(path.read_bytes())
        counts = {name: manifest[name] for name in ("n_rows", "n_tokens")}
        if wrong := [name for name, value in counts.items() if type(value) is not int or value < 0]:
            raise ValueError(f"{wrong[0]} is {counts[wrong[0]]!r}")
        if counts["n_rows"] > n_rows:
            raise ValueError(f"n_rows is {counts['n_rows']} of {n_rows}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SparseRMError(
            f"{path} cannot be read ({type(error).__name__}: {one_line(error)}); expected the manifest of stored activations; "
            f"remove {folder} to compute the activations again"
        ) from error
    for key, value in identity.items():
        if manifest.get(key) != value:
            raise SparseRMError(
                f"{folder} holds activations with {key} {manifest.get(key)!r}, expected {value!r}; give another folder or "
                "remove this one"
            )
    expected = counts["n_tokens"] * identity["d_in"] * 2
    for hook in identity["hooks"]:
        file = _file(folder, HookPoint.parse(hook))
        if (size := file.stat().st_size if file.is_file() else 0) < expected:
            raise SparseRMError(
                f"{file} has {size:,} bytes, expected at least {expected:,}; remove {folder} to compute the activations again"
            )
    return counts
