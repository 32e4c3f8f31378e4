"""Reference answers to the exercises of chapter 3, each with its reasoning.

Shapes: T time, S source, C d_model, H heads, K key/value heads, D head_dim, B batch.
"""

import math

import torch

__all__ = [
    "alibi",
    "attend",
    "attention_mask",
    "cache_bytes",
    "decode_step",
    "future_leaks",
    "grouped_attention",
    "merge_parts",
    "multi_head",
    "rotary_complex",
    "running_mean",
    "stable_softmax",
    "window_mask",
]


def running_mean(x):
    """Row i of the weights is 1 / (i + 1) up to the diagonal; a cumulative sum does the same."""
    return x.cumsum(dim=0) / torch.arange(1, len(x) + 1)[:, None]


def stable_softmax(scores):
    """Shifting a row changes nothing, so shift its maximum to 0: then exp cannot overflow.

    A row of minus infinities has no maximum to subtract. It is left as it is, all its exponentials
    are 0, and 0 is divided by 1.
    """
    highest = scores.amax(dim=-1, keepdim=True)
    exps = (scores - highest.where(highest.isfinite(), 0.0)).exp()
    total = exps.sum(dim=-1, keepdim=True)
    return exps / total.where(total > 0, 1.0)


def attention_mask(n_queries, n_keys):
    """Query i is at position n_keys - n_queries + i, and a key at j is allowed up to there."""
    positions = torch.arange(n_keys - n_queries, n_keys)
    return torch.arange(n_keys) <= positions[:, None]


def window_mask(n, window):
    """The distance from query to key is 0 or more (causal) and less than `window`."""
    distance = torch.arange(n)[:, None] - torch.arange(n)
    return (distance >= 0) & (distance < window)


def attend(q, k, v):
    """Products, scale, mask, softmax, mean of the values: in this order."""
    scores = q @ k.T / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(~attention_mask(len(q), len(k)), float("-inf"))
    return stable_softmax(scores) @ v


def multi_head(x, W_q, W_k, W_v, W_o):
    """Each head by itself, outputs side by side in the order of the heads, then mixed by W_o."""
    heads = [attend(x @ q, x @ k, x @ v) for q, k, v in zip(W_q, W_k, W_v, strict=True)]
    return torch.cat(heads, dim=-1) @ W_o


def grouped_attention(q, k, v):
    """The queries of a group ask the same keys, so they stand below each other as more rows.

    Heads of a group are neighbours: the axis of heads splits into (K, H / K), not (H / K, K). An
    axis that broadcasts looks free of copies, but `@` makes them.
    """
    (B, H, T, D), (K, S) = q.shape, k.shape[1:3]
    rows = q.reshape(B, K, H // K * T, D)
    scores = (rows @ k.mT / math.sqrt(D)).view(B, K, H // K, T, S)
    weights = stable_softmax(scores.masked_fill(~attention_mask(T, S), float("-inf")))
    return (weights.view(B, K, H // K * T, S) @ v).view(B, H, T, v.shape[-1])


def rotary_complex(x, positions, theta):
    """Columns c and c + D/2 are one complex number; multiply it by e^(i position speed).

    The absolute value of the factor is 1, so the pair is turned and not stretched.
    """
    half = x.shape[-1] // 2
    speeds = theta ** (-torch.arange(half) / half)
    angles = positions[:, None] * speeds
    pairs = torch.complex(x[:, :half], x[:, half:])
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=-1)


def alibi(n_heads, n):
    """Slopes 2^(-8h/H) for h = 1 to H, times minus the distance; minus infinity is the mask."""
    slopes = 2.0 ** (-8.0 * torch.arange(1, n_heads + 1) / n_heads)
    distance = torch.arange(n)[:, None] - torch.arange(n)
    bias = -slopes[:, None, None] * distance
    return bias.masked_fill(distance < 0, float("-inf"))


def cache_bytes(n_layers, n_kv_heads, head_dim, n_tokens, bytes_per_number):
    """The 2 is for a key and a value; each layer has its own, and query heads do not count."""
    return 2 * n_layers * n_kv_heads * head_dim * n_tokens * bytes_per_number


def decode_step(x_new, W_q, W_k, W_v, cache):
    """Only the new token is projected. Its query may see all keys, so no mask is needed."""
    k, v = x_new[None] @ W_k, x_new[None] @ W_v
    if cache is not None:
        k, v = torch.cat([cache[0], k]), torch.cat([cache[1], v])
    return attend(x_new[None] @ W_q, k, v)[0], (k, v)


def merge_parts(one, other):
    """Bring both sums to the common maximum, then add. The order of the parts does not matter."""
    (m_one, sum_one, out_one), (m_other, sum_other, out_other) = one, other
    m = torch.maximum(m_one, m_other)
    shrink_one, shrink_other = (m_one - m).exp(), (m_other - m).exp()
    total = sum_one * shrink_one + sum_other * shrink_other
    return m, total, out_one * shrink_one[:, None] + out_other * shrink_other[:, None]


def future_leaks(layer, x):
    """Change one token at a time, the last included, and look at the outputs before it.

    Changing the last token only would miss a layer that looks one token ahead in the middle.
    """
    before = layer(x)
    for t in range(1, len(x)):
        changed = x.clone()
        changed[t] = torch.randn_like(changed[t])  # + 1 would not be seen by a layer that centres
        if not torch.equal(layer(changed)[:t], before[:t]):
            return True
    return False
