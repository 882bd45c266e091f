"""Activations of a corpus: the backbone's own, without the opening tokens, the same bytes however often interrupted."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from sparserm.backbone.model import Backbone
from sparserm.sae import activations as module
from sparserm.sae.activations import Corpus, corpus_states, extract_activations, read_corpus, tokenize_conversation
from sparserm.types import HookPoint, Message, SparseRMError
from tests.unit.tiny import HIDDEN, save_tiny

HOOKS = (HookPoint(1), HookPoint(3, "resid_pre"))
ANSWER = Message("assistant", "It is raining in the hills.")


def _line(i: int) -> str:
    """Chats and plain texts of many lengths."""
    text = f"{i} the rain in the hills " * (1 + i % 5)
    messages = [{"role": "system", "content": "Be kind."}] * (i % 4 == 0) + [{"role": "user", "content": text}]
    return json.dumps({"text": text} if i % 3 == 0 else {"messages": [*messages, vars(ANSWER)]})


@pytest.fixture
def corpus_file(tmp_path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(_line(i) + "\n" for i in range(40)))
    return path


@pytest.fixture
def corpus(corpus_file) -> Corpus:
    return read_corpus(corpus_file, n_held_out=4)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch) -> None:
    monkeypatch.setattr(module, "CHUNK_ROWS", 8)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _cancel_after(calls: int):
    """A progress callback that interrupts the work at its ``calls``-th call."""
    left = [calls]

    def progress(done: int, total: int, what: str) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    return progress


def _count_runs(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    calls: Counter[str] = Counter()
    run = Backbone.run
    monkeypatch.setattr(Backbone, "run", lambda *given: (calls.update(["run"]), run(*given))[1])
    return calls


# -------------------------------------------------------------------------------------------------------------- corpus


def test_a_corpus_holds_every_row_once_in_a_fixed_random_order(corpus_file, corpus) -> None:
    rows = [module._conversation(line, 1, corpus_file) for line in corpus_file.read_text().splitlines()]
    assert Counter(corpus.conversations) == Counter(rows)
    assert list(corpus.conversations) != rows
    assert corpus == read_corpus(corpus_file, n_held_out=4)
    assert corpus.held_out + corpus.training == corpus.conversations and len(corpus.held_out) == 4


def test_text_is_one_user_turn_and_messages_are_as_they_stand(tmp_path) -> None:
    path = tmp_path / "two.jsonl"
    path.write_text(
        '{"text": "Hi"}\n{"messages": [{"role": "user", "content": "a", "more": 1}, {"role": "assistant", "content": "b"}]}'
    )
    found = set(read_corpus(path, n_held_out=0).conversations)
    assert found == {(Message("user", "Hi"),), (Message("user", "a"), Message("assistant", "b"))}


def test_held_out_text_is_never_trained_on_even_where_it_is_repeated(tmp_path) -> None:
    path = tmp_path / "repeated.jsonl"
    path.write_text("".join(json.dumps({"text": f"text {i % 7}"}) + "\n" for i in range(42)))
    corpus = read_corpus(path, n_held_out=3)
    assert len(corpus.conversations) == 42 and len(corpus.held_out) == 3
    assert not set(corpus.held_out) & set(corpus.training)
    assert set(corpus.held_out) | set(corpus.training) == set(corpus.conversations)


def test_a_packed_corpus_is_the_same_corpus(corpus_file, corpus) -> None:
    packed = corpus_file.with_name("corpus.jsonl.gz")
    packed.write_bytes(gzip.compress(corpus_file.read_bytes()))
    assert read_corpus(packed, n_held_out=4) == corpus


def test_the_content_hash_depends_on_the_content_and_its_order(corpus_file, corpus) -> None:
    lines = corpus_file.read_text().splitlines(keepends=True)
    corpus_file.write_text("".join(lines[::-1]))
    other = read_corpus(corpus_file, n_held_out=4)
    assert other.content_hash != corpus.content_hash
    corpus_file.write_text("".join(lines))
    assert read_corpus(corpus_file, n_held_out=5).content_hash == corpus.content_hash


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "",
        "[1]",
        "5",
        '"text"',
        "null",
        '{"x": 1}',
        '{"messages": "hello"}',
        '{"messages": [{"role": "user"}]}',
        '{"messages": 5}',
        '{"text": null}',
        '{"text": 5}',
        '{"text": "\\udcff"}',
        '{"messages": [{"role": "user", "content": null}]}',
        '{"messages": [{"role": 1, "content": "a"}]}',
        "[" * 100_000,
    ],
)
def test_a_row_of_another_form_is_refused_by_its_line(corpus_file, line) -> None:
    corpus_file.write_text(corpus_file.read_text() + line + "\n" + _line(0))
    with pytest.raises(SparseRMError, match=r"line 41 of .*corpus\.jsonl: got .*expected a JSON object with `messages`"):
        read_corpus(corpus_file, n_held_out=4)


def test_too_few_rows_are_refused(corpus_file) -> None:
    with pytest.raises(SparseRMError, match="has 40 rows; expected more than the 40 held out for evaluation"):
        read_corpus(corpus_file, n_held_out=40)
    assert len(read_corpus(corpus_file, n_held_out=39).training) == 1


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\x1f\x8b broken"])
def test_bytes_that_are_no_text_are_refused_with_the_path(tmp_path, content) -> None:
    for path in (tmp_path / "bad.jsonl", tmp_path / "none.jsonl"):
        (tmp_path / "bad.jsonl").write_bytes(content)
        with pytest.raises(SparseRMError, match=rf"{path.name} cannot be read"):
            read_corpus(path, n_held_out=0)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: data[:30] + bytes(50) + data[80:]])
def test_a_damaged_gzip_file_is_refused_with_the_path(corpus_file, damage) -> None:
    packed = corpus_file.with_name("corpus.jsonl.gz")
    packed.write_bytes(damage(gzip.compress(corpus_file.read_bytes())))
    with pytest.raises(SparseRMError, match=r"corpus\.jsonl\.gz cannot be read"):
        read_corpus(packed, n_held_out=4)


# ---------------------------------------------------------------------------------------------------------- activations


def _expected(backbone: Backbone, conversations, layer: int) -> np.ndarray:
    """Transformers' own hidden states after ``layer``, one conversation at a time, the shared opening left out."""
    skip, kept = backbone.chat.shared_prefix(), []
    for conversation in conversations:
        ids = torch.tensor([tokenize_conversation(backbone, conversation).ids])
        with torch.no_grad():
            states = backbone.model(ids, output_hidden_states=True).hidden_states
        kept.append(states[layer + 1][0, skip:].numpy())
    return np.concatenate(kept)


