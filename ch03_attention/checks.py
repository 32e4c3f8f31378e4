"""Checks of the exercises of chapter 3: `check_x(x)` says whether x is right, or why not."""

import math

import torch
from torch.nn import functional as F

from ch01_overview.checking import checked, expect, require
from ch03_attention import solutions
from ch03_attention.attention import apply_rope, causal_mask, rope_cache
from ch03_attention.memory import LargestTensor

__all__ = [
    "check_alibi",
    "check_attend",
    "check_attention_mask",
    "check_cache_bytes",
    "check_decode_step",
    "check_future_leaks",
    "check_grouped_attention",
    "check_merge_parts",
    "check_multi_head",
    "check_rotary_complex",
    "check_running_mean",
    "check_stable_softmax",
    "check_window_mask",
]


def _randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@checked
def check_running_mean(running_mean):
    """By hand, and a random text of 7 tokens of width 3."""
    x = torch.tensor([[2.0, 0.0], [4.0, 3.0], [0.0, 3.0]])
    expected = torch.tensor([[2.0, 0.0], [3.0, 1.5], [2.0, 2.0]])
    hint = "The mean of the tokens up to and including this one, along the axis of time."
    expect(running_mean(x), expected, f"running_mean({x.tolist()})", hint)
    x = _randn(7, 3)
    expected = torch.stack([x[: i + 1].mean(dim=0) for i in range(7)])
    expect(running_mean(x), expected, "a random text of shape (7, 3)", hint)


@checked
def check_stable_softmax(stable_softmax):
    """Ordinary scores, huge ones, masked ones, and rows in which all is masked."""
    scores = _randn(2, 5, 3)
    hint = "exp, divided by its sum along the last axis."
    got = stable_softmax(given := scores.clone())
    expect(got, scores.softmax(dim=-1), "scores of shape (2, 5, 3)", hint)
    unchanged = torch.equal(given, scores)
    require(unchanged, "the scores passed in stay as they are", "Do not compute in place.")
    scores = torch.tensor([[1000.0, 999.0, 0.0], [-1000.0, -1000.0, -1001.0]])
    hint = "Subtract the maximum of each row before exp, not that of the whole table."
    expect(stable_softmax(scores), scores.softmax(dim=-1), f"{scores.tolist()}", hint)
    inf = float("inf")
    scores = torch.tensor([[0.0, -inf, 0.0], [-inf, -inf, -inf]])
    expected = torch.tensor([[0.5, 0.0, 0.5], [0.0, 0.0, 0.0]])
    hint = "A row in which all is masked becomes zeros; minus infinity minus itself is nan."
    expect(stable_softmax(scores), expected, f"{scores.tolist()}", hint)


@checked
def check_attention_mask(attention_mask):
    """As many queries as keys, and a chunk after a cache."""
    expected = torch.tensor([[True, False, False], [True, True, False], [True, True, True]])
    hint = "A query sees itself and what came before. True means: may attend."
    expect(attention_mask(3, 3), expected, "attention_mask(3, 3)", hint)
    expected = torch.tensor([[True, True, True, False], [True, True, True, True]])
    hint = "The queries are the last of the keys: the triangle ends in the bottom right corner."
    expect(attention_mask(2, 4), expected, "attention_mask(2, 4)", hint)
    for n_queries, n_keys in ((1, 5), (5, 7), (1, 1)):
        asked = f"attention_mask({n_queries}, {n_keys})"
        expect(attention_mask(n_queries, n_keys), causal_mask(n_queries, n_keys), asked, hint)


@checked
def check_window_mask(window_mask):
    """Windows of one token, of two, and wider than the text."""
    hint = "A window of 1 is the token itself; a window of 2 adds the one before."
    for n, window in ((5, 1), (5, 2), (7, 3), (5, 11)):
        expected = torch.tensor([[0 <= i - j < window for j in range(n)] for i in range(n)])
        expect(window_mask(n, window), expected, f"window_mask({n}, {window})", hint)


