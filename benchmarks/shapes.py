"""The product on models of the sizes that people use: ``python -m benchmarks.shapes FOLDER [SHAPE ...] [--pairs 60]``.

Checkpoints with the configurations of real models and random weights load, run, store and fail as the real ones do. They are
made once, in FOLDER, in bfloat16 shards, with JumpReLU autoencoders of which half a percent of the latents fire at a token; the
tokenizer and its template are those of the default backbone. Then every command runs in a process of its own, as a user would
type it. Memory is the peak of what a process holds for itself, and of that with the pages of files that it maps, which can be
given back at any time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.sae import SAEMetadata
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, PretrainedConfig, Qwen3Config

from benchmarks.common import memory_mb, read_results, task_pairs, write_pairs, write_results
from sparserm.backbone.model import Backbone, resolve
from sparserm.support.defaults import DEFAULT_BACKBONE
from sparserm.types import HookPoint, Message

#: Task whose pairs are used, share of the latents that fire at a token, and bytes of a shard.
TASK, FIRING, SHARD = "safety", 0.005, 2 << 30
PROMPT, RESPONSES = "Why is the sky blue?", ("Air scatters blue light.", "It mirrors the sea.")
LLAMA_ROPE = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@dataclass(frozen=True)
class Shape:
    """A model's configuration, the layer that is read, and the numbers of latents of its autoencoders."""

    config: PretrainedConfig
    layer: int
    latents: tuple[int, ...]


SHAPES = {
    "qwen3-1.7b": Shape(
        Qwen3Config(
            vocab_size=151_936,
            hidden_size=2048,
            intermediate_size=6144,
            num_hidden_layers=28,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=128,
            max_position_embeddings=40_960,
            tie_word_embeddings=True,
        ),
        14,
        (65_536,),
    ),
    "gemma-2-2b": Shape(
        Gemma2Config(
            vocab_size=256_000,
            hidden_size=2304,
            intermediate_size=9216,
            num_hidden_layers=26,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=256,
            max_position_embeddings=8192,
        ),
        12,
        (16_384, 65_536),
    ),
    "llama-3.1-8b": Shape(
        LlamaConfig(
            vocab_size=128_256,
            hidden_size=4096,
            intermediate_size=14_336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            max_position_embeddings=131_072,
            rope_parameters={**LLAMA_ROPE, "original_max_position_embeddings": 8192},
            tie_word_embeddings=False,
        ),
        8,
        (32_768, 131_072),
    ),
}

#: Loads a backbone and reads pairs with it, then prints what that took.
_LOAD = """\
import json, sys, time
from pathlib import Path
from benchmarks.shapes import read_texts
from sparserm.backbone.model import Backbone
started = time.perf_counter()
backbone = Backbone.load(sys.argv[1], through_layer=int(sys.argv[2]))
seconds = time.perf_counter() - started
held = sum(one.numel() * one.element_size() for one in backbone.model.parameters()) / 2**20
print(json.dumps({"load_s": seconds, "weights_mb": held, **read_texts(backbone, int(sys.argv[2]))}))
"""