def test_states_are_those_of_transformers_without_the_opening_tokens(tiny_backbone, corpus) -> None:
    chunk = corpus.training[:12]
    expected = _expected(tiny_backbone, chunk, 1)
    found = np.concatenate([states[HOOKS[0]] for states in corpus_states(tiny_backbone, chunk, HOOKS)])
    assert found.dtype == np.float32 and found.shape == expected.shape
    distances = np.abs(found[:, None] - expected[None]).max(-1)
    assert distances.min(0).max() < 1e-4 and distances.min(1).max() < 1e-4


def test_the_opening_tokens_are_what_conversations_begin_with_alike(tiny_backbone) -> None:
    skip = tiny_backbone.chat.shared_prefix()
    a, b = (tokenize_conversation(tiny_backbone, (Message("user", text),)).ids for text in ("the rain", "Yes"))
    assert skip > 0 and a[:skip] == b[:skip] and a[skip] != b[skip]
    (states,) = corpus_states(tiny_backbone, [(Message("user", "the rain"),)], HOOKS)
    assert len(states[HOOKS[0]]) == len(a) - skip


def test_attention_sinks_within_a_text_are_left_out_at_all_hooks(tiny_backbone, corpus, monkeypatch) -> None:
    """A token with a norm of more than five times the median, as some of Gemma 3 have, would outweigh all others."""
    (before,) = corpus_states(tiny_backbone, corpus.training[:3], HOOKS)
    skip, states = tiny_backbone.chat.shared_prefix(), tiny_backbone.hidden_states

    def with_sink(texts, hooks):
        for i, found in states(texts, hooks):
            if i == 0:
                norms = found[HOOKS[1]][skip:].norm(dim=-1)
                found[HOOKS[1]][skip + 2] *= 1000 / norms[2]
            yield i, found

    monkeypatch.setattr(tiny_backbone, "hidden_states", with_sink)
    (found,) = corpus_states(tiny_backbone, corpus.training[:3], HOOKS)
    for hook in HOOKS:
        np.testing.assert_array_equal(found[hook], np.delete(before[hook], 2, axis=0))


