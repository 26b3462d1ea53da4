"""The law of a sum is the convolution of its parts' laws, in whatever order and company, and however sure they are."""

from __future__ import annotations

import itertools

import pytest
import torch

from dlkit.functional.sums import log_law_of_sums

PTR = torch.tensor([0, 3, 3, 7, 8])


def laws(members=8, values=3):
    return torch.randn(members, values, dtype=torch.float64).log_softmax(1)


def test_it_is_the_sum_over_all_numbers_that_the_members_can_have():
    log_p = laws()
    found = log_law_of_sums(log_p, PTR).exp()
    assert found.shape == (4, 9)
    for group, (start, end) in enumerate(itertools.pairwise(PTR.tolist())):
        expected = torch.zeros(9, dtype=torch.float64)
        for numbers in itertools.product(range(3), repeat=end - start):
            p = [log_p[start + place, number].exp() for place, number in enumerate(numbers)]
            expected[sum(numbers)] += torch.stack([torch.ones((), dtype=torch.float64), *p]).prod()
        torch.testing.assert_close(found[group], expected)


def test_its_fourier_transform_is_the_product_of_theirs():
    log_p = laws(50, 10)
    found = log_law_of_sums(log_p, torch.tensor([0, 50])).exp()
    product = torch.fft.fft(log_p.exp(), n=451).prod(0)
    torch.testing.assert_close(found[0], torch.fft.ifft(product).real)
    single = log_law_of_sums(log_p.float(), torch.tensor([0, 50])).exp()
    torch.testing.assert_close(single.double(), found, rtol=1e-4, atol=1e-7)


def test_sums_that_a_group_cannot_have_have_no_chance_and_no_members_sum_to_nothing():
    found = log_law_of_sums(laws(), PTR)
    assert found[1].tolist() == [0.0, *[-torch.inf] * 8]
    assert found.isneginf().sum(1).tolist() == [2, 8, 0, 6]
    torch.testing.assert_close(found.exp().sum(1), torch.ones(4, dtype=torch.float64))
    assert log_law_of_sums(torch.zeros(0, 3), torch.tensor([0])).shape == (0, 1)


def test_groups_of_no_members_have_derivatives_that_are_zero():
    log_p = torch.zeros(0, 3, requires_grad=True)
    log_law_of_sums(log_p, torch.tensor([0, 0, 0])).sum().backward()
    assert log_p.grad is not None and log_p.grad.shape == (0, 3)


def test_derivatives_are_those_of_finite_differences():
    logits = laws().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: log_law_of_sums(x.log_softmax(1), PTR).exp(), (logits,))


@pytest.mark.parametrize("certain", [0.0, 300.0, 3000.0])
def test_the_derivative_is_what_the_sum_tells_of_a_member_less_what_was_known(certain):
    """d log P(s) / d logit = P(m | s) - P(m), finite however sure and wrong the members are."""
    logits = torch.zeros(2, 3)
    logits[:, 0] = certain
    logits.requires_grad_()
    log_law_of_sums(logits.log_softmax(1), torch.tensor([0, 2]))[0, 3].backward()  # 1 + 2 or 2 + 1, as likely as each other
    known = logits.detach().softmax(1)
    # As exact as logits of such a size are in float32.
    expected = torch.tensor([[0.0, 0.5, 0.5], [0.0, 0.5, 0.5]]) - known
    torch.testing.assert_close(logits.grad, expected, rtol=1e-3, atol=1e-6)
