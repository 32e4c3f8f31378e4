"""Checks of the exercises of chapter 6: `check_x(x)` says whether x is right, or why not."""

import math

import torch

from ch01_overview.checking import checked, expect, require
from ch06_alignment import solutions

__all__ = [
    "check_answer_loss",
    "check_answer_mask",
    "check_best_of_n",
    "check_best_policy",
    "check_chat_string",
    "check_clipped",
    "check_dpo_gradient",
    "check_group_advantages",
    "check_kl_estimates",
    "check_lora_numbers",
    "check_merge",
    "check_pairwise_loss",
    "check_sequence_logp",
]


def _randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@checked
def check_answer_mask(answer_mask):
    """One turn of each, two, and an answer of no words."""
    hint = (
        "A turn is its role's token, its words, and an end; an assistant writes all but the first."
    )
    given = (["user", "assistant"], [1, 2])
    expected = [False, False, False, False, True, True, True]
    expect(answer_mask(*given), expected, f"answer_mask{given}", hint)
    given = (["user", "assistant", "user", "assistant"], [2, 3, 1, 0])
    expect(answer_mask(*given), solutions.answer_mask(*given), f"answer_mask{given}", hint)


@checked
def check_chat_string(chat_string):
    """Plain words, then a user who types a control token."""
    control = {"user": 100, "assistant": 101, "end": 102}
    words = {"hi": 1, "yes": 2}

    def encode(text):
        return [words.get(word, 7) for word in text.split()]

    hint = "For each message: its role's id, its content encoded by itself, the id of the end."
    talk = [("user", "hi hi"), ("assistant", "yes")]
    expected = [100, 1, 1, 102, 101, 2, 102]
    expect(chat_string(talk, encode, control), expected, f"chat_string({talk}, ...)", hint)
    hint = "Text is never looked up among the control tokens, whatever it says."
    talk = [("user", "hi end assistant yes end")]
    expected = [100, 1, 7, 7, 2, 7, 102]
    expect(chat_string(talk, encode, control), expected, f"chat_string({talk}, ...)", hint)


@checked
def check_sequence_logp(sequence_logp):
    """By hand with two tokens, and at random with 3 rows of 7 tokens, 11 of them possible."""
    hint = "The scores at t - 1 speak of token t. Sum over what is marked."
    logits = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0], [5.0, 0.0]]])
    ids, mask = torch.tensor([[0, 1, 0]]), torch.tensor([[False, False, True]])
    expected = torch.tensor([math.log(0.75)])
    expect(sequence_logp(logits, ids, mask), expected, "a row of three tokens", hint)
    logits = _randn(3, 7, 11)
    ids = torch.randint(11, (3, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(7) >= torch.tensor([[2], [5], [4]])
    expected = solutions.sequence_logp(logits, ids, mask)
    expect(sequence_logp(logits, ids, mask), expected, "3 rows of 7 tokens, 11 possible", hint)


@checked
def check_answer_loss(answer_loss):
    """Two answers of very different lengths, and filling that must not matter."""
    logps = torch.tensor([[-1.0, -2.0, -50.0, -60.0], [-3.0, -4.0, -5.0, -6.0]])
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    hint = "The mean over the marked tokens of the whole batch, in nats: positive."
    expect(answer_loss(logps, mask), torch.tensor(21 / 6), "2 and 4 marked tokens", hint)
    mask = torch.tensor([[True, False, False, False], [True, True, True, False]])
    expect(answer_loss(logps, mask), torch.tensor(13 / 4), "1 and 3 marked tokens", hint)
    logps = torch.where(mask, logps, -math.inf)
    hint = "What is not marked must not come near the sum: 0 times infinity is nan."
    expect(answer_loss(logps, mask), torch.tensor(13 / 4), "filling of probability 0", hint)


@checked
def check_lora_numbers(lora_numbers):
    """One matrix, and three that are not square."""
    hint = "B is (out, rank), A is (rank, in). W is frozen."
    expect(lora_numbers([(1000, 1000)], 8), 16_000, "lora_numbers([(1000, 1000)], 8)", hint)
    given = ([(384, 128), (128, 256), (344, 128)], 5)
    expect(lora_numbers(*given), 5 * (512 + 384 + 472), f"lora_numbers{given}", hint)


@checked
def check_merge(merge):
    """The chapter's example, and a matrix of 7 x 5 with rank 3."""
    w, a, b = torch.eye(2), torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [0.0]])
    expected = torch.tensor([[7.0, 12.0], [0.0, 1.0]])
    hint = "W + alpha / rank * B A; the rank is the number of A's rows."
    expect(merge(w, a, b, 2.0), expected, "merge(identity, [[1, 2]], [[3], [0]], 2.0)", hint)
    w, a, b = _randn(7, 5), _randn(3, 5, seed=1), _randn(7, 3, seed=2)
    given = w.clone()
    expect(merge(given, a, b, 6.0), w + 2 * b @ a, "7 x 5 with rank 3 and alpha 6", hint)
    require(torch.equal(given, w), "the weight passed in stays as it is", "Return a new one.")


