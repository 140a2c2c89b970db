"""The codebook: straight-through, moving averages, freezing, revival."""

from __future__ import annotations

import torch
from sizes import generator, unit
from torch.nn import functional as F

from imanim.models.quantizer import Codebook, usage


def test_tokens_become_their_nearest_code_and_the_gradient_passes_straight_through():
    book = Codebook(8, 4).eval()
    z = unit(2, 5, 4).requires_grad_()
    tokens, indices, commitment = book(z)
    distance = torch.cdist(z.detach().flatten(0, 1), book.embedding)
    assert torch.equal(indices.flatten(), distance.argmin(-1))
    assert torch.equal(tokens.detach(), book.embedding[indices])
    torch.testing.assert_close(commitment.detach(), distance.min(-1).values.pow(2).mean(), atol=1e-4, rtol=1e-4)
    weight = torch.randn_like(tokens)
    (gradient,) = torch.autograd.grad((tokens * weight).sum(), z)
    torch.testing.assert_close(gradient, weight)


def test_one_update_equals_the_moving_averages_worked_out_by_hand():
    book = Codebook(4, 3, decay=0.9, revive_below=0.0)
    book.ready.fill_(1)
    old, z = book.embedding.clone(), unit(10, 3)
    _, indices, _ = book(z, generator())
    for code in range(4):
        mine = z[indices == code]
        sums = 0.9 * old[code] + 0.1 * mine.sum(0) / 2.5  # ten tokens on four codes: the mean use is 2.5
        torch.testing.assert_close(book.embedding[code], F.normalize(sums, dim=-1))
        torch.testing.assert_close(book.uses[code], torch.tensor(0.9 + 0.1 * len(mine) / 2.5))


def test_a_frozen_codebook_stays_the_same_bit_for_bit():
    book = Codebook(8, 4).train()
    book.updates = False
    before = {name: value.clone() for name, value in book.state_dict().items()}
    for seed in range(3):
        book(unit(6, 4), generator(seed))
    assert all(torch.equal(value, before[name]) for name, value in book.state_dict().items())


def test_the_codebook_starts_from_the_first_batch():
    book, z = Codebook(8, 4), unit(50, 4)
    book.decay = 1 - 1e-9
    book(z, generator())
    assert book.ready == 1
    assert torch.cdist(book.embedding, z).min(-1).values.max() < 1e-3


def test_dead_codes_come_back_as_vectors_of_the_batch_the_same_for_the_same_generator():
    books = [Codebook(8, 4, revive_below=0.5) for _ in range(2)]
    z = unit(6, 4)
    books[1].load_state_dict(books[0].state_dict())
    for book in books:
        book.ready.fill_(1)
        book.uses[3] = 0.1
        book.embedding[3] = book.sums[3] = -z.mean(0)  # nobody's nearest
        book(z, generator(7))
    assert books[0].uses[3] == 1 and torch.cdist(books[0].embedding[3:4], z).min() < 1e-6
    assert torch.equal(books[0].embedding, books[1].embedding)


def test_the_codebook_stays_float32_when_the_model_becomes_bfloat16():
    book = Codebook(8, 4)
    exact = book.embedding.clone()
    book.to(torch.bfloat16)
    assert book.embedding.dtype == torch.float32 and torch.equal(book.embedding, exact)


def test_usage_and_perplexity_of_an_even_half():
    used, perplexity = usage(torch.tensor([0, 1, 2, 3]), 8)
    assert float(used) == 50 and abs(float(perplexity) - 4) < 1e-4
