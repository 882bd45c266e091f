"""Packing, on examples small enough to write the tensors down."""

from __future__ import annotations

import math
import random

import pytest
import torch

from sparserm.backbone.packing import Row, even, joined, pack, padded, similar
from sparserm.types import TokenizedText


def text(prompt, response, closing=()):
    ids = (*prompt, *response, *closing)
    return TokenizedText(ids, len(prompt), len(prompt) + len(response))


A = text([1, 2], [3, 4], [9])
B = text([1, 2], [5], [9])
C = text([7], [8, 8, 8])


def test_responses_to_one_prompt_share_a_row_with_what_closes_their_turns():
    assert pack([A, C, B], share_up_to=math.inf) == [
        Row((7, 8, 8, 8), 1, ((1, 1, 4),)),
        Row((1, 2, 3, 4, 9, 5, 9), 2, ((0, 2, 5), (2, 5, 7))),
    ]


def test_without_sharing_every_response_has_its_own_row_shortest_first():
    assert pack([A, C, B], share_up_to=0) == [
        Row((7, 8, 8, 8), 1, ((1, 1, 4),)),
        Row((1, 2, 5, 9), 2, ((2, 2, 4),)),
        Row((1, 2, 3, 4, 9), 2, ((0, 2, 5),)),
    ]


def test_a_row_grows_to_row_tokens_and_no_further():
    texts = [text([1, 2], [i, i]) for i in range(3, 7)]
    for row_tokens, members in ((10, [4]), (9, [3, 1]), (6, [2, 2]), (5, [1] * 4), (1, [1] * 4)):
        rows = pack(texts, share_up_to=math.inf, row_tokens=row_tokens)
        assert sorted(len(row.spans) for row in rows) == sorted(members), row_tokens
        assert sorted(i for row in rows for i, _, _ in row.spans) == [0, 1, 2, 3]


def test_texts_that_lost_their_whole_prompt_share_no_row():
    cut = [TokenizedText((3, 4), 0, 2, n_truncated=5), TokenizedText((3, 5), 0, 2, n_truncated=7)]
    assert [len(row.spans) for row in pack(cut, share_up_to=math.inf)] == [1, 1]


def test_every_span_holds_its_text_from_the_response_on():
    texts = [A, B, C, A, text([1], [2, 3])]
    spans = [(i, row.ids[start:end]) for row in pack(texts, share_up_to=math.inf) for i, start, end in row.spans]
    assert dict(spans) == {i: t.ids[t.start :] for i, t in enumerate(texts)}
    assert len(spans) == len(texts)


def test_no_texts_make_no_rows_and_no_batches():
    assert pack([], share_up_to=math.inf) == []
    assert list(similar([], 100)) == even([], 100, 2) == []


def test_one_response_alone_needs_no_mask():
    batch = padded(pack([A], share_up_to=math.inf))
    assert batch.mask is None
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 9]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4]]


def test_rows_of_one_response_are_padded_on_the_right_without_a_mask():
    batch = padded(pack([A, C], share_up_to=math.inf))
    assert batch.mask is None
    assert batch.input_ids.tolist() == [[7, 8, 8, 8, 0], [1, 2, 3, 4, 9]]


def test_packed_responses_continue_the_prompts_positions_and_do_not_see_each_other():
    batch = padded(pack([A, B], share_up_to=math.inf))
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 9, 5, 9]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 2, 3]]
    expected = [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1, 1],
    ]
    assert batch.mask.dtype == torch.bool
    assert batch.mask.int().tolist() == [[expected]]


def test_a_padded_row_beside_a_packed_one_is_causal_and_every_query_sees_a_key():
    batch = padded(pack([A, B, C], share_up_to=math.inf))
    assert batch.input_ids.tolist() == [[7, 8, 8, 8, 0, 0, 0], [1, 2, 3, 4, 9, 5, 9]]
    assert batch.position_ids[0, :4].tolist() == [0, 1, 2, 3]
    assert torch.equal(batch.mask[0, 0, :4], torch.ones(7, 7, dtype=torch.bool).tril()[:4])
    assert batch.mask.any(-1).all()


def test_padded_groups_hold_at_most_batch_tokens_padding_included():
    rows = pack([text([i], [0] * n) for i, n in enumerate((2, 2, 4, 5, 5, 9))], share_up_to=math.inf)
    for batch_tokens in (10, 12, 20, 60):
        got = list(similar(rows, batch_tokens))
        assert all(padded(group).input_ids.numel() <= batch_tokens for group in got)
        assert [row for group in got for row in group] == rows
    assert [len(group) for group in similar(rows, 12)] == [2, 2, 1, 1]
    assert [len(group) for group in similar(rows, 60)] == [6]


def test_a_row_longer_than_batch_tokens_is_a_group_of_its_own():
    rows = pack([A, C], share_up_to=math.inf)
    assert [len(group) for group in similar(rows, 1)] == [1, 1]


def test_joined_rows_stand_one_after_another_without_padding():
    batch = joined(pack([A, C, B], share_up_to=math.inf))
    assert batch.mask is None
    assert batch.starts == (0, 4)
    assert batch.input_ids.tolist() == [[7, 8, 8, 8, 1, 2, 3, 4, 9, 5, 9]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3, 4, 2, 3]]


@pytest.mark.parametrize("make", [padded, joined])
def test_positions_are_those_of_each_response_text_after_text(make):
    rows = pack([A, C, B], share_up_to=math.inf)
    batch = make(rows)
    found = batch.input_ids.flatten()[batch.positions()].tolist()
    assert found == [token for row in rows for _, start, end in row.spans for token in row.ids[start:end]]


@pytest.mark.parametrize("multiple", [1, 2, 3])
def test_even_groups_hold_every_row_once_and_about_as_many_tokens(multiple):
    draw = random.Random(multiple)
    rows = pack([text([i], [0] * draw.randint(1, 40)) for i in range(60)], share_up_to=math.inf)
    groups = even(rows, 100, multiple)
    assert sorted((row for group in groups for row in group), key=lambda row: row.ids) == sorted(rows, key=lambda row: row.ids)
    assert len(groups) % multiple == 0
    sizes = [sum(len(row.ids) for row in group) for group in groups]
    assert max(sizes) - min(sizes) <= max(len(row.ids) for row in rows)
    assert sum(sizes) / len(sizes) <= 100


def test_fewer_rows_than_groups_make_no_empty_group():
    rows = pack([A, C], share_up_to=math.inf)
    assert even(rows, 100, 4) == [[rows[1]], [rows[0]]]