def test_long_conversations_are_cut_to_the_context_size(tiny_backbone, monkeypatch) -> None:
    long = (Message("user", "rain " * 100),)
    whole = tokenize_conversation(tiny_backbone, long)
    monkeypatch.setattr(module, "CONTEXT_SIZE", 20)
    cut = tokenize_conversation(tiny_backbone, long)
    assert (len(cut.ids), cut.start, cut.end) == (20, 0, 20)
    assert cut.ids == whole.ids[:20]
    monkeypatch.setattr(module, "CONTEXT_SIZE", 10_000)
    assert len(tokenize_conversation(tiny_backbone, (Message("user", "rain " * 2000),)).ids) == tiny_backbone.chat.max_length


def test_a_conversation_of_opening_tokens_alone_gives_nothing(tiny_backbone, monkeypatch) -> None:
    monkeypatch.setattr(module, "CONTEXT_SIZE", tiny_backbone.chat.shared_prefix())
    assert list(corpus_states(tiny_backbone, [(Message("user", "rain"),)], HOOKS)) == []


def test_the_cache_on_disk_is_the_states_in_float16(tiny_backbone, corpus, tmp_path) -> None:
    cache = extract_activations(tiny_backbone, corpus, HOOKS, tmp_path / "cache", n_tokens=10**9)
    assert (cache.hooks, cache.d_in) == (HOOKS, HIDDEN)
    for hook in HOOKS:
        chunks = [corpus.training[at : at + 8] for at in range(0, len(corpus.training), 8)]
        states = [one[hook] for chunk in chunks for one in corpus_states(tiny_backbone, chunk, HOOKS)]
        expected = np.concatenate(states).astype(np.float16)
        assert cache.array(hook).dtype == np.float16 and cache.array(hook).shape == (cache.n_tokens, HIDDEN)
        np.testing.assert_array_equal(cache.array(hook), expected)
    manifest = json.loads((tmp_path / "cache" / "manifest.json").read_text())
    assert (manifest["n_tokens"], manifest["n_rows"], manifest["d_in"]) == (cache.n_tokens, len(corpus.training), HIDDEN)
    assert manifest["hooks"] == [hook.name for hook in HOOKS]
    assert (manifest["backbone"], manifest["corpus"]) == (tiny_backbone.fingerprint, corpus.content_hash)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"manifest.json", *(f"{hook.name}.f16" for hook in HOOKS)}


def test_several_layers_come_from_one_pass_and_are_what_each_is_alone(tiny_backbone, corpus, tmp_path, monkeypatch) -> None:
    calls = _count_runs(monkeypatch)
    both = extract_activations(tiny_backbone, corpus, HOOKS, tmp_path / "both", n_tokens=500)
    passes = calls["run"]
    for hook in HOOKS:
        calls.clear()
        alone = extract_activations(tiny_backbone, corpus, [hook], tmp_path / hook.name, n_tokens=500)
        assert calls["run"] == passes > 0
        np.testing.assert_array_equal(alone.array(hook), both.array(hook))
    assert not np.array_equal(both.array(HOOKS[0]), both.array(HOOKS[1]))