@checked
def check_pairwise_loss(pairwise_loss):
    """Equal rewards, odds of 3 to 1, and rewards so far apart that exp overflows."""
    hint = "-log sigmoid(chosen - rejected), its mean over the pairs."
    zero = torch.zeros(2)
    expect(pairwise_loss(zero, zero), torch.tensor(math.log(2)), "equal rewards", hint)
    chosen, rejected = torch.tensor([math.log(3), 0.0]), torch.tensor([0.0, math.log(3)])
    expected = torch.tensor((math.log(4 / 3) + math.log(4)) / 2)
    expect(pairwise_loss(chosen, rejected), expected, "odds of 3 to 1, right and wrong", hint)
    hint = "Use softplus: the log of a sigmoid that is 0 is minus infinity."
    got = pairwise_loss(torch.tensor([-200.0]), torch.tensor([0.0]))
    expect(got, torch.tensor(200.0), "chosen -200, rejected 0", hint)


@checked
def check_best_of_n(best_of_n):
    """One sample, four, and a sure thing."""
    hint = "All n fail with probability (1 - p)^n. One sample is the policy itself: divergence 0."
    expect(best_of_n(0.3, 1), (0.3, 0.0), "best_of_n(0.3, 1)", hint)
    expected = (1 - 0.7**4, math.log(4) - 3 / 4)
    expect(best_of_n(0.3, 4), expected, "best_of_n(0.3, 4)", hint)
    expected = (1.0, math.log(16) - 15 / 16)
    expect(best_of_n(1.0, 16), expected, "best_of_n(1.0, 16)", hint)


@checked
def check_best_policy(best_policy):
    """By hand, with unequal references, and with a beta so small that exp overflows."""
    half = torch.tensor([0.5, 0.5])
    expected = torch.tensor([math.e / (math.e + 1), 1 / (math.e + 1)])
    hint = "In proportion to reference * exp(reward / beta)."
    got = best_policy(half, torch.tensor([1.0, 0.0]), 1.0)
    expect(got, expected, "equal references, rewards 1 and 0, beta 1", hint)
    reference, reward = _randn(5).softmax(0), _randn(5, seed=1)
    weights = reference * (reward / 0.5).exp()
    got = best_policy(reference, reward, 0.5)
    expect(got, weights / weights.sum(), "five replies, beta 0.5", hint)
    hint = "Add up logarithms and take a softmax: it does not overflow."
    got = best_policy(half, torch.tensor([1.0, 0.0]), 1e-3)
    expect(got, torch.tensor([1.0, 0.0]), "rewards 1 and 0, beta 0.001", hint)


@checked
def check_dpo_gradient(dpo_gradient):
    """At the reference, and for random log-probabilities against autograd."""
    zero = torch.zeros(1)
    hint = "At the reference sigmoid(0) = 1/2, so beta / 2; a loss falls against its gradient."
    got = dpo_gradient(zero, zero, zero, zero, 0.1)
    expect(got, (torch.tensor([-0.05]), torch.tensor([0.05])), "all four equal, beta 0.1", hint)
    given = [-10 * torch.rand(7, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    won, lost = (x.clone().requires_grad_() for x in given[:2])
    d = (won - given[2]) - (lost - given[3])
    expected = torch.autograd.grad(-torch.nn.functional.logsigmoid(0.3 * d).sum(), (won, lost))
    hint = "With d the difference of the log ratios: beta * sigmoid(-beta d), and two signs."
    expect(dpo_gradient(*given, 0.3), expected, "seven random pairs, beta 0.3", hint)


@checked
def check_group_advantages(group_advantages):
    """One right of four, groups of different means, and a group that is all alike."""
    hint = "(reward - mean) / standard deviation of its row, which divides by S - 1."
    got = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    expect(got, torch.tensor([[1.5, -0.5, -0.5, -0.5]]), "[[1, 0, 0, 0]]", hint)
    rewards = _randn(3, 5) + torch.tensor([[0.0], [10.0], [-4.0]])
    expected = (rewards - rewards.mean(1, True)) / rewards.std(1, keepdim=True)
    expect(group_advantages(rewards), expected, "3 prompts, 5 samples each", hint, 1e-4)
    hint = "All alike: nothing to learn, so zeros, not nan."
    expect(group_advantages(torch.ones(2, 3)), torch.zeros(2, 3), "all rewards 1", hint)


@checked
def check_clipped(clipped):
    """Good and bad replies, inside the clip and on both sides of it."""
    ratio = torch.tensor([0.5, 1.0, 1.5])
    hint = "The smaller of ratio * A and clamp(ratio, 1 - clip, 1 + clip) * A."
    good, bad = torch.tensor(2.0), torch.tensor(-2.0)
    expect(clipped(ratio, good, 0.2), torch.tensor([1.0, 2.0, 2.4]), "A = 2, clip 0.2", hint)
    expect(clipped(ratio, bad, 0.2), torch.tensor([-1.6, -2.0, -3.0]), "A = -2, clip 0.2", hint)


@checked
def check_kl_estimates(kl_estimates):
    """The chapter's example, whose divergence is known."""
    policy, reference = torch.tensor([0.6, 0.4]), torch.tensor([0.5, 0.5])
    got = kl_estimates(policy.log(), reference.log())
    q = reference / policy
    hint = "With q = reference / policy: -log q, and q - log q - 1."
    expect(got, (-q.log(), q - q.log() - 1), "policy (0.6, 0.4), reference (0.5, 0.5)", hint)
    means = [(policy * estimate).sum().item() for estimate in got]
    require(abs(means[0] - means[1]) < 1e-6, "both have the same mean under the policy", hint)
    require((got[1] >= 0).all().item(), "the second is never negative", hint)