@checked
def check_attend(attend):
    """Queries of zeros, then against torch: a text, a chunk after a cache, and large scores."""
    v = torch.tensor([[2.0], [4.0], [6.0]])
    hint = "All scores are 0, so each token takes the mean of what the mask allows."
    asked = "queries of zeros, and the values 2, 4 and 6"
    expect(
        attend(torch.zeros(3, 2), _randn(3, 2), v), torch.tensor([[2.0], [3.0], [4.0]]), asked, hint
    )
    q, k = torch.tensor([[0.0] * 4, [2.0] * 4]), torch.tensor([[1.0] * 4, [0.0] * 4])
    expected = torch.tensor([[1.0, 0.0], [math.exp(4), 1.0]])
    expected /= expected.sum(dim=1, keepdim=True)
    hint = "The product 8 is divided by the root of the width of q, 2; then softmax along the keys."
    expect(attend(q, k, torch.eye(2)), expected, "scores of 4 and 0 in the second row", hint)
    for T, S, hint in (
        (
            5,
            5,
            "Products, scale, mask, softmax, times v. The width of v plays no part in the scale.",
        ),
        (3, 7, "The queries are the last of the keys: query t may see the keys up to S - T + t."),
    ):
        q, k, v = _randn(T, 2), _randn(S, 2, seed=1), _randn(S, 11, seed=2)
        expected = F.scaled_dot_product_attention(q, k, v, causal_mask(T, S))
        expect(attend(q, k, v), expected, f"q ({T}, 2), k ({S}, 2), v ({S}, 11)", hint)
    q, k, v = 1e3 * _randn(5, 2), 1e3 * _randn(5, 2, seed=1), _randn(5, 3, seed=2)
    expected = F.scaled_dot_product_attention(q, k, v, causal_mask(5))
    expect(attend(q, k, v), expected, "queries and keys in the thousands", "A stable softmax.")


@checked
def check_multi_head(multi_head):
    """Against the sum over the heads of what each writes through its own rows of W_o."""
    T, C, H, D = 7, 11, 3, 5
    x, W_o = _randn(T, C), _randn(H * D, C, seed=4)
    W_q, W_k, W_v = (_randn(H, C, D, seed=s) for s in (1, 2, 3))
    expected = torch.zeros(T, C)
    for h in range(H):
        q, k, v = x @ W_q[h], x @ W_k[h], x @ W_v[h]
        head = F.scaled_dot_product_attention(q, k, v, causal_mask(T))
        expected += head @ W_o[h * D : (h + 1) * D]
    hint = (
        "attend(x W_q, x W_k, x W_v) with the matrices of each head; the heads side by side along "
        "the width, head 0 first; all that times W_o."
    )
    asked = "x (7, 11), W_q, W_k, W_v (3, 11, 5), W_o (15, 11)"
    # Scores of size 10 and sums in another order: more rounding than the default allows.
    expect(multi_head(x, W_q, W_k, W_v, W_o), expected, asked, hint, tolerance=1e-3)


@checked
def check_grouped_attention(grouped_attention):
    """Against torch, with groups of one head, of several, and of all."""
    B, H, T, S, D = 2, 6, 5, 7, 3
    for K in (6, 3, 1):
        q, k, v = _randn(B, H, T, D), _randn(B, K, S, D, seed=1), _randn(B, K, S, D, seed=2)
        expected = F.scaled_dot_product_attention(q, k, v, causal_mask(T, S), enable_gqa=True)
        hint = "Query heads 0 to H/K - 1 share key head 0. The mask is causal, scores are scaled."
        expect(grouped_attention(q, k, v), expected, f"H = 6, K = {K}, T = 5, S = 7", hint)
    q, k, v = _randn(1, 8, 1, 16), _randn(1, 2, 512, 16), _randn(1, 2, 512, 16, seed=2)
    with LargestTensor() as largest:
        grouped_attention(q, k, v)
    what = f"no tensor is made that is larger than the keys; here one has {largest.n_bytes:,} bytes"
    hint = "Even an axis that broadcasts is copied by `@`. Let a group's queries be more rows."
    require(largest.n_bytes <= k.nbytes, what, hint)


@checked
def check_rotary_complex(rotary_complex):
    """Position 0, one pair by hand, then the book's rotary positions, in any order."""
    x = _randn(3, 4)
    expect(rotary_complex(x, torch.tensor([0, 0, 0]), 100.0), x, "position 0", "It turns nothing.")
    got = rotary_complex(torch.tensor([[1.0, 0.0]]), torch.tensor([2]), 100.0)
    expected = torch.tensor([[math.cos(2), math.sin(2)]])
    hint = "The first pair has the speed 1. It turns forwards: times e^(i * angle)."
    expect(got, expected, "the arrow (1, 0) at position 2", hint)
    for D, theta in ((2, 10_000.0), (10, 10_000.0), (6, 100.0)):
        x, positions = _randn(5, D), torch.tensor([0, 3, 1, 17, 2])
        cos, sin = rope_cache(D, 18, theta)
        expected = apply_rope(x[None, None], cos[positions], sin[positions])[0, 0]
        hint = "Columns c and c + D/2 make one number; its speed is theta ** (-2c / D)."
        expect(rotary_complex(x, positions, theta), expected, f"D = {D}, theta = {theta}", hint)


