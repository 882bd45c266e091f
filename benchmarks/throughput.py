"""Speed of computing representations and firing latents, SparseRM against other ways: ``python -m benchmarks.throughput``.

The pairs are split into rounds. In each round the methods take turns on its pairs, each in a separate process that stays
loaded, with as many threads as cores; ratios are medians over rounds. All methods except the classifier compute how often
each latent fires and the mean representation of every response, which is compared between methods. The lower bound is the
unavoidable arithmetic, each distinct token once through the layers up to the hook point, at this machine's rate of matrix
multiplication in the same round. With ``--device cuda`` all methods run on a GPU, except the tutorials' one text at a time;
its results go to a separate file.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import memory_mb, read_results, task_pairs, write_pairs, write_results
from sparserm.backbone.device import fast_dtype
from sparserm.backbone.model import CPU_BATCH_TOKENS, GPU_BATCH_TOKENS, Backbone, decoder_layers, resolve
from sparserm.backbone.packing import Row, pack, similar
from sparserm.pairs.parts import Part
from sparserm.pairs.runs import PartWork, run_here
from sparserm.representations.represent import represent_pairs
from sparserm.sae.autoencoder import find_saes, load_sae
from sparserm.scoring.bulk import score_file
from sparserm.support.defaults import DEFAULT_BACKBONE, DEFAULT_LAYER
from sparserm.types import PreferencePair, Text, TokenizedText

#: Number of pairs per task: one with responses of ordinary length, one with short responses to long shared prompts.
PAIRS = {"safety": 500, "redteam": 300}
SAE = f"{DEFAULT_BACKBONE}/layer_{DEFAULT_LAYER}"
#: The bridge's name of the residual stream after the layer.
HOOK_NAME = f"blocks.{DEFAULT_LAYER}.hook_out"
PADDED_BATCH = 16
#: Numbers of processes that share a GPU.
PROCESSES = (2, 4)
#: Pairs in a file that is scored on a GPU.
FILE_PAIRS = 20_000
#: A method: the mean representation of every response, or its reward.
Way = Callable[[Sequence[PreferencePair]], np.ndarray]


# ------------------------------------------------------------------------------------------------------------- the methods


def tutorial() -> Way:
    """(a) As in the SAELens tutorials: TransformerLens' bridge, ``run_with_cache`` and ``sae.encode``, one text at a time."""
    import sae_lens
    from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, _ = resolve(DEFAULT_BACKBONE)
    hf_model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = SAETransformerBridge.boot_transformers(str(folder), hf_model=hf_model, tokenizer=tokenizer, device="cpu")
    sae = sae_lens.SAE.load_from_disk(str(find_saes()[SAE]))
    chat = Backbone.load(DEFAULT_BACKBONE, through_layer=0).chat

    def run(pairs: Sequence[PreferencePair]) -> np.ndarray:
        means = []
        for text in _texts(chat, pairs):
            with torch.no_grad():
                _, cache = model.run_with_cache(torch.tensor([text.ids]))
                states = cache[HOOK_NAME][0, text.start : text.end]
                (sae.encode(states) > 0).float().mean(0)
            means.append(states.mean(0).numpy())
        return np.array(means)

    return run


def output_hidden_states(dtype: torch.dtype, device: str) -> Way:
    """(b) As in most scripts: padded batches in file order, ``output_hidden_states=True`` and SAELens' ``encode``."""
    import sae_lens
    from transformers import AutoModelForCausalLM

    folder, _ = resolve(DEFAULT_BACKBONE)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval().to(device)
    sae = sae_lens.SAE.load_from_disk(str(find_saes()[SAE]), device=device)
    chat = Backbone.load(DEFAULT_BACKBONE, through_layer=0).chat

    def run(pairs: Sequence[PreferencePair]) -> np.ndarray:
        texts = _texts(chat, pairs)
        means = []
        for start in range(0, len(texts), PADDED_BATCH):
            group = texts[start : start + PADDED_BATCH]
            with torch.no_grad():
                found = model(**_padded(group, device), output_hidden_states=True).hidden_states[DEFAULT_LAYER + 1]
                for states, text in zip(found, group, strict=True):
                    own = states[text.start : text.end].float()
                    (sae.encode(own) > 0).float().mean(0).cpu()
                    means.append(own.mean(0).cpu().numpy())
        return np.array(means)

    return run


