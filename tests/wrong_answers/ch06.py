"""Plausible mistakes in the exercises of chapter 6, named `exercise__what_is_wrong`."""

import math

import torch

from ch06_alignment import solutions


def answer_mask__without_the_end(roles, lengths):
    mask = []
    for role, n in zip(roles, lengths, strict=True):
        mask += [False, *[role == "assistant"] * n, False]
    return mask


def answer_mask__with_the_role(roles, lengths):
    mask = []
    for role, n in zip(roles, lengths, strict=True):
        mask += [role == "assistant"] * (n + 2)
    return mask


def answer_mask__of_the_user(roles, lengths):
    swapped = ["user" if role == "assistant" else "assistant" for role in roles]
    return solutions.answer_mask(swapped, lengths)


def chat_string__control_words_in_text_count(messages, encode, control):
    ids = []
    for role, content in messages:
        ids.append(control[role])
        for word in content.split():
            ids += [control[word]] if word in control else encode(word)
        ids.append(control["end"])
    return ids


def chat_string__forgets_the_end(messages, encode, control):
    return [i for role, content in messages for i in (control[role], *encode(content))]


def sequence_logp__not_shifted(logits, ids, mask):
    logps = logits.log_softmax(dim=-1).gather(-1, ids[..., None]).squeeze(-1)
    return logps.masked_fill(~mask, 0.0).sum(dim=1)


def sequence_logp__averaged(logits, ids, mask):
    return solutions.sequence_logp(logits, ids, mask) / mask.sum(dim=1)


def sequence_logp__mask_one_off(logits, ids, mask):
    logps = logits[:, :-1].log_softmax(dim=-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    return logps.masked_fill(~mask[:, :-1], 0.0).sum(dim=1)


def answer_loss__mean_of_means(logps, mask):
    return -(logps.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1)).mean()


def answer_loss__divides_by_all(logps, mask):
    return -logps.masked_fill(~mask, 0.0).mean()


def answer_loss__multiplies_the_mask(logps, mask):
    return -(logps * mask).sum() / mask.sum()


def lora_numbers__counts_the_weight(shapes, rank):
    return solutions.lora_numbers(shapes, rank) + sum(m * n for m, n in shapes)


def lora_numbers__only_one_factor(shapes, rank):
    return sum(rank * n_in for _, n_in in shapes)


def merge__without_the_scale(weight, a, b, alpha):
    return weight + b @ a


def merge__not_divided_by_the_rank(weight, a, b, alpha):
    return weight + alpha * b @ a


def merge__in_place(weight, a, b, alpha):
    return weight.add_(alpha / len(a) * b @ a)


def pairwise_loss__overflows(chosen, rejected):
    return -torch.sigmoid(chosen - rejected).log().mean()


def pairwise_loss__the_wrong_way_round(chosen, rejected):
    return solutions.pairwise_loss(rejected, chosen)


def pairwise_loss__sum(chosen, rejected):
    return solutions.pairwise_loss(chosen, rejected) * len(chosen)


def best_of_n__n_times_p(p, n):
    return min(1.0, n * p), math.log(n) - (n - 1) / n


def best_of_n__only_the_logarithm(p, n):
    return 1 - (1 - p) ** n, math.log(n)


def best_policy__forgets_the_reference(reference, reward, beta):
    return (reward / beta).softmax(dim=-1)


def best_policy__times_beta(reference, reward, beta):
    return (reference.log() + reward * beta).softmax(dim=-1)


def best_policy__overflows(reference, reward, beta):
    weights = reference * (reward / beta).exp()
    return weights / weights.sum()


def dpo_gradient__signs(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta):
    given = (policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta)
    return solutions.dpo_gradient(*given)[::-1]


def dpo_gradient__largest_where_it_is_right(
    policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta
):
    d = (policy_chosen - ref_chosen) - (policy_rejected - ref_rejected)
    push = beta * torch.sigmoid(beta * d)
    return -push, push


def dpo_gradient__without_the_reference(
    policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta
):
    push = beta * torch.sigmoid(-beta * (policy_chosen - policy_rejected))
    return -push, push


def group_advantages__over_all_prompts(rewards):
    return (rewards - rewards.mean()) / rewards.std()


def group_advantages__nan_where_all_alike(rewards):
    return (rewards - rewards.mean(1, keepdim=True)) / rewards.std(1, keepdim=True)


def group_advantages__divides_by_n(rewards):
    spread = rewards.std(1, keepdim=True, correction=0)
    return (rewards - rewards.mean(1, keepdim=True)) / spread.clamp(min=1e-12)


def clipped__only_the_clip(ratio, advantage, clip):
    return ratio.clamp(1 - clip, 1 + clip) * advantage


def clipped__the_larger(ratio, advantage, clip):
    return torch.maximum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def clipped__clips_the_product(ratio, advantage, clip):
    return (ratio * advantage).clamp(1 - clip, 1 + clip)


def kl_estimates__the_wrong_way_round(logps, ref_logps):
    return solutions.kl_estimates(ref_logps, logps)


def kl_estimates__q_upside_down(logps, ref_logps):
    log_q = logps - ref_logps
    return log_q, log_q.exp() - log_q - 1
