"""Appendix: speculative decoding says what the target would have said."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from appendix_performance.pair import distil, grown
from appendix_performance.speculative import (
    Drafts,
    ModelDraft,
    NGramDraft,
    Tally,
    expected_speedup,
    expected_tokens,
    residual,
    speculative_generate,
    verify,
)
from ch04_model.model import GPT, GPTConfig, generate
from ch05_pretraining.config import TrainConfig
from ch05_pretraining.recipes import Corpus

V = 3


def new(n_layers=2, context_length=23, seed=0, vocab_size=17, sharpness=8.0):
    """A model with opinions: untrained weights, made larger."""
    torch.manual_seed(seed)
    sizes = {"n_layers": n_layers, "n_heads": 2, "d_model": 24, "tied": False}
    config = GPTConfig(vocab_size=vocab_size, context_length=context_length, **sizes)
    model = GPT(config).eval()
    torch.nn.init.normal_(model.head.weight, std=sharpness / 24**0.5)
    return model


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


TARGET, DRAFT = new(), new(1, context_length=19, seed=1)
DRAFTERS = {
    "a model": lambda: DRAFT,
    "the target itself": lambda: TARGET,
    "n-grams": lambda: NGramDraft(3),
}


@pytest.mark.parametrize("n_draft", [1, 2, 5, 30])
@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("n_new", [0, 1, 7, 71])  # 71 is far beyond the context of 23
def test_greedy_text_is_the_targets_token_by_token(drafter, n_draft, n_new):
    ids = torch.tensor([[1, 2, 3, 1, 2]])
    expected = generate(TARGET, ids, n_new, temperature=0)
    got = speculative_generate(TARGET, DRAFTERS[drafter](), ids, n_new, n_draft, temperature=0)
    assert torch.equal(got, expected)


def test_the_text_ends_with_the_first_stop_id():
    ids = torch.tensor([[3, 1]])
    whole = generate(TARGET, ids, 20, temperature=0)
    stop = whole[0, 12].item()
    first = 2 + whole[0, 2:].tolist().index(stop)
    got = speculative_generate(TARGET, TARGET, ids, 20, 6, temperature=0, stop_ids=(stop,))
    assert torch.equal(got, whole[:, : first + 1])


def test_a_draft_like_the_target_is_always_accepted():
    tally = Tally()
    ids = torch.tensor([[1, 2]])
    speculative_generate(TARGET, TARGET, ids, 20, 4, generator=seeded(), tally=tally)
    assert tally.acceptance > 0.95  # rounding can reject one now and then
    assert tally.rounds <= 6


def chi_squared(counts, probs):
    expected = probs * counts.sum()
    return ((counts - expected) ** 2 / expected).sum().item()


def limit(degrees):
    """Beyond what chance reaches once in about 30,000 times (four standard deviations)."""
    return degrees * (1 - 2 / (9 * degrees) + 4 * math.sqrt(2 / (9 * degrees))) ** 3


@pytest.mark.parametrize(
    ("drafter", "sampling"),
    [
        ("model", {}),
        ("sure", {}),
        ("n-grams", {}),
        ("model", {"temperature": 0.7, "top_k": 2}),
    ],
)
def test_sampled_continuations_have_the_targets_distribution(drafter, sampling):
    target = new(2, 11, seed=3, vocab_size=V, sharpness=4.0)
    draft = new(1, 11, seed=4, vocab_size=V, sharpness=12.0 if drafter == "sure" else 4.0)
    ids, generator, n = torch.tensor([[1, 0, 1]]), seeded(), 500
    temperature, top_k = sampling.get("temperature", 1.0), sampling.get("top_k", V)
    probs = {}
    with torch.inference_mode():  # the exact probability of each of the 27 continuations
        for text in itertools.product(range(V), repeat=3):
            logits = target(torch.cat((ids, torch.tensor([text])), dim=1))[0, 2:5] / temperature
            cut = logits < logits.topk(top_k).values[:, -1:]
            rows = logits.masked_fill(cut, -torch.inf).softmax(-1)
            probs[text] = rows[torch.arange(3), torch.tensor(text)].prod().item()
    counts = dict.fromkeys(probs, 0)
    drafts = NGramDraft(2) if drafter == "n-grams" else draft
    for _ in range(n):
        got = speculative_generate(target, drafts, ids, 3, 2, generator=generator, **sampling)
        counts[tuple(got[0, 3:].tolist())] += 1
    assert sum(probs.values()) == pytest.approx(1.0, abs=1e-4)
    common = [text for text in probs if probs[text] * n >= 5]
    rare = [text for text in probs if probs[text] * n < 5]
    assert all(counts[text] == 0 for text in rare if probs[text] == 0)
    p = torch.tensor([probs[t] for t in common] + [sum(probs[t] for t in rare)])
    c = torch.tensor([counts[t] for t in common] + [sum(counts[t] for t in rare)]).float()
    keep = p > 1e-6
    assert chi_squared(c[keep], p[keep]) < limit(int(keep.sum()) - 1)


def test_the_residual_by_hand():
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.7, 0.2, 0.1])
    torch.testing.assert_close(residual(p, q), torch.tensor([0.0, 0.5, 0.5]))
    torch.testing.assert_close(residual(p, p), p)


def test_a_draft_that_the_target_never_says_is_never_accepted():
    p = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    for probs in (None, torch.tensor([[1.0, 0.0]])):
        assert verify(p, Drafts(torch.tensor([0]), probs), seeded()) == (0, torch.tensor(1))
        if probs is not None:
            probs = probs.flip(1)
        assert verify(p, Drafts(torch.tensor([1]), probs), seeded()) == (1, torch.tensor(0))


def test_n_grams_propose_what_followed_the_latest_longest_match():
    draft = NGramDraft(2)
    ask = torch.tensor([7, 8, 1, 9, 8, 2, 7, 8])
    assert draft.propose(ask, 3, {}, None).tokens.tolist() == [1, 9, 8]  # after 7 8, not after 8
    more = torch.tensor([7, 8, 1, 9, 8, 2, 7, 8, 3, 7, 8])
    assert draft.propose(more, 2, {}, None).tokens.tolist() == [3, 7]
    assert draft.propose(torch.cat((more, torch.tensor([5]))), 2, {}, None).tokens.tolist() == []
    draft.keep(0)
    assert draft.propose(torch.tensor([3, 4, 3]), 9, {}, None).tokens.tolist() == [4, 3]


def test_a_draft_reads_no_token_twice():
    reads = []

    class Watched(ModelDraft):
        def propose(self, ids, n, sampling, generator):
            reads.append(len(ids) - self.cache.length)
            return super().propose(ids, n, sampling, generator)

    speculative_generate(TARGET, Watched(DRAFT), torch.tensor([[1, 2, 3]]), 14, 3, temperature=0)
    assert reads[0] == 3
    assert max(reads[1:]) <= 2  # the last draft if it was accepted, and the target's own token


def test_expected_tokens_and_speed_by_hand():
    assert expected_tokens(0.5, 2) == 1.75
    assert expected_tokens(1.0, 4) == 5
    assert expected_tokens(0.0, 4) == 1
    assert expected_speedup(0.5, 2, draft_cost=0.25) == pytest.approx(1.75 / 1.5)
    assert expected_speedup(0.0, 3, draft_cost=0.2) < 1


@pytest.mark.parametrize(
    ("ids", "changes", "match"),
    [
        (torch.zeros(2, 3, dtype=torch.long), {}, "1 sequence at a time, not 2"),
        (torch.zeros(1, 0, dtype=torch.long), {}, "0 tokens"),
        (torch.zeros(1, 24, dtype=torch.long), {}, "24 tokens.*1 to 23"),
        (torch.zeros(1, 3, dtype=torch.long), {"n_draft": 0}, "n_draft.*not 0"),
        (torch.zeros(1, 3, dtype=torch.long), {"max_new_tokens": -1}, "not -1"),
        (torch.zeros(1, 3, dtype=torch.long), {"temperature": -0.5}, "temperature.*-0.5"),
        (torch.zeros(1, 3, dtype=torch.long), {"draft": new(vocab_size=13)}, "13.*17"),
    ],
)
def test_bad_input_is_refused_with_both_numbers(ids, changes, match):
    options = {"draft": DRAFT, "max_new_tokens": 4, "n_draft": 2} | changes
    with pytest.raises(ValueError, match=match):
        speculative_generate(TARGET, ids=ids, **options)


def test_a_distilled_draft_comes_to_say_what_the_target_says():
    draft, ids = new(1, seed=1), torch.randint(17, (400,), generator=seeded())
    with torch.no_grad():
        wanted = TARGET(ids[None, :19]).softmax(-1)

    def distance():
        return F.kl_div(draft(ids[None, :19]).log_softmax(-1), wanted, reduction="sum").item()

    before, weights = distance(), [w.clone() for w in TARGET.parameters()]
    config = TrainConfig(steps=80, context_length=19, adamw_lr=0.02, precision="float32")
    distil(draft, TARGET, Corpus(ids, ids[:0], val_bytes=1, vocab_size=17), config)
    assert 0 <= distance() < before / 3
    assert all(map(torch.equal, TARGET.parameters(), weights))


def test_a_grown_model_computes_the_same_and_can_learn_in_every_layer():
    deep = grown(TARGET, 5)
    ids = torch.tensor([[1, 2, 3, 1]])
    torch.testing.assert_close(deep(ids), TARGET(ids))
    deep(ids).square().sum().backward()
    assert all(block.attention.out.weight.grad.any() for block in deep.blocks)
    with pytest.raises(ValueError, match="2 layers to 1"):
        grown(TARGET, 1)
