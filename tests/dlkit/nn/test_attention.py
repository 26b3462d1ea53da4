"""Attention: the formulas, the mask, and what half precision and empty rows do to it."""

from __future__ import annotations

import pytest
import torch

from dlkit.nn.attention import Attention, masked_softmax

KINDS = ("additive", "dot", "general")
MASK = torch.tensor([[True, True, True, True], [True, True, False, False], [True, False, False, False]])


def setting(kind, dtype=torch.float64):
    attention = Attention(5, 5, kind, 7).to(dtype)
    queries, keys, values = (torch.randn(3, n, size, dtype=dtype) for n, size in ((2, 5), (4, 5), (4, 6)))
    return attention, queries, keys, values


def score(attention, q, k):
    if attention.kind == "additive":
        return attention.score.weight[0] @ torch.tanh(
            attention.of_query.weight @ q + attention.of_key.weight @ k + attention.of_key.bias
        )
    return q @ k if attention.kind == "dot" else q @ attention.of_key.weight @ k


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_context_are_the_formulas_over_the_real_keys(kind):
    attention, queries, keys, values = setting(kind)
    context, weights = attention(queries, attention.project(keys), values, MASK)
    for row, real in enumerate(MASK.sum(1).tolist()):
        for i, query in enumerate(queries[row]):
            expected = torch.stack([score(attention, query, key) for key in keys[row, :real]]).softmax(0)
            torch.testing.assert_close(weights[row, i, :real], expected)
            assert (weights[row, i, real:] == 0).all()
            torch.testing.assert_close(context[row, i], expected @ values[row, :real])


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_in_the_padding_changes_nothing(kind):
    attention, queries, keys, values = setting(kind)
    found = attention(queries, attention.project(keys), values, MASK)
    keys, values = keys.clone(), values.clone()
    keys[~MASK], values[~MASK] = 1e4, 1e4
    for one, other in zip(found, attention(queries, attention.project(keys), values, MASK), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_masked_places_and_empty_rows_are_finite_in_every_precision(dtype):
    scores = (100 * torch.randn(2, 3, 4)).to(dtype).requires_grad_()
    mask = torch.tensor([[True, False, True, False], [False] * 4]).unsqueeze(1)
    weights = masked_softmax(scores, mask)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum(2), torch.tensor([[1.0], [0.0]]).expand(2, 3))
    assert (weights[:, :, [1, 3]] == 0).all()
    (gradient,) = torch.autograd.grad(weights.square().sum(), scores)
    assert gradient.isfinite().all()
    assert (gradient[1] == 0).all()


def test_an_unknown_kind_and_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"unknown attention 'cosine': use 'additive', 'dot', 'general'"):
        Attention(3, 3, "cosine")
    with pytest.raises(ValueError, match=r"queries as wide as keys, got 3 and 4: use 'general'"):
        Attention(3, 4, "dot")
