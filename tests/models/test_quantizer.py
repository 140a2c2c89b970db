"""The codebook: straight-through, moving averages, freezing, revival, health, several ranks."""

from __future__ import annotations

from pathlib import Path

import codebook_ranks
import pytest
import torch
from safetensors.torch import load_file
from sizes import generator, mini, mini_batch, unit
from torch import Tensor, multiprocessing
from torch._subclasses import FakeTensorMode
from torch.distributions import Categorical
from torch.nn import functional as F

from imanim.models.animator import Animator
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


def test_usage_has_a_shape_that_does_not_depend_on_the_data():
    with FakeTensorMode():
        used, perplexity = usage(torch.zeros(2, 3, dtype=torch.long), 8)
    assert used.shape == perplexity.shape == ()


# ------------------------------------------------------------------------------------------------------------- health


def test_health_tells_living_codes_from_those_just_brought_back():
    book, z = Codebook(4, 3, decay=0.5, revive_below=0.3), torch.eye(3)
    book.ready.fill_(1)
    book.embedding.copy_(torch.cat([torch.eye(3), -torch.ones(1, 3) / 3**0.5]))  # nobody is near the last one
    book.sums.copy_(book.embedding)
    book.uses.copy_(torch.tensor([1.0, 1.0, 1.0, 0.5]))
    assert (float(book.health().alive), float(book.health().revived)) == (100, 0)
    book(z, generator())  # three tokens, 4/3 times the mean use each; the last code falls to 0.25
    alive, perplexity, revived = book.health()
    assert (float(alive), float(revived)) == (75, 1)
    torch.testing.assert_close(book.uses, torch.tensor([7 / 6, 7 / 6, 7 / 6, 1.0]))
    torch.testing.assert_close(perplexity, Categorical(book.uses).perplexity())
    book(torch.cat([z, book.embedding[3:]]), generator())
    assert (float(book.health().alive), float(book.health().revived)) == (100, 0)


def test_without_revival_no_code_comes_back_and_no_random_number_is_drawn():
    book, random = Codebook(8, 4, decay=0.1, revive_below=0.0), generator()
    book.ready.fill_(1)
    state = random.get_state()
    for _ in range(5):
        book(unit(1, 4).expand(6, -1), random)
    assert book.health().revived == 0 and (book.uses < 1e-3).any() and torch.equal(random.get_state(), state)


# ------------------------------------------------------------------------- stage 3: frozen codes, an encoder that trains


def _learner() -> Animator:
    torch.manual_seed(0)
    animator = Animator(mini(), ("tokenizer_encoder", "codebook")).train()
    animator.set_modes({"codebook": "frozen"})
    return animator


@pytest.mark.parametrize("through", ["straight through", "commitment"])
def test_gradients_pass_a_frozen_codebook_on_to_the_encoder(through: str):
    animator = _learner()
    motion = animator.motion_tokens(mini_batch()["driving"])
    loss = (motion.z * torch.randn_like(motion.z)).sum() if through == "straight through" else motion.vq_loss
    loss.backward()
    for name in ("stem.0.weight", "latent_tokens", "to_token.weight"):
        gradient = animator.part("tokenizer_encoder").get_parameter(name).grad
        assert gradient is not None and gradient.abs().max() > 0, name


def test_an_encoder_that_trains_comes_closer_to_a_frozen_codebook_which_stays_bit_for_bit():
    animator, history = _learner(), list[float]()
    before = {name: value.clone() for name, value in animator.part("codebook").state_dict().items()}
    optimizer = torch.optim.AdamW(animator.parameters(), lr=3e-3)
    for step in range(8):
        loss = animator.motion_tokens(mini_batch()["driving"], generator=generator(step)).vq_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert history[-1] < 0.7 * history[0], history
    assert all(torch.equal(value, before[name]) for name, value in animator.part("codebook").state_dict().items())


# ------------------------------------------------------------------------------------------------------ several ranks


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Codebooks trained by 3, 2 and 1 processes (see codebook_ranks.py). One that waits for another for ever fails here."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(codebook_ranks.run, (str(folder),), nprocs=max(codebook_ranks.WORLDS))
    return folder


def _trained(folder: Path, name: str, world: int) -> list[dict[str, Tensor]]:
    return [load_file(folder / f"{name}-{world}-{rank}.safetensors") for rank in range(world)]


@pytest.mark.parametrize("world", codebook_ranks.WORLDS)
def test_every_rank_holds_the_same_codes_though_each_saw_other_tokens(ranks: Path, world: int):
    first, *others = _trained(ranks, "aggressive", world)
    assert first["revived"] >= codebook_ranks.STEPS, "dead codes were brought back all along"
    for other in others:
        assert not torch.equal(other["used"] > 0, first["used"] > 0), "some codes are used by some ranks only"
        for name in ("embedding", "sums", "uses", "ready", "revived", "health"):
            assert torch.equal(other[name], first[name]), name


@pytest.mark.parametrize("world", codebook_ranks.WORLDS)
def test_several_ranks_count_as_one_process_with_all_their_tokens(ranks: Path, world: int):
    book = codebook_ranks.new_book(0.0)
    for step in range(codebook_ranks.STEPS):
        book(torch.cat([codebook_ranks.tokens(rank, step) for rank in range(world)]), generator())
    (found, *_) = _trained(ranks, "none", world)
    assert torch.equal(found["uses"], book.uses)
    torch.testing.assert_close(found["sums"], book.sums)
    torch.testing.assert_close(found["embedding"], book.embedding)