def classifier(dtype: torch.dtype, device: str) -> Way:
    """(c) A reward model of the same backbone, as in TRL and RewardBench: all layers, with SparseRM's batches."""
    from transformers import AutoModelForSequenceClassification

    folder, _ = resolve(DEFAULT_BACKBONE)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=dtype).eval().to(device)
    model.config.pad_token_id = 0
    chat = Backbone.load(DEFAULT_BACKBONE, through_layer=0).chat

    def run(pairs: Sequence[PreferencePair]) -> np.ndarray:
        texts = _texts(chat, pairs)
        rewards = np.zeros(len(texts))
        for rows in similar(pack(texts, share_up_to=0), batch_tokens(device)):
            members = [row.spans[0][0] for row in rows]
            with torch.no_grad():
                rewards[members] = model(**_padded([texts[i] for i in members], device)).logits[:, 0].float().cpu().numpy()
        return rewards

    return run


def ours(device: str, compiled: bool = False) -> Way:
    """(d) SparseRM: ``represent_pairs`` with the SAE, the store off."""
    backbone = Backbone.load(DEFAULT_BACKBONE, through_layer=DEFAULT_LAYER, device=device)
    for layer in decoder_layers(backbone.model) if compiled else ():
        layer.forward = torch.compile(layer.forward, dynamic=True)
    sae = load_sae(SAE).to(backbone.device)

    def run(pairs: Sequence[PreferencePair]) -> np.ndarray:
        found = represent_pairs(pairs, backbone, {sae.hook: sae}, "mean")[sae.hook]
        return np.stack([found.chosen.h, found.rejected.h], 1).reshape(2 * len(pairs), -1)

    return run


