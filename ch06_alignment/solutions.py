"""Reference answers to the exercises of chapter 6, each with its reasoning.

Shapes: B replies, T time, P prompts, S samples for each, N pairs. Log-probabilities in nats.
"""

import math

import torch

__all__ = [
    "answer_loss",
    "answer_mask",
    "best_of_n",
    "best_policy",
    "chat_string",
    "clipped",
    "dpo_gradient",
    "group_advantages",
    "kl_estimates",
    "lora_numbers",
    "merge",
    "pairwise_loss",
    "sequence_logp",
]


def answer_mask(roles, lengths):
    """A turn of n words is a role token, n words and an end token.

    The assistant writes its words and the end; its role token is given to it.
    """
    mask = []
    for role, n in zip(roles, lengths, strict=True):
        mask += [False] + [role == "assistant"] * (n + 1)
    return mask


def chat_string(messages, encode, control):
    """Each content is encoded by itself; control ids are put between, never looked up in text."""
    ids = []
    for role, content in messages:
        ids += [control[role], *encode(content), control["end"]]
    return ids


def sequence_logp(logits, ids, mask):
    """The scores at t - 1 speak of token t: drop the last scores and the first token."""
    logps = logits[:, :-1].log_softmax(dim=-1)
    chosen = logps.gather(-1, ids[:, 1:, None]).squeeze(-1)
    return chosen.masked_fill(~mask[:, 1:], 0.0).sum(dim=1)


def answer_loss(logps, mask):
    """Every marked token of the batch counts the same: divide by how many there are in all."""
    return -logps.masked_fill(~mask, 0.0).sum() / mask.sum()


def lora_numbers(shapes, rank):
    """A matrix of (out, in) gets B, (out, rank), and A, (rank, in)."""
    return sum(rank * (n_out + n_in) for n_out, n_in in shapes)


def merge(weight, a, b, alpha):
    """The update is B A, scaled by alpha over the rank, which is A's number of rows."""
    return weight + alpha / len(a) * b @ a


def pairwise_loss(chosen, rejected):
    """-log sigmoid(d) is log(1 + exp(-d)): softplus, which does not overflow."""
    return torch.nn.functional.softplus(rejected - chosen).mean()


def best_of_n(p, n):
    """All n fail with probability (1 - p)^n; the divergence is at most log n - (n - 1) / n."""
    return 1 - (1 - p) ** n, math.log(n) - (n - 1) / n


def best_policy(reference, reward, beta):
    """Proportional to reference times exp(reward / beta): a softmax of log-probabilities."""
    return (reference.log() + reward / beta).softmax(dim=-1)


def dpo_gradient(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta):
    """The derivative of -log sigmoid(beta d) for d is -beta sigmoid(-beta d).

    d holds log pi of the chosen with a plus, of the rejected with a minus: so the two gradients
    are opposite, and large where the policy has the pair the wrong way round.
    """
    d = (policy_chosen - ref_chosen) - (policy_rejected - ref_rejected)
    push = beta * torch.sigmoid(-beta * d)
    return -push, push


def group_advantages(rewards):
    """Mean and deviation belong to a row, a prompt; the deviation divides by S - 1."""
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    spread = rewards.std(dim=1, keepdim=True)
    return torch.where(spread > 0, centred / spread.clamp(min=1e-12), 0.0)


def clipped(ratio, advantage, clip):
    """The smaller of the two: never more than the ratio earns, and no gain beyond the clip."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def kl_estimates(logps, ref_logps):
    """With q = pi_ref / pi: -log q, which is the log ratio itself, and q - log q - 1."""
    log_q = ref_logps - logps
    return -log_q, log_q.exp() - log_q - 1