def make_model(shape: Shape, folder: Path) -> None:
    """Write a checkpoint with random weights, unless it is there."""
    if (folder / "model.safetensors.index.json").is_file():
        return
    config = shape.config
    kind = AutoModelForCausalLM._model_mapping[type(config)]
    assert isinstance(kind, type)
    config.architectures, config.dtype = [kind.__name__], torch.bfloat16
    config.save_pretrained(folder)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    torch.manual_seed(0)
    shard: dict[str, torch.Tensor] = {}
    files: dict[str, str] = {}
    parameters = list(empty.named_parameters())  # tied weights occur once
    for number, (name, parameter) in enumerate(parameters, 1):
        weights = torch.empty(parameter.shape, dtype=torch.bfloat16)
        # Gemma's norms multiply by one more than their weight.
        shard[name] = weights.normal_(0, 0.02) if weights.ndim > 1 else weights.fill_(0.0 if "gemma" in folder.name else 1.0)
        if number == len(parameters) or sum(one.nbytes for one in shard.values()) > SHARD:
            file = f"model-{len(set(files.values())) + 1:05d}.safetensors"
            save_file(shard, folder / file, metadata={"format": "pt"})
            files |= dict.fromkeys(shard, file)
            shard = {}
    for path in resolve(DEFAULT_BACKBONE)[0].iterdir():
        if path.name.startswith(("tokenizer", "special_tokens", "chat_template")):
            shutil.copy(path, folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def make_sae(name: str, model: Path, latents: int, folder: Path) -> None:
    """Write an autoencoder of random directions whose thresholds let a share of :data:`FIRING` fire, unless it is there."""
    if (folder / "sae_weights.safetensors").is_file():
        return
    layer = SHAPES[name].layer
    backbone, hook = Backbone.load(str(model), through_layer=layer), HookPoint(layer)
    texts = [backbone.tokenize((Message("user", f"Say {i}."),), f"Here is {i}, with more of the same.") for i in range(16)]
    states = torch.cat([own[hook] for _, own in backbone.hidden_states(texts, [hook])])
    metadata = SAEMetadata(model_name=name, hook_name=hook.name)
    config = JumpReLUSAEConfig(d_in=backbone.d_model, d_sae=latents, dtype="float32", metadata=metadata)
    torch.manual_seed(0)
    sae = JumpReLUSAE(config)
    with torch.no_grad():
        directions = torch.nn.functional.normalize(torch.randn(latents, backbone.d_model), dim=1)
        sae.W_dec.copy_(directions)
        sae.W_enc.copy_(directions.T)
        sample = (states @ directions[:4096].T).flatten()
        sae.threshold.fill_(float(sample.kthvalue(int((1 - FIRING) * len(sample)))[0]))
    sae.save_model(folder)


def read_texts(backbone: Backbone, layer: int, pairs: int = 8) -> dict[str, float]:
    """Tokens per second of the first pairs, without an autoencoder; the first pass is a warm-up."""
    texts = [
        backbone.tokenize(pair.prompt, one)
        for pair in task_pairs(TASK, "train").pairs[: pairs + 1]
        for one in (pair.chosen, pair.rejected)
    ]
    list(backbone.passes(texts[:2], [HookPoint(layer)]))
    started = time.perf_counter()
    list(backbone.passes(texts[2:], [HookPoint(layer)]))
    return {"tokens_per_s": sum(len(one.ids) for one in texts[2:]) / (time.perf_counter() - started)}


def watch(process: subprocess.Popen[str]) -> dict[str, float]:
    """Peak memory of a process in MB until it ends: its own, and with the files that it maps."""
    own = resident = 0.0
    while process.poll() is None:
        with suppress(StopIteration, OSError):  # it has just ended
            own = max(own, memory_mb(process.pid, "RssAnon"))
            resident = max(resident, memory_mb(process.pid, "VmRSS"))
        time.sleep(0.02)
    return {"peak_mb": own, "resident_mb": resident}


@contextmanager
def started(command: Sequence[str], home: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with a home of its own, whose output is kept."""
    environment = {**os.environ, "SPARSERM_HOME": str(home)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as process:
        yield process


def run(command: Sequence[str], home: Path) -> tuple[dict[str, float], str]:
    """Seconds and peak memory in MB of a command that has to succeed, and what it printed.

    Raises:
        RuntimeError: it failed.
    """
    begin = time.perf_counter()
    with started(command, home) as process:
        memory = watch(process)
        seconds = time.perf_counter() - begin
        assert process.stdout is not None
        said = process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{said}")
    return {"seconds": seconds, **memory}, said


def serve(command: Sequence[str], home: Path) -> dict[str, float]:
    """Seconds until the server answers, seconds of its first score, and peak memory.

    Raises:
        RuntimeError: it ended.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begin, address = time.perf_counter(), f"http://127.0.0.1:{port}"
    with started([*command, "--port", str(port)], home) as process, ThreadPoolExecutor(1) as watching:
        memory = watching.submit(watch, process)
        try:
            while not _answers(address):
                if process.poll() is not None:
                    raise RuntimeError(f"{' '.join(command)} ended before it answered")
                time.sleep(0.05)
            ready = time.perf_counter()
            httpx.post(
                f"{address}/score", json={"prompts": [PROMPT], "responses": RESPONSES[:1]}, timeout=600
            ).raise_for_status()
            return {"seconds": ready - begin, "request_s": time.perf_counter() - ready, **_ended(process, memory)}
        finally:
            process.terminate()


def _answers(address: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{address}/health").is_success
    return False


def _ended(process: subprocess.Popen[str], memory: Future[dict[str, float]]) -> dict[str, float]:
    process.terminate()
    return memory.result()


def measure(name: str, shape: Shape, folder: Path, pairs: Path) -> Iterator[dict[str, Any]]:
    """All commands on one shape; yields what is measured after each autoencoder."""
    model, home = folder / name, folder / "home"
    make_model(shape, model)
    loaded, said = run([sys.executable, "-c", _LOAD, str(model), str(shape.layer)], home)
    found: dict[str, Any] = {"layer": shape.layer, "load": loaded | json.loads(said.splitlines()[-1]), "saes": {}}
    for latents in shape.latents:
        sae = folder / f"{name}-{latents}" / f"layer_{shape.layer}"
        # In a process of its own, which gives back the memory of the model.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            process.submit(make_sae, name, model, latents, sae).result()
        found["saes"][latents] = _commands(model, sae, pairs, home)
        print(name, latents, found, flush=True)
        yield found


def _commands(model: Path, sae: Path, pairs: Path, home: Path) -> Mapping[str, dict[str, float]]:
    """What a user would type, one after the other."""
    head, exported = sae.parent / "head", sae.parent / "exported"
    for old in (head, exported):
        shutil.rmtree(old, ignore_errors=True)
    where = ["--backbone", str(model), "--sae", str(sae)]
    typed = {
        "train": ["train", str(pairs), *where, "--out", str(head)],
        "score": ["score", "--head", str(head), "--prompt", PROMPT, "--response", RESPONSES[0]],
        "compare": ["compare", "--head", str(head), "--prompt", PROMPT, *(f"--response={one}" for one in RESPONSES)],
        "features": ["features", str(head)],
        "insights": ["insights", str(pairs), *where],
        "export": ["export", str(head), "--out", str(exported)],
    }
    command = [sys.executable, "-c", "from sparserm.cli import main; main()"]
    found = {name: run([*command, *arguments], home)[0] for name, arguments in typed.items()}
    shutil.rmtree(exported)
    return {**found, "serve": serve([*command, "serve", str(head)], home)}


def main() -> None:
    """Measure the shapes and write the results; those of other shapes are kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for checkpoints and autoencoders, up to 35 GB; kept")
    parser.add_argument("shapes", nargs="*", metavar="SHAPE", help=", ".join(SHAPES))
    parser.add_argument("--pairs", type=int, default=60)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    pairs = given.folder / "pairs.jsonl"
    write_pairs(task_pairs(TASK, "train").pairs[: given.pairs], pairs)
    for name in given.shapes or SHAPES:
        for measured in measure(name, SHAPES[name], given.folder, pairs):
            write_results("shapes", {**read_results("shapes"), name: {"pairs": given.pairs, **measured}})


if __name__ == "__main__":
    main()
