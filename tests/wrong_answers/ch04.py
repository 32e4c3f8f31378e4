"""What is often handed in for the exercises of chapter 4, and is wrong."""

import math

import torch
from torch.nn import functional as F

from ch04_model import solutions


def rms_norm__eps_outside_the_root(x, weight, eps):
    return (x.float() / (x.float().square().mean(-1, keepdim=True).sqrt() + eps) * weight).to(
        x.dtype
    )


def rms_norm__sum_for_mean(x, weight, eps):
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + eps) * weight


def rms_norm__over_all_axes(x, weight, eps):
    return x / (x.square().mean() + eps).sqrt() * weight


def rms_norm__squares_overflow(x, weight, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def rms_norm__stays_in_float32(x, weight, eps):
    return F.rms_norm(x.float(), x.shape[-1:], weight.float(), eps)


def rms_norm__forgets_the_weight(x, weight, eps):
    return solutions.rms_norm(x, torch.ones_like(weight), eps)


def layer_norm__divides_by_c_minus_1(x, weight, bias, eps):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + eps).sqrt() * weight + bias


def layer_norm__eps_outside_the_root(x, weight, bias, eps):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True).sqrt() + eps) * weight + bias


def layer_norm__does_not_centre(x, weight, bias, eps):
    return solutions.rms_norm(x, weight, eps) + bias


def layer_norm__in_place(x, weight, bias, eps):
    x -= x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias


def gelu_tanh__exact(x):
    return F.gelu(x)


def gelu_tanh__by_sigmoid(x):
    return x * torch.sigmoid(1.702 * x)


def gelu_tanh__square_for_cube(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**2)))


def swiglu__bends_the_value(x, gate, up, down):
    return (x @ gate.T * F.silu(x @ up.T)) @ down.T


def swiglu__sigmoid_for_silu(x, gate, up, down):
    return (torch.sigmoid(x @ gate.T) * (x @ up.T)) @ down.T


def swiglu__adds(x, gate, up, down):
    return (F.silu(x @ gate.T) + x @ up.T) @ down.T


def swiglu__bends_both(x, gate, up, down):
    return (F.silu(x @ gate.T) * F.silu(x @ up.T)) @ down.T


def pre_norm__is_post_norm(x, parts):
    for norm, part in parts:
        x = norm(x + part(x))
    return x


def pre_norm__replaces_the_stream(x, parts):
    for norm, part in parts:
        x = part(norm(x))
    return x


def pre_norm__adds_to_the_normed(x, parts):
    for norm, part in parts:
        x = norm(x) + part(norm(x))
    return x


def pre_norm__in_parallel(x, parts):
    return x + sum((part(norm(x)) for norm, part in parts), torch.zeros_like(x))


def pre_norm__in_place(x, parts):
    for norm, part in parts:
        x += part(norm(x)).detach()
    return x


def initial_std__same_for_all(name, n_layers):
    return 0.02


def initial_std__one_addition_a_block(name, n_layers):
    return solutions.initial_std(name, n_layers / 2)


def initial_std__no_root(name, n_layers):
    adds = name.endswith(("attention.out.weight", "feed_forward.down.weight"))
    return 0.02 / (2 * n_layers) if adds else 0.02


def initial_std__attention_only(name, n_layers):
    return 0.02 / math.sqrt(2 * n_layers) if "attention.out" in name else 0.02


def count_parameters__twelve_c_squared(config):
    return 12 * config.n_layers * config.d_model**2 + config.vocab_size * config.d_model


def count_parameters__tied_head_twice(config):
    extra = config.vocab_size * config.d_model if config.tied else 0
    return solutions.count_parameters(config) + extra


def count_parameters__no_grouping(config):
    grouped = 2 * (config.n_heads - config.n_kv_heads) * config.head_dim * config.d_model
    return solutions.count_parameters(config) + config.n_layers * grouped


def count_parameters__no_qk_norm(config):
    return solutions.count_parameters(config) - config.qk_norm * 2 * config.n_layers * (
        config.head_dim * (2 if config.norm == "layer" else 1)
    )


def count_parameters__forgets_the_last_norm(config):
    return solutions.count_parameters(config) - config.d_model


def cache_bytes__query_heads(config, n_tokens, batch_size, bytes_per_number):
    return (
        2
        * config.n_layers
        * config.n_heads
        * config.head_dim
        * (n_tokens * batch_size * bytes_per_number)
    )


def cache_bytes__keys_only(config, n_tokens, batch_size, bytes_per_number):
    return solutions.cache_bytes(config, n_tokens, batch_size, bytes_per_number) // 2


def cache_bytes__d_model(config, n_tokens, batch_size, bytes_per_number):
    return 2 * config.n_layers * config.d_model * n_tokens * batch_size * bytes_per_number


def decoding_flops__two_n(config, n_before):
    return 2 * solutions.count_parameters(config)


def decoding_flops__multiplications_only(config, n_before):
    return solutions.decoding_flops(config, n_before) // 2


def decoding_flops__not_to_itself(config, n_before):
    return solutions.decoding_flops(config, n_before - 1)


def decoding_flops__no_head(config, n_before):
    head = 2 * config.d_model * config.vocab_size
    return solutions.decoding_flops(config, n_before) - head


def top_p__drops_the_one_that_crosses(probs, p):
    ordered, order = probs.sort(dim=-1, descending=True)
    kept = torch.zeros_like(probs).scatter(-1, order, ordered * (ordered.cumsum(-1) <= p))
    return kept / kept.sum(-1, keepdim=True)


def top_p__stays_sorted(probs, p):
    ordered, _ = probs.sort(dim=-1, descending=True)
    kept = ordered * (ordered.cumsum(-1) - ordered < p)
    return kept / kept.sum(-1, keepdim=True)


def top_p__does_not_sum_to_one(probs, p):
    return probs * (solutions.top_p(probs, p) > 0)


def min_p__absolute(probs, p):
    kept = probs * (probs >= p)
    return kept / kept.sum(-1, keepdim=True)


def min_p__maximum_of_all_rows(probs, p):
    kept = probs * (probs >= p * probs.max())
    return kept / kept.sum(-1, keepdim=True)


def min_p__does_not_sum_to_one(probs, p):
    return probs * (probs >= p * probs.amax(-1, keepdim=True))


def greedy__without_a_cache(model, ids, n):
    for _ in range(n):
        ids = torch.cat((ids, model(ids)[:, -1:].argmax(-1)), dim=1)
    return ids


def greedy__reads_all_into_the_cache_again(model, ids, n):
    for _ in range(n):
        cache = model.new_cache(len(ids))
        ids = torch.cat((ids, model(ids, cache)[:, -1:].argmax(-1)), dim=1)
    return ids


def greedy__forgets_the_prompt(model, ids, n):
    return solutions.greedy(model, ids, n)[:, ids.shape[1] :]


def greedy__one_too_few(model, ids, n):
    return solutions.greedy(model, ids, max(0, n - 1))


def greedy__the_least_likely(model, ids, n):
    cache, unread = model.new_cache(len(ids)), ids
    for _ in range(n):
        unread = model(unread, cache)[:, -1:].argmin(-1)
        ids = torch.cat((ids, unread), dim=1)
    return ids
