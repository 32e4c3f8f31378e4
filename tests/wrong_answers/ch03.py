"""Plausible mistakes in the exercises of chapter 3, named `exercise__what_is_wrong`."""

import math

import torch

from ch03_attention import solutions


def running_mean__divides_by_the_length(x):
    return x.cumsum(dim=0) / len(x)


def running_mean__along_the_width(x):
    return x.cumsum(dim=1) / torch.arange(1, x.shape[1] + 1)


def running_mean__leaves_out_the_token_itself(x):
    sums = x.cumsum(dim=0) - x
    return sums / torch.arange(len(x)).clamp(min=1)[:, None]


def stable_softmax__overflows(scores):
    return scores.exp() / scores.exp().sum(dim=-1, keepdim=True)


def stable_softmax__one_maximum_for_all(scores):
    exps = (scores - scores.max()).exp()
    return exps / exps.sum(dim=-1, keepdim=True)


def stable_softmax__nan_where_all_is_masked(scores):
    return scores.softmax(dim=-1)


def stable_softmax__along_the_first_axis(scores):
    return scores.softmax(dim=0)


def attention_mask__not_the_token_itself(n_queries, n_keys):
    return torch.ones(n_queries, n_keys, dtype=torch.bool).tril(n_keys - n_queries - 1)


def attention_mask__aligned_top_left(n_queries, n_keys):
    return torch.ones(n_queries, n_keys, dtype=torch.bool).tril()


def attention_mask__ones_and_zeros(n_queries, n_keys):
    return torch.ones(n_queries, n_keys).tril(n_keys - n_queries)


def attention_mask__true_where_forbidden(n_queries, n_keys):
    return ~solutions.attention_mask(n_queries, n_keys)


def window_mask__one_too_many(n, window):
    return solutions.window_mask(n, window + 1)


def window_mask__not_causal(n, window):
    distance = torch.arange(n)[:, None] - torch.arange(n)
    return distance.abs() < window


def attend__no_scale(q, k, v):
    return solutions.attend(q * math.sqrt(q.shape[-1]), k, v)


def attend__no_mask(q, k, v):
    return (q @ k.T / math.sqrt(q.shape[-1])).softmax(dim=-1) @ v


def attend__mask_after_softmax(q, k, v):
    weights = (q @ k.T / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return (weights * solutions.attention_mask(len(q), len(k))) @ v


def attend__scales_by_the_width_of_v(q, k, v):
    return solutions.attend(q * math.sqrt(q.shape[-1] / v.shape[-1]), k, v)


def attend__softmax_over_the_queries(q, k, v):
    scores = q @ k.T / math.sqrt(q.shape[-1])
    mask = solutions.attention_mask(len(q), len(k))
    return scores.masked_fill(~mask, float("-inf")).softmax(dim=0).nan_to_num() @ v


def multi_head__heads_interleaved(x, W_q, W_k, W_v, W_o):
    heads = [solutions.attend(x @ q, x @ k, x @ v) for q, k, v in zip(W_q, W_k, W_v, strict=True)]
    return torch.stack(heads, dim=-1).flatten(1) @ W_o


def multi_head__without_the_output_matrix(x, W_q, W_k, W_v, W_o):
    heads = [solutions.attend(x @ q, x @ k, x @ v) for q, k, v in zip(W_q, W_k, W_v, strict=True)]
    return torch.cat(heads, dim=-1)


def multi_head__all_with_the_keys_of_the_first(x, W_q, W_k, W_v, W_o):
    return solutions.multi_head(x, W_q, W_k[:1].expand_as(W_k), W_v, W_o)


def grouped_attention__neighbours_in_different_groups(q, k, v):
    n = q.shape[1] // k.shape[1]
    return solutions.grouped_attention(q, k.repeat(1, n, 1, 1), v.repeat(1, n, 1, 1))


def grouped_attention__no_mask(q, k, v):
    n = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(n, dim=1), v.repeat_interleave(n, dim=1)
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-1) @ v