def test_the_order_of_hooks_does_not_matter(tiny_backbone, corpus, tmp_path, monkeypatch) -> None:
    extract_activations(tiny_backbone, corpus, HOOKS, tmp_path, n_tokens=300)
    calls = _count_runs(monkeypatch)
    assert extract_activations(tiny_backbone, corpus, HOOKS[::-1], tmp_path, n_tokens=300).hooks == HOOKS
    assert not calls


def test_extraction_stops_once_there_are_enough_tokens(tiny_backbone, corpus, tmp_path) -> None:
    cache = extract_activations(tiny_backbone, corpus, HOOKS, tmp_path, n_tokens=300)
    rows = json.loads((tmp_path / "manifest.json").read_text())["n_rows"]
    skip = tiny_backbone.chat.shared_prefix()
    lengths = [len(tokenize_conversation(tiny_backbone, one).ids) - skip for one in corpus.training]
    assert rows % 8 == 0 and rows < len(corpus.training)
    assert sum(lengths[: rows - 8]) < 300 <= cache.n_tokens == sum(lengths[:rows])


@pytest.mark.parametrize("interruptions", [(1,), (2,), (3, 1), (1, 2, 1)])
def test_interrupted_extraction_goes_on_and_ends_with_the_same_bytes(tiny_backbone, corpus, tmp_path, interruptions) -> None:
    extract_activations(tiny_backbone, corpus, HOOKS, tmp_path / "whole", n_tokens=10**9)
    for calls in interruptions:
        with pytest.raises(KeyboardInterrupt):
            extract_activations(tiny_backbone, corpus, HOOKS, tmp_path / "parts", n_tokens=10**9, progress=_cancel_after(calls))
    extract_activations(tiny_backbone, corpus, HOOKS, tmp_path / "parts", n_tokens=10**9)
    assert _bytes(tmp_path / "parts") == _bytes(tmp_path / "whole")


def test_what_was_finished_before_the_interruption_is_not_computed_again(tiny_backbone, corpus, tmp_path, monkeypatch) -> None:
    calls = _count_runs(monkeypatch)
    extract_activations(tiny_backbone, corpus, HOOKS, tmp_path / "whole", n_tokens=10**9)
    whole = calls["run"]
    with pytest.raises(KeyboardInterrupt):
        extract_activations(tiny_backbone, corpus, HOOKS, tmp_path / "parts", n_tokens=10**9, progress=_cancel_after(3))
    rows = json.loads((tmp_path / "parts" / "manifest.json").read_text())["n_rows"]
    assert 0 < rows < len(corpus.training)
    calls.clear()
    extract_activations(tiny_backbone, corpus, HOOKS, tmp_path / "parts", n_tokens=10**9)
    assert 0 < calls["run"] < whole


def test_bytes_written_beyond_the_manifest_by_a_killed_run_are_dropped(tiny_backbone, corpus, tmp_path) -> None:
    extract_activations(tiny_backbone, corpus, HOOKS, tmp_path / "whole", n_tokens=10**9)
    extract_activations(tiny_backbone, corpus, HOOKS, tmp_path / "parts", n_tokens=300)
    for n, hook in enumerate(HOOKS):
        with (tmp_path / "parts" / f"{hook.name}.f16").open("ab") as file:
            file.write(b"x" * (101 + 64 * n))
    half_written = tmp_path / "parts" / ".manifest.json.0"
    half_written.write_text("{")
    extract_activations(tiny_backbone, corpus, HOOKS, tmp_path / "parts", n_tokens=10**9)
    half_written.unlink()
    assert _bytes(tmp_path / "parts") == _bytes(tmp_path / "whole")