def ours_in_processes(n: int, device: str) -> Way:
    """SparseRM in ``n`` processes that share the device, each with a part of the pairs, as workers of ``--engine ray`` do."""
    pool = ProcessPoolExecutor(n, multiprocessing.get_context("spawn"), _load_ours, (device,))

    def run(pairs: Sequence[PreferencePair]) -> np.ndarray:
        size = -(-len(pairs) // n)
        return np.concatenate(list(pool.map(_run_ours, [pairs[at : at + size] for at in range(0, len(pairs), size)])))

    return run


#: The way that a process of :func:`ours_in_processes` has loaded.
_LOADED: list[Way] = []


def _load_ours(device: str) -> None:
    _LOADED.append(ours(device))


def _run_ours(pairs: Sequence[PreferencePair]) -> np.ndarray:
    return _LOADED[0](pairs)


def _texts(chat: Any, pairs: Sequence[PreferencePair]) -> list[TokenizedText]:
    texts: list[TokenizedText] = chat.many([Text(pair.prompt, one) for pair in pairs for one in (pair.chosen, pair.rejected)])
    return texts


def _padded(texts: Sequence[TokenizedText], device: str) -> dict[str, torch.Tensor]:
    width = max(len(text.ids) for text in texts)
    ids, mask = torch.zeros(2, len(texts), width, dtype=torch.long)
    for row, text in enumerate(texts):
        ids[row, : len(text.ids)] = torch.tensor(text.ids)
        mask[row, : len(text.ids)] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def batch_tokens(device: str) -> int:
    """Tokens per batch of SparseRM."""
    return CPU_BATCH_TOKENS if device == "cpu" else GPU_BATCH_TOKENS


# ------------------------------------------------------------------------------------------------------------ the lower bound


def multiply_adds(rows: Sequence[Row], model: Any) -> float:
    """Multiply-adds of the layers up to the hook point: every weight once per token, and attention over all visible tokens."""
    layers = decoder_layers(model)[: DEFAULT_LAYER + 1]
    weights = sum(parameter.numel() for layer in layers for parameter in layer.parameters() if parameter.ndim == 2)
    config = model.config
    width = config.num_attention_heads * (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    tokens, seen = 0, 0
    for row in rows:
        tokens += len(row.ids)
        seen += row.prefix * (row.prefix + 1) // 2
        for _, start, end in row.spans:
            own = end - start
            seen += own * row.prefix + own * (own + 1) // 2
    return float(weights * tokens + len(layers) * 2 * width * seen)


def matrix_rate(dtype: torch.dtype, device: str, seconds: float = 1.0) -> float:
    """Measured multiply-adds per second of a matrix product as large as those of a batch."""
    a, b = torch.randn(batch_tokens(device), 576), torch.randn(576, 1536)
    a, b = a.to(device, dtype), b.to(device, dtype)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        a @ b
        done += 1
        if device != "cpu" and done % 100 == 0:
            torch.cuda.synchronize()
    return done * a.shape[0] * a.shape[1] * b.shape[1] / (time.perf_counter() - started)


# ----------------------------------------------------------------------------------------------------------- the rounds


def ways(device: str) -> dict[str, Callable[[], Any]]:
    """Functions that load each method in its process, by name."""
    fast = fast_dtype(device)
    found: dict[str, Callable[[], Any]] = {"tutorial": tutorial} if device == "cpu" else {}
    for dtype in dict.fromkeys((torch.float32, fast)):
        found[f"output_hidden_states, {str(dtype).removeprefix('torch.')}"] = partial(output_hidden_states, dtype, device)
    found |= {"classifier": partial(classifier, fast, device), "ours": partial(ours, device)}
    if device != "cpu":  # on a CPU a process uses all cores
        found["ours, compiled layers"] = partial(ours, device, compiled=True)
        found |= {f"ours, {n} processes": partial(ours_in_processes, n, device) for n in PROCESSES}
    return found


def _serve(load: Callable[[], Way], pipe: Any) -> None:
    """Answer batches of pairs with the seconds, the results and the peak memory in MB, of the GPU or else of this process."""
    way = load()
    pipe.send("loaded")
    with suppress(EOFError):  # until the other end is closed
        while True:
            pairs = pipe.recv()
            started = time.perf_counter()
            found = way(pairs)
            seconds = time.perf_counter() - started
            on_gpu = torch.cuda.max_memory_allocated() / (1 << 20) if torch.cuda.is_available() else 0.0
            pipe.send((seconds, found, on_gpu or memory_mb()))


def measure(rounds: Sequence[Sequence[PreferencePair]], device: str) -> Iterator[tuple[str, int, float, np.ndarray, float]]:
    """Yield method, round, seconds, results and memory; each method runs once per round, after a warm-up."""
    context = multiprocessing.get_context("spawn")
    pipes = {}
    processes = []
    try:
        for name, load in ways(device).items():
            pipes[name], its = context.Pipe()
            process = context.Process(target=_serve, args=(load, its))
            process.start()
            processes.append(process)
            its.close()  # so that an early exit of the process is noticed
            pipes[name].recv()
            pipes[name].send(rounds[0][:2] if device == "cpu" else rounds[0])
            pipes[name].recv()
        for number, pairs in enumerate(rounds):
            for name, pipe in pipes.items():
                pipe.send(list(pairs))
                yield (name, number, *pipe.recv())
    finally:  # the processes are not daemons, which could have none of their own, and would be waited for
        for pipe in pipes.values():
            pipe.close()
        for process in processes:
            process.join()


def measure_files(task: str, n: int, rounds: int = 3) -> dict[str, float]:
    """Pairs per second of ``sparserm score`` on a file of ``n`` pairs: parts one after the other, or ahead and overlapping.

    The file has the task's pairs repeatedly, each with its number before the prompt and after the responses.
    """
    pairs = task_pairs(task, "test").pairs
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in (("few", 64), ("many", n)):
            numbered = [_numbered(pairs[i % len(pairs)], i) for i in range(rows)]
            write_pairs(numbered, Path(folder) / f"{name}.jsonl")
        score_file(Path(folder) / "few.jsonl", task, Path(folder) / "warm-up")
        for number in range(rounds):
            for way, engine in (("one after the other", one_after_the_other), ("read ahead", run_here)):
                done = score_file(Path(folder) / "many.jsonl", task, Path(folder) / f"{way} {number}", engine=engine)
                found.setdefault(way, []).append(done.pairs_per_second)
                print(f"{task}: a file of {n:,} pairs, {way}: {done.pairs_per_second:,.0f} pairs/s", flush=True)
    return {way: statistics.median(rates) for way, rates in found.items()}


def _numbered(pair: PreferencePair, number: int) -> PreferencePair:
    first, *others = pair.prompt
    prompt = (replace(first, content=f"{number} {first.content}"), *others)
    return replace(pair, prompt=prompt, chosen=f"{pair.chosen} {number}", rejected=f"{pair.rejected} {number}")


def one_after_the_other(work: PartWork, parts: Sequence[Part], finished: Callable[[Part], None]) -> None:
    """An engine that reads each part when the one before is finished."""
    loaded = work.load()
    reader = work.reader(loaded)
    for part in parts:
        work.run(reader.read(part), loaded)
        finished(part)


def main() -> None:
    """Measure each task and write the results; those of other tasks are kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=", ".join(PAIRS))
    parser.add_argument("--share", type=float, default=1.0, help="share of the pairs to use, for a quick run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    given = parser.parse_args()
    os.environ |= {"SPARSERM_STORE": "off", "SPARSERM_DEVICE": given.device}
    name = "throughput" if given.device == "cpu" else "throughput_gpu"
    for task in given.tasks or PAIRS:
        measured = measure_task(task, round(PAIRS[task] * given.share), given.rounds, given.device)
        if given.device != "cpu":  # where a file is read beside the work on it
            n = round(FILE_PAIRS * given.share)
            measured["files"] = {"n_pairs": n, "pairs_per_s": measure_files(task, n)}
        write_results(name, {**read_results(name), task: measured})


def measure_task(task: str, n: int, rounds: int, device: str) -> dict[str, Any]:
    """Medians over rounds of one task's pairs; a GPU, which is fast, gets all pairs in every round."""
    pairs = task_pairs(task, "test").pairs[:n]
    rounds = min(rounds, n)
    parts = [pairs[start::rounds] for start in range(rounds)] if device == "cpu" else [pairs] * rounds
    backbone = Backbone.load(DEFAULT_BACKBONE, through_layer=DEFAULT_LAYER, device=device)
    texts = [_texts(backbone.chat, part) for part in parts]
    tokens = [sum(len(text.ids) for text in part) for part in texts]
    rows = [pack(part, share_up_to=math.inf) for part in texts]
    work = [multiply_adds(part, backbone.model) for part in rows]
    seconds: dict[str, list[float]] = {}
    found: dict[str, list[np.ndarray]] = {}
    memory: dict[str, float] = {}
    floors = []
    for name, number, taken, result, memory[name] in measure(parts, device):
        seconds.setdefault(name, []).append(taken)
        found.setdefault(name, []).append(result)
        print(f"{task} round {number + 1}: {name} {taken:.1f} s, {tokens[number] / taken:,.0f} tokens/s", flush=True)
        if name == "ours":
            floors.append(work[number] / matrix_rate(backbone.dtype, device))

    def median(numerators: Iterable[float], denominators: Iterable[float]) -> float:
        return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))

    once = slice(None) if device == "cpu" else slice(1)  # rounds that together have each pair once
    figures = []
    for name, took in seconds.items():
        row = {
            "way": name,
            "pairs_per_s": median(map(len, parts), took),
            "tokens_per_s": median(tokens, took),
            "times_slower_than_ours": median(took, seconds["ours"]),
            "peak_mb": memory[name],
        }
        if found[name][0].ndim == 2:
            both = zip(found[name], found["ours"], strict=True)
            row["largest_difference"] = max(float(np.abs(a - b).max()) for a, b in both)
        figures.append(row)
    return {
        "n_pairs": len(pairs),
        "tokens": sum(tokens[once]),
        "rounds": rounds,
        "dtype": str(backbone.dtype),
        "distinct_tokens": sum(len(row.ids) for part in rows[once] for row in part),
        "multiply_adds": sum(work[once]),
        "share_of_floor": median(floors, seconds["ours"]),
        "ways": figures,
    }


if __name__ == "__main__":
    main()