def grouped_attention__shares_keys_but_all_groups_the_same(q, k, v):
    return solutions.grouped_attention(q, k[:, :1], v[:, :1])


def rotary_complex__neighbours_paired(x, positions, theta):
    angles = positions[:, None] * theta ** (-torch.arange(0, x.shape[-1], 2) / x.shape[-1])
    pairs = torch.view_as_complex(x.reshape(len(x), -1, 2).contiguous())
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(turned).flatten(1)


def rotary_complex__turns_backwards(x, positions, theta):
    return solutions.rotary_complex(x, -positions, theta)


def rotary_complex__positions_by_row(x, positions, theta):
    return solutions.rotary_complex(x, torch.arange(len(x)), theta)


def rotary_complex__half_the_exponent(x, positions, theta):
    return solutions.rotary_complex(x, positions, theta**0.5)


def alibi__slopes_start_at_one(n_heads, n):
    return solutions.alibi(n_heads, n) * 2 ** (8 / n_heads)


def alibi__far_is_better(n_heads, n):
    bias = solutions.alibi(n_heads, n)
    return bias.abs().masked_fill(bias == float("-inf"), float("-inf"))


def alibi__no_mask(n_heads, n):
    slopes = 2.0 ** (-8.0 * torch.arange(1, n_heads + 1) / n_heads)
    return -slopes[:, None, None] * (torch.arange(n)[:, None] - torch.arange(n)).abs()


def cache_bytes__keys_only(n_layers, n_kv_heads, head_dim, n_tokens, bytes_per_number):
    return n_layers * n_kv_heads * head_dim * n_tokens * bytes_per_number


def cache_bytes__one_layer(n_layers, n_kv_heads, head_dim, n_tokens, bytes_per_number):
    return 2 * n_kv_heads * head_dim * n_tokens * bytes_per_number


def cache_bytes__as_a_float(n_layers, n_kv_heads, head_dim, n_tokens, bytes_per_number):
    return 2.0 * n_layers * n_kv_heads * head_dim * n_tokens * bytes_per_number


def decode_step__does_not_see_itself(x_new, W_q, W_k, W_v, cache):
    out, new_cache = solutions.decode_step(x_new, W_q, W_k, W_v, cache)
    if cache is not None:
        out = solutions.attend(x_new[None] @ W_q, *cache)[0]
    return out, new_cache


def decode_step__newest_first(x_new, W_q, W_k, W_v, cache):
    out, (k, v) = solutions.decode_step(x_new, W_q, W_k, W_v, cache)
    return out, (k.flip(0), v.flip(0))


def decode_step__forgets(x_new, W_q, W_k, W_v, cache):
    return solutions.decode_step(x_new, W_q, W_k, W_v, None)


def decode_step__returns_the_output_alone(x_new, W_q, W_k, W_v, cache):
    return solutions.decode_step(x_new, W_q, W_k, W_v, cache)[0]


def merge_parts__adds_without_shrinking(one, other):
    return torch.maximum(one[0], other[0]), one[1] + other[1], one[2] + other[2]


def merge_parts__shrinks_only_the_first(one, other):
    m = torch.maximum(one[0], other[0])
    shrink = (one[0] - m).exp()
    return m, one[1] * shrink + other[1], one[2] * shrink[:, None] + other[2]


def merge_parts__forgets_the_output(one, other):
    m, total, _ = solutions.merge_parts(one, other)
    return m, total, one[2] + other[2]


def future_leaks__changes_the_last_token_only(layer, x):
    changed = x.clone()
    changed[-1] += 1.0
    return not torch.equal(layer(changed)[:-1], layer(x)[:-1])


def future_leaks__counts_the_changed_token_itself(layer, x):
    before = layer(x)
    for t in range(len(x)):
        changed = x.clone()
        changed[t] += 1.0
        if not torch.equal(layer(changed)[: t + 1], before[: t + 1]):
            return True
    return False