@checked
def check_alibi(alibi):
    """One head by hand, and eight heads with the slopes of the paper."""
    got = alibi(1, 3)
    inf, s = float("inf"), 2.0**-8
    expected = torch.tensor([[[0.0, -inf, -inf], [-s, 0.0, -inf], [-2 * s, -s, 0.0]]])
    hint = (
        "One table for each head, (H, n, n): minus slope times distance for the past, and minus "
        "infinity for what comes later, above the diagonal. With one head the slope is 2 ** -8."
    )
    expect(got, expected, "alibi(1, 3)", hint)
    hint = "The slopes for 8 heads are 1/2, 1/4, ..., 1/256, the steepest first."
    expect(alibi(8, 5), solutions.alibi(8, 5), "alibi(8, 5)", hint)


@checked
def check_cache_bytes(cache_bytes):
    """GPT-2's smallest model, and Llama 3 8B."""
    hint = "A key and a value, in every layer, for every key/value head and token."
    for name, sizes, expected in (
        (
            "GPT-2: 12 layers, 12 heads of 64, 1,024 tokens, 4 B",
            (12, 12, 64, 1024, 4),
            75497472,
        ),
        ("Llama 3 8B: 32, 8 of 128, 8,192 tokens, 2 bytes", (32, 8, 128, 8192, 2), 2**30),
        ("1 layer, 1 head of 1, 1 token, 1 byte", (1, 1, 1, 1, 1), 2),
    ):
        expect(cache_bytes(*sizes), expected, name, hint)


@checked
def check_decode_step(decode_step):
    """Token by token equals all at once, and the cache holds what it should."""
    T, C, D = 5, 7, 3
    x = _randn(T, C)
    W_q, W_k, W_v = (_randn(C, D, seed=s) / C**0.5 for s in (1, 2, 3))
    whole = F.scaled_dot_product_attention(x @ W_q, x @ W_k, x @ W_v, is_causal=True)
    cache = None
    for t in range(T):
        result = decode_step(x[t], W_q, W_k, W_v, cache)
        hint = "Return two things: the output and the pair (keys, values)."
        require(isinstance(result, tuple) and len(result) == 2, "a pair comes back", hint)
        out, cache = result
        hint = "The new query sees the keys of the cache and its own, and needs no mask."
        expect(out, whole[t], f"the output for token {t}", hint)
        hint = "The cache is a pair: all keys so far, all values so far, oldest first."
        expect(cache, (x[: t + 1] @ W_k, x[: t + 1] @ W_v), f"the cache after token {t}", hint)


@checked
def check_merge_parts(merge_parts):
    """Two parts of a row of keys, in either order, and scores far apart."""
    scores, v = _randn(3, 7), _randn(7, 2, seed=1)
    scores[1] += torch.tensor([500.0] * 4 + [0.0] * 3)

    def part(a, b):
        m = scores[:, a:b].amax(dim=1)
        weights = (scores[:, a:b] - m[:, None]).exp()
        return m, weights.sum(dim=1), weights @ v[a:b]

    hint = "Multiply the sum and the output of each part by e^(its maximum - the new maximum)."
    for one, other in (((0, 4), (4, 7)), ((4, 7), (0, 4))):
        got = merge_parts(part(*one), part(*other))
        asked = f"keys {one} with keys {other}"
        require(
            isinstance(got, tuple) and len(got) == 3, f"{asked}: three things come back", "m, l, o."
        )
        for name, mine, right in zip(("maximum", "sum", "output"), got, part(0, 7), strict=True):
            expect(mine, right, f"the {name} of {asked}", hint)
    hint = "At the end, output / sum must be the attention."
    _, total, out = merge_parts(merge_parts(part(0, 2), part(2, 5)), part(5, 7))
    expect(out / total[:, None], scores.softmax(dim=1) @ v, "three parts", hint)


@checked
def check_future_leaks(future_leaks):
    """A causal layer, one without a mask, one that looks a single token ahead."""
    x = _randn(7, 3)

    def causal(x):
        return solutions.attend(x, x, x)

    def unmasked(x):
        return F.scaled_dot_product_attention(x, x, x)

    def one_ahead(x):  # ... but never at the last token
        out = causal(x)
        out[2] = out[2] + x[3]
        return out

    def own_token_only(x):
        return 2 * x

    for layer, leaks in ((causal, False), (own_token_only, False), (unmasked, True)):
        hint = "Change a token and see whether an output before it changes."
        expect(future_leaks(layer, x.clone()), leaks, f"the layer {layer.__name__!r}", hint)

    def centred(x):  # blind to what is added to all the numbers of a token
        return unmasked(x - x.mean(dim=-1, keepdim=True))

    whole = torch.randint(-9, 9, (7, 4), generator=torch.Generator().manual_seed(0)).float()
    hint = "A layer may subtract the mean of a token: change its numbers by different amounts."
    expect(future_leaks(centred, whole), True, "the layer 'centred'", hint)
    hint = "Change every token in turn: a leak may be anywhere. Outputs after it may change."
    expect(future_leaks(one_ahead, x.clone()), True, "the layer 'one_ahead'", hint)
