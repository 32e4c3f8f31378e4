"""Reference answers to the exercises of the appendix, each with its reasoning."""

import torch

__all__ = [
    "accepted_drafts",
    "attainable",
    "decode_bits",
    "lookup_draft",
    "next_scale",
    "quantize_rows",
    "recompute_gradient",
    "residual",
    "ring_all_reduce",
    "tensor_parallel",
    "zero_bytes",
]


def attainable(operations, n_bytes, peak, bandwidth):
    """Both limits act at once: the slower of computing and fetching decides the time.

    Computing takes operations / peak seconds and fetching n_bytes / bandwidth; a machine does both
    at the same time, so the speed is operations over the longer of the two.
    """
    return operations / max(operations / peak, n_bytes / bandwidth)


def decode_bits(pattern, n_exponent):
    """Sign, exponent and fraction are cut off in this order; exponent 0 has no leading one.

    All numbers with exponent 0 share the power of exponent 1, so that the steps between them are
    those of the smallest ordinary numbers, and the line goes on evenly to zero.
    """
    sign = -1.0 if pattern[0] == "1" else 1.0
    exponent, rest = int(pattern[1 : 1 + n_exponent], 2), pattern[1 + n_exponent :]
    fraction = int(rest, 2) / 2 ** len(rest)
    bias = 2 ** (n_exponent - 1) - 1
    if exponent == 2**n_exponent - 1:
        return float("nan") if fraction else sign * float("inf")
    if exponent == 0:
        return sign * fraction * 2.0 ** (1 - bias)
    return sign * (1 + fraction) * 2.0 ** (exponent - bias)


def next_scale(scale, n_good, overflow, interval):
    """Halve at once, double only after `interval` good steps since the last change.

    An overflow costs a step, a scale that is too small only a few small gradients: so the rule
    is quick to fall and slow to rise. Both changes start the count anew.
    """
    if overflow:
        return scale / 2, 0
    if n_good + 1 == interval:
        return scale * 2, 0
    return scale, n_good + 1


def zero_bytes(n_weights, n_processes, stage):
    """16 bytes a weight, of which each stage shares out more: 8, then 12, then all 16."""
    weights, gradients, optimizer = 4 * n_weights, 4 * n_weights, 8 * n_weights
    if stage >= 1:
        optimizer /= n_processes
    if stage >= 2:
        gradients /= n_processes
    if stage >= 3:
        weights /= n_processes
    return weights + gradients + optimizer


def recompute_gradient(run, x, grad_y):
    """A leaf of our own, a graph of its own: nothing of the caller's tensors is touched.

    `detach` cuts the copy off from whatever made x, and `enable_grad` lets the second run be
    recorded even though a backward pass usually runs without.
    """
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        y = run(leaf)
    return torch.autograd.grad(y, leaf, grad_y)[0]


def quantize_rows(weights):
    """The largest of each row becomes 127; a row of zeros takes the scale 1 and stays zero."""
    largest = weights.abs().amax(dim=1)
    scale = torch.where(largest > 0, largest / 127, 1.0)
    return (weights / scale[:, None]).round().to(torch.int8), scale


def accepted_drafts(p, q, tokens, uniforms):
    """Accept while uniform < p / q of the drafted token, and stop at the first failure.

    What follows a rejected token was drafted for a text that is not said, so it does not count,
    however good it looks. Multiplying by q, not dividing, cannot divide by zero.
    """
    for i, token in enumerate(tokens):
        if not uniforms[i] * q[i][token] < p[i][token]:
            return i
    return len(tokens)


def residual(p, q):
    """What p has in excess of q, made a distribution; p itself where there is no excess."""
    excess = (p - q).clamp(min=0)
    return excess / excess.sum() if excess.sum() > 0 else p


def lookup_draft(text, longest, n):
    """Try long matches first, and of each length the latest, since texts change their subject.

    The match must end before the end of the text, or it would find itself.
    """
    for size in range(min(longest, len(text) - 1), 0, -1):
        ending = text[-size:]
        for end in range(len(text) - 1, size - 1, -1):
            if text[end - size : end] == ending:
                return text[end : end + n]
    return []


def ring_all_reduce(vectors):
    """n - 1 rounds of adding, n - 1 rounds of handing on; in each everybody sends one piece.

    In round r process k sends piece k - r. While adding, that is the piece it has just added to;
    process k then holds the finished piece k + 1, and the second half begins with it.
    """
    n = len(vectors)
    vectors = [list(vector) for vector in vectors]
    for r in range(2 * (n - 1)):
        moving = [(k, (k - r) % n, vectors[k][(k - r) % n]) for k in range(n)]
        for k, piece, value in moving:
            right = vectors[(k + 1) % n]
            right[piece] = right[piece] + value if r < n - 1 else value
    return vectors, 2 * (n - 1)


def tensor_parallel(x, up, down, n):
    """Columns of the widened row to each, and the matching rows of the narrowing matrix.

    The bend sees each number alone, so it commutes with the cut; the product that follows is a sum
    over the widened row, and a sum can be cut into partial sums.
    """
    parts = zip(up.chunk(n, dim=1), down.chunk(n, dim=0), strict=True)
    return [torch.relu(x @ some_up) @ some_down for some_up, some_down in parts]
