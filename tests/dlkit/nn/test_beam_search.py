"""Beam search, held against every sequence there is."""

from __future__ import annotations

import itertools

import pytest
import torch

from dlkit.nn.beam_search import beam_search, length_penalty
from dlkit.text import BOS, EOS, PAD

VOCABULARY = 6  # padding, beginning, end, unknown, and two more


class Bigrams:
    """A model whose next token depends on the last and on how many came before: the state is that number, by row."""

    def __init__(self, rows, seed=0):
        self.logits = torch.randn(rows, 8, VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed)).mul(2)

    class State:
        def __init__(self, row, position):
            self.row, self.position = row, position

        def select(self, rows):
            return Bigrams.State(self.row[rows], self.position)

    def start(self):
        return Bigrams.State(torch.arange(len(self.logits)), 0)

    def step(self, state, tokens):
        return Bigrams.State(state.row, state.position + 1), self.logits[state.row, state.position, tokens].clone()

    def log_probability(self, row, tokens):
        """Of a whole sequence."""
        total, last = 0.0, BOS
        for position, token in enumerate(tokens):
            total, last = total + self.logits[row, position, last].log_softmax(0)[token].item(), token
        return total


def every_sequence(limit, minimum=0):
    for length in range(minimum, limit + 1):
        for tokens in itertools.product((3, 4, 5), repeat=length):
            yield (*tokens, EOS)


def best(model, row, limit, alpha, minimum=0):
    found = []
    for tokens in every_sequence(limit, minimum):
        total = model.log_probability(row, tokens)
        found.append((total / length_penalty(torch.tensor(len(tokens)), alpha).item(), total, tokens))
    return sorted(found, reverse=True)


def trimmed(tokens):
    return tuple(token for token in tokens.tolist() if token != PAD)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("minimum", [0, 2])
def test_a_beam_as_wide_as_the_tree_finds_the_best_of_all_sequences(alpha, minimum):
    model = Bigrams(3)
    found = beam_search(model.step, model.start(), torch.tensor([3, 3, 3]), 40, alpha, minimum)
    for row in range(3):
        expected = best(model, row, 3, alpha, minimum)
        for place in range(5):
            score, total, tokens = expected[place]
            assert trimmed(found.tokens[row, place]) == tokens
            assert found.log_probabilities[row, place].item() == pytest.approx(total, abs=1e-4)
            assert found.scores[row, place].item() == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_batch_finds_what_each_sequence_finds_alone_within_its_own_limit(beam_size):
    model, limits = Bigrams(4), torch.tensor([1, 5, 3, 0])
    together = beam_search(model.step, model.start(), limits, beam_size)
    for row in range(4):
        one = Bigrams(4)
        one.logits = one.logits[row : row + 1]
        alone = beam_search(one.step, one.start(), limits[row : row + 1], beam_size)
        for place in range(beam_size):
            if alone.scores[0, place].isfinite():
                assert trimmed(together.tokens[row, place]) == trimmed(alone.tokens[0, place])
                assert together.scores[row, place].item() == pytest.approx(alone.scores[0, place].item(), abs=1e-5)
                assert len(trimmed(alone.tokens[0, place])) <= limits[row] + 1


class Dying(Bigrams):
    """Token 3 is likelier at first than the end, and then leads nowhere: its probability is spread over ever more."""

    def __init__(self, rows):
        super().__init__(rows)
        even = torch.tensor([-torch.inf, -torch.inf, 0.0, 0.0, 0.0, 0.0])
        self.logits = even.expand(rows, 8, VOCABULARY, VOCABULARY).clone()
        self.logits[:, 0] = torch.tensor([0, 0, 0.2, 0.61, 0.1, 0.09]).log()
        self.logits[:, 1, :, 2] = -torch.inf
        self.logits[:, 2, :, 2] = -torch.inf


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_what_has_ended_is_kept_although_others_seem_better_for_a_while(alpha):
    model = Dying(2)
    found = beam_search(model.step, model.start(), torch.tensor([6, 4]), 2, alpha)
    for row in range(2):
        assert trimmed(found.tokens[row, 0]) == (EOS,)
        assert found.log_probabilities[row, 0].item() == pytest.approx(torch.tensor(0.2).log().item(), abs=1e-5)


def test_where_fewer_sequences_exist_than_beams_the_rest_has_no_score():
    model = Bigrams(1)
    found = beam_search(model.step, model.start(), torch.tensor([1]), 10)
    real = found.scores[0].isfinite()
    assert real.tolist() == [True] * 4 + [False] * 6
    assert len({trimmed(tokens) for tokens in found.tokens[0, :4]}) == 4


def test_a_beam_of_one_always_takes_the_likeliest():
    model = Bigrams(2)
    found = beam_search(model.step, model.start(), torch.tensor([5, 5]), 1)
    for row in range(2):
        last, written = BOS, []
        for position in range(6):
            logits = model.logits[row, position, last].clone()
            logits[[PAD, BOS]] = -torch.inf
            last = EOS if position == 5 else int(logits.argmax())
            written.append(last)
            if last == EOS:
                break
        assert trimmed(found.tokens[row, 0]) == tuple(written)


def test_the_length_penalty_is_the_formula():
    assert length_penalty(torch.tensor([1, 7]), 0.5).tolist() == pytest.approx([1.0, 2**0.5])
    assert length_penalty(torch.tensor([9]), 0.0).tolist() == [1.0]


def test_what_makes_no_sense_is_refused():
    model = Bigrams(1)
    with pytest.raises(ValueError, match="beam_size=0: give 1 or more"):
        beam_search(model.step, model.start(), torch.tensor([3]), 0)
    with pytest.raises(ValueError, match="min_length=4 and a limit of 3 tokens"):
        beam_search(model.step, model.start(), torch.tensor([3]), min_length=4)