def test_asking_for_more_tokens_continues_and_for_fewer_does_nothing(tiny_backbone, corpus, tmp_path, monkeypatch) -> None:
    extract_activations(tiny_backbone, corpus, HOOKS, tmp_path / "at once", n_tokens=900)
    few = extract_activations(tiny_backbone, corpus, HOOKS, tmp_path / "steps", n_tokens=200)
    more = extract_activations(tiny_backbone, corpus, HOOKS, tmp_path / "steps", n_tokens=900)
    assert few.n_tokens < more.n_tokens
    assert _bytes(tmp_path / "steps") == _bytes(tmp_path / "at once")
    calls = _count_runs(monkeypatch)
    assert extract_activations(tiny_backbone, corpus, HOOKS, tmp_path / "steps", n_tokens=200) == more
    assert not calls


def test_progress_counts_tokens_up_to_what_was_asked_for(tiny_backbone, corpus, tmp_path) -> None:
    heard: list[tuple[int, int]] = []
    extract_activations(
        tiny_backbone, corpus, HOOKS, tmp_path, n_tokens=500, progress=lambda done, total, what: heard.append((done, total))
    )
    assert heard == sorted(heard) and heard[-1] == (500, 500)


def test_a_folder_of_other_activations_is_refused_naming_the_difference(tiny_backbone, corpus, corpus_file, tmp_path) -> None:
    folder = tmp_path / "cache"
    extract_activations(tiny_backbone, corpus, HOOKS, folder, n_tokens=100)
    before = _bytes(folder)
    other = Backbone.load(save_tiny(tmp_path / "other", seed=1), dtype="float32")
    shuffled = Corpus(corpus.conversations, corpus.n_held_out, "0" * 16)
    for changed, said in (
        ((other, corpus, HOOKS), "backbone"),
        ((tiny_backbone, shuffled, HOOKS), "corpus"),
        ((tiny_backbone, read_corpus(corpus_file, n_held_out=5), HOOKS), "n_held_out 4, expected 5"),
        ((tiny_backbone, corpus, HOOKS[:1]), "hooks"),
    ):
        with pytest.raises(SparseRMError, match=rf"holds activations with {said}.*give another folder or remove this one"):
            extract_activations(*changed, folder, n_tokens=100)
    assert _bytes(folder) == before


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_activations_beyond_float16_are_refused_and_not_kept_as_infinite(tiny_backbone, corpus, tmp_path, monkeypatch) -> None:
    huge = [{hook: np.full((3, HIDDEN), 7e4, np.float32) for hook in HOOKS}]
    monkeypatch.setattr(module, "corpus_states", lambda *given: huge)
    with pytest.raises(SparseRMError, match=r"blocks\.1\.hook_resid_post reach 7e\+04, more than float16 holds"):
        extract_activations(tiny_backbone, corpus, HOOKS, tmp_path, n_tokens=100)
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize("kept", [0, 1000])
def test_a_file_that_lost_bytes_is_refused(tiny_backbone, corpus, tmp_path, kept) -> None:
    extract_activations(tiny_backbone, corpus, HOOKS, tmp_path, n_tokens=300)
    path = tmp_path / f"{HOOKS[1].name}.f16"
    before = path.read_bytes()
    path.write_bytes(before[:kept])
    with pytest.raises(SparseRMError, match=rf"has {kept:,} bytes, expected at least {len(before):,}; remove"):
        extract_activations(tiny_backbone, corpus, HOOKS, tmp_path, n_tokens=300)
    path.unlink()
    with pytest.raises(SparseRMError, match="has 0 bytes"):
        extract_activations(tiny_backbone, corpus, HOOKS, tmp_path, n_tokens=300)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"n_rows": 8, "n_tokens": null}'])
def test_a_broken_manifest_is_refused_with_the_folder(tiny_backbone, corpus, tmp_path, content) -> None:
    extract_activations(tiny_backbone, corpus, HOOKS, tmp_path, n_tokens=100)
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(SparseRMError, match=r"manifest\.json cannot be read .*; remove .* to compute the activations again"):
        extract_activations(tiny_backbone, corpus, HOOKS, tmp_path, n_tokens=100)
