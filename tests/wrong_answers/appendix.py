"""Plausible mistakes in the exercises of the appendix, named `exercise__what_is_wrong`."""

import torch

from appendix_performance import solutions


def attainable__only_the_peak(operations, n_bytes, peak, bandwidth):
    return peak


def attainable__adds_the_times(operations, n_bytes, peak, bandwidth):
    return operations / (operations / peak + n_bytes / bandwidth)


def attainable__forgets_the_roof(operations, n_bytes, peak, bandwidth):
    return operations / n_bytes * bandwidth


def decode_bits__no_small_numbers(pattern, n_exponent):
    sign = -1.0 if pattern[0] == "1" else 1.0
    exponent, rest = int(pattern[1 : 1 + n_exponent], 2), pattern[1 + n_exponent :]
    if exponent == 2**n_exponent - 1:
        return solutions.decode_bits(pattern, n_exponent)
    return (
        sign * (1 + int(rest, 2) / 2 ** len(rest)) * 2.0 ** (exponent - 2 ** (n_exponent - 1) + 1)
    )


def decode_bits__bias_is_half(pattern, n_exponent):
    return solutions.decode_bits(pattern, n_exponent) / 2


def decode_bits__no_infinity(pattern, n_exponent):
    value = solutions.decode_bits(pattern, n_exponent)
    return 2.0 ** (2 ** (n_exponent - 1)) if abs(value) == float("inf") else value


def next_scale__never_rises(scale, n_good, overflow, interval):
    return (scale / 2, 0) if overflow else (scale, n_good + 1)


def next_scale__goes_on_counting(scale, n_good, overflow, interval):
    scale, n_good = (scale / 2, n_good) if overflow else (scale, n_good + 1)
    return (scale * 2, 0) if n_good == interval else (scale, n_good)


def next_scale__a_step_too_late(scale, n_good, overflow, interval):
    return solutions.next_scale(scale, n_good, overflow, interval + 1)


def zero_bytes__shares_weights_first(n_weights, n_processes, stage):
    parts = [4 * n_weights, 4 * n_weights, 8 * n_weights]
    return sum(p / n_processes if i < stage else p for i, p in enumerate(parts))


def zero_bytes__one_average(n_weights, n_processes, stage):
    return solutions.zero_bytes(n_weights, n_processes, stage) * 12 / 16


def zero_bytes__everything_at_once(n_weights, n_processes, stage):
    return 16 * n_weights / (n_processes if stage else 1)


def recompute_gradient__uses_x_itself(run, x, grad_y):
    x.requires_grad_()
    with torch.enable_grad():
        y = run(x)
    return torch.autograd.grad(y, x, grad_y)[0]


def recompute_gradient__does_not_record(run, x, grad_y):
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad(run(leaf), leaf, grad_y)[0]


def recompute_gradient__forgets_what_came_from_above(run, x, grad_y):
    return solutions.recompute_gradient(run, x, torch.ones_like(grad_y))


def quantize_rows__one_scale_for_all(weights):
    scale = (weights.abs().max() / 127).expand(len(weights)).clone()
    return (weights / scale[:, None]).round().to(torch.int8), scale


def quantize_rows__cuts_off(weights):
    scale = solutions.quantize_rows(weights)[1]
    return (weights / scale[:, None]).to(torch.int8), scale


def quantize_rows__divides_by_zero(weights):
    scale = weights.abs().amax(dim=1) / 127
    return (weights / scale[:, None]).round().to(torch.int8), scale


def quantize_rows__a_scale_for_each_column(weights):
    q, scale = solutions.quantize_rows(weights.T)
    return q.T.contiguous(), scale


def accepted_drafts__counts_later_ones(p, q, tokens, uniforms):
    return sum(
        solutions.accepted_drafts(p[i:], q[i:], [t], [uniforms[i]]) for i, t in enumerate(tokens)
    )


def accepted_drafts__accepts_by_p_alone(p, q, tokens, uniforms):
    return solutions.accepted_drafts(p, torch.ones_like(q), tokens, uniforms)


def accepted_drafts__p_and_q_swapped(p, q, tokens, uniforms):
    return solutions.accepted_drafts(q, p, tokens, uniforms)


def residual__p_itself(p, q):
    return p


def residual__not_a_distribution(p, q):
    return (p - q).clamp(min=0)


def residual__nan_when_equal(p, q):
    excess = (p - q).clamp(min=0)
    return excess / excess.sum()


def residual__absolute_difference(p, q):
    excess = (p - q).abs()
    return excess / excess.sum() if excess.sum() > 0 else p


def lookup_draft__shortest_first(text, longest, n):
    return solutions.lookup_draft(text, 1, n)


def lookup_draft__earliest_match(text, longest, n):
    for size in range(min(longest, len(text) - 1), 0, -1):
        for end in range(size, len(text)):
            if text[end - size : end] == text[-size:]:
                return text[end : end + n]
    return []


def lookup_draft__repeats_the_match(text, longest, n):
    found = solutions.lookup_draft(text, longest, n)
    return [text[-1], *found][:n] if found else []


def ring_all_reduce__only_adds(vectors):
    n = len(vectors)
    vectors = [list(vector) for vector in vectors]
    for r in range(n - 1):
        moving = [(k, (k - r) % n, vectors[k][(k - r) % n]) for k in range(n)]
        for k, piece, value in moving:
            vectors[(k + 1) % n][piece] += value
    return vectors, n - 1


def ring_all_reduce__everybody_sends_everything(vectors):
    sums = [sum(column) for column in zip(*vectors, strict=True)]
    return [sums for _ in vectors], len(vectors) * (len(vectors) - 1)


def tensor_parallel__cuts_the_wrong_axis(x, up, down, n):
    parts = zip(up.chunk(n, dim=1), down.chunk(n, dim=1), strict=True)
    return [torch.relu(x @ u) @ d[: u.shape[1]] for u, d in parts]


def tensor_parallel__bends_after_the_sum(x, up, down, n):
    parts = zip(up.chunk(n, dim=1), down.chunk(n, dim=0), strict=True)
    return [x @ u @ d for u, d in parts]


def tensor_parallel__everyone_does_all(x, up, down, n):
    return [torch.relu(x @ up) @ down / n for _ in range(n)]
