"""The shipped SAEs: ``python -m benchmarks.dictionaries FOLDER [--tokens 3000000] [--layers 10 15 20] [--seeds 0 1 2]``.

Activations of the corpora (chat and prompts of Arena Hard with answers) and of the responses in the training pairs of all tasks
are written to FOLDER; on them one SAE is trained for every layer and seed and compared with those of the other seeds of its
layer. The SAEs of the first seed, which are shipped, are measured on held-out conversations. Everything resumes where it was
interrupted. Hours on two cores.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.common import data_folder, task_pairs
from sparserm.backbone.model import Backbone
from sparserm.sae.activations import ActivationCache, extract_activations, read_corpus
from sparserm.sae.autoencoder import load_sae
from sparserm.sae.seeds import measure_seeds, save_seeds
from sparserm.sae.training import SAERecipe, measure_sae, train_sae
from sparserm.support.defaults import DEFAULT_BACKBONE, TASKS
from sparserm.support.progress import terminal_progress
from sparserm.types import HookPoint, Progress, Text, pair_texts

CORPORA = ("corpus/chat.jsonl.gz", "corpus/arena_hard.jsonl.gz")
RECIPE = SAERecipe(d_sae=1024, k=32, epochs=3, batch_size=1024)
#: Tokens of each task's responses: the same for all, so that the dictionary has words for the small ones too.
PER_TASK = 200_000
#: Tokens on which latents of different seeds are compared.
COMPARED = 100_000


def main() -> None:
    """Write activations, train what is not trained yet, measure it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=int, default=3_000_000, help="tokens of the corpora")
    parser.add_argument("--layers", type=int, nargs="+", default=(10, 15, 20))
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    wanted = parser.parse_args()
    hooks = [HookPoint(layer) for layer in wanted.layers]
    with terminal_progress() as progress:
        backbone = Backbone.load(DEFAULT_BACKBONE, through_layer=max(wanted.layers), progress=progress)
        corpus = read_corpus(join_corpora(wanted.folder / "corpus.jsonl"))
        read = extract_activations(backbone, corpus, hooks, wanted.folder / "corpus", n_tokens=wanted.tokens, progress=progress)
        tasks = [response_states(backbone, task, hooks, wanted.folder / task, progress) for task in TASKS]
        joined = join_caches(read, tasks, wanted.folder / "all")
        for seed in wanted.seeds:
            for hook in hooks:
                folder = wanted.folder / f"seed_{seed}" / f"layer_{hook.layer}"
                if not (folder / "cfg.json").is_file():
                    recipe = SAERecipe(**{**vars(RECIPE), "seed": seed})
                    made_from = {"corpus": corpus.content_hash, "tokens": joined.n_tokens}
                    train_sae(joined, hook, recipe, folder, model_name=backbone.name, made_from=made_from, progress=progress)
        for hook in hooks:
            folder = wanted.folder / f"seed_{wanted.seeds[0]}" / f"layer_{hook.layer}"
            if not (folder / "metrics.json").is_file():
                measure_sae(folder, backbone, DEFAULT_BACKBONE, corpus, progress)
    compare_seeds(wanted.folder, wanted.seeds, hooks, joined)


def join_corpora(path: Path) -> Path:
    """All conversations of the corpora in one file."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            for name in CORPORA:
                with gzip.open(data_folder() / name, "rt", encoding="utf-8") as lines:
                    file.writelines(lines)
    return path


def response_states(
    backbone: Backbone, task: str, hooks: Sequence[HookPoint], folder: Path, progress: Progress | None
) -> ActivationCache:
    """Activations at every token of the distinct responses in the training pairs of a task, in files of a cache."""
    done = folder / "manifest.json"
    if not done.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        texts = list({(text.prompt, text.response): text for text in pair_texts(task_pairs(task, "train").pairs)}.values())
        files = {hook: (folder / f"{hook.name}.f16").open("wb") for hook in hooks}
        n_tokens = 0
        for states in _states(backbone, texts, hooks, progress):
            n_tokens += len(next(iter(states.values())))
            for hook, own in states.items():
                files[hook].write(own.astype(np.float16).tobytes())
        for file in files.values():
            file.close()
        done.write_text(json.dumps({"n_tokens": n_tokens}))
    return ActivationCache(folder, tuple(hooks), json.loads(done.read_text())["n_tokens"], backbone.d_model)


def _states(
    backbone: Backbone, texts: Sequence[Text], hooks: Sequence[HookPoint], progress: Progress | None
) -> Iterator[dict[HookPoint, np.ndarray]]:
    tokenized = backbone.chat.many(texts)
    for i, states in backbone.hidden_states(tokenized, hooks, progress=progress):
        n = tokenized[i].end - tokenized[i].start
        yield {hook: states[hook][:n].float().cpu().numpy() for hook in hooks}


def join_caches(corpus: ActivationCache, tasks: Sequence[ActivationCache], folder: Path) -> ActivationCache:
    """One cache: all activations of the corpora, and :data:`PER_TASK` of each task, repeated where it has fewer."""
    n_tokens = corpus.n_tokens + PER_TASK * len(tasks)
    folder.mkdir(parents=True, exist_ok=True)
    for hook in corpus.hooks:
        path = folder / f"{hook.name}.f16"
        if not path.is_file() or path.stat().st_size != 2 * n_tokens * corpus.d_in:
            with path.open("wb") as file:
                for part in np.array_split(corpus.array(hook), max(1, corpus.n_tokens // 100_000)):
                    file.write(part.tobytes())
                for task in tasks:
                    file.write(task.array(hook)[_drawn(task.n_tokens)].tobytes())
    return ActivationCache(folder, corpus.hooks, n_tokens, corpus.d_in)


def _drawn(n_tokens: int) -> np.ndarray:
    """``[PER_TASK]`` rows: all of them as often as they fit, and as many more, drawn, as are missing."""
    whole, more = divmod(PER_TASK, n_tokens)
    drawn = np.random.default_rng(0).choice(n_tokens, more, replace=False)
    return np.sort(np.concatenate([np.tile(np.arange(n_tokens), whole), drawn]))


def compare_seeds(folder: Path, seeds: Sequence[int], hooks: Sequence[HookPoint], cache: ActivationCache) -> None:
    """Write down for each latent in how many SAEs of other seeds it is found again."""
    for hook in hooks if len(seeds) > 1 else ():
        folders = [folder / f"seed_{seed}" / f"layer_{hook.layer}" for seed in seeds]
        saes = [load_sae(one) for one in folders]
        rows = np.sort(np.random.default_rng(0).choice(cache.n_tokens, min(COMPARED, cache.n_tokens), replace=False))
        states = cache.array(hook)[rows]
        for i, (sae, own) in enumerate(zip(saes, folders, strict=True)):
            save_seeds(measure_seeds(sae, saes[:i] + saes[i + 1 :], states), own)


if __name__ == "__main__":
    main()
