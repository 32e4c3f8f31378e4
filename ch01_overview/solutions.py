"""Reference answers to the exercises of chapter 1, each with its reasoning."""

import math
from collections import Counter, defaultdict

import numpy as np

__all__ = [
    "bits_per_byte",
    "cross_entropy",
    "entropy",
    "held_out_loss",
    "letter_bits",
    "numeric_gradient",
    "paired_difference",
    "perplexity",
    "sample",
    "softmax_gradient",
    "with_temperature",
    "witten_bell",
]


def bits_per_byte(nats_per_token, n_tokens, n_bytes):
    """Total nats are nats per token times tokens, and a nat is 1 / ln 2 bits."""
    return nats_per_token * n_tokens / math.log(2) / n_bytes


def perplexity(probabilities):
    """The exponential of the mean loss: sums of logarithms do not underflow as products do."""
    return math.exp(-sum(math.log(p) for p in probabilities) / len(probabilities))


def entropy(probabilities):
    """The mean of -log2 p under p; p log p tends to 0 as p does, so what never happens adds 0."""
    return sum(-p * math.log2(p) for p in probabilities if p > 0)


def letter_bits(weights, chosen):
    """P(letter | letters so far) is the weight that fits after it over the weight before it.

    The product of these ratios telescopes to weight of the piece / weight of all, so the bits add
    up to those of the piece, if none begins another.
    """
    bits = []
    for i in range(len(chosen)):
        before = sum(w for piece, w in weights.items() if piece.startswith(chosen[:i]))
        after = sum(w for piece, w in weights.items() if piece.startswith(chosen[: i + 1]))
        bits.append(math.log2(before / after))
    return bits


def cross_entropy(scores, targets):
    """-log softmax(row)[target] = log sum exp(row) - row[target], averaged over the rows.

    Adding a constant to a row changes neither side's difference, so each row is moved to have its
    largest score at 0: then no power exceeds 1 and the sum is at least 1.
    """
    moved = scores - scores.max(axis=-1, keepdims=True)
    log_sums = np.log(np.exp(moved).sum(axis=-1))
    return float((log_sums - moved[np.arange(len(targets)), targets]).mean())


def softmax_gradient(scores, targets):
    """Of one row: what was predicted minus what happened. Of the mean over N rows: that over N."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    gradient = powers / powers.sum(axis=-1, keepdims=True)
    gradient[np.arange(len(targets)), targets] -= 1
    return gradient / len(targets)


def numeric_gradient(f, x, h=1e-5):
    """Each number in turn is moved by h in a copy: the symmetric quotient errs by about h² only."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[index] += h
        down[index] -= h
        gradient[index] = (f(up) - f(down)) / (2 * h)
    return gradient


def held_out_loss(train_counts, val_counts, k):
    """All pairs (a, b) cost the same, so each is charged once and weighted by its held-out count.

    A pair that does not occur in the held-out text must not be charged: 0 times infinity is no
    number. A row that was never seen gives 0 / 0, which is taken for 0: what happens there was
    not foreseen, and costs infinity.
    """
    counts = train_counts + k
    happens = val_counts > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.nan_to_num(counts / counts.sum(axis=1, keepdims=True))
        bits = -np.log2(p[happens])
    return float((val_counts[happens] * bits).sum() / val_counts.sum())


def sample(probabilities, u):
    """Lay the probabilities end to end; the one that u falls into is drawn as often as it is long.

    `side="right"` puts a u on an edge into the piece that begins there, so that a piece of length 0
    is never drawn, not even by u = 0. Rounding may leave the sum a little below 1: u is scaled to
    it, so that it cannot fall behind the end.
    """
    edges = np.cumsum(probabilities)
    return int(np.searchsorted(edges, u * edges[-1], side="right"))


def with_temperature(scores, temperature):
    """softmax(scores / temperature), moved first so that no power exceeds 1.

    As the temperature goes to 0, all powers but the largest vanish: the limit is written down,
    since 0 / 0 would not find it.
    """
    moved = scores - scores.max(axis=-1, keepdims=True)
    if temperature == 0:
        return np.eye(scores.shape[-1])[scores.argmax(axis=-1)]
    powers = np.exp(moved / temperature)
    return powers / powers.sum(axis=-1, keepdims=True)


def paired_difference(bits_a, bits_b, n_bytes):
    """The difference of each text is one observation, so what makes a text hard for both cancels.

    Its ratio to the bytes and the error of that are those of the floor: the residuals' deviation
    over the root of their number and the mean length. Two separate errors would be far too large.
    """
    difference = bits_a - bits_b
    ratio = difference.sum() / n_bytes.sum()
    residuals = difference - ratio * n_bytes
    return float(ratio), float(residuals.std() / math.sqrt(len(n_bytes)) / n_bytes.mean())


def witten_bell(train, val, order):
    """A table of followers for each context of each length; a byte climbs from short to long ones.

    The contexts of the first bytes of `val` reach back into `train`, so both are joined, and only
    what was counted in `train` is used.
    """
    data, start = (train + val).encode(), len(train.encode())
    followers = defaultdict(Counter)
    for end in range(start):
        for length in range(min(order - 1, end) + 1):
            followers[data[end - length : end]][data[end]] += 1
    bits = []
    for end in range(start, len(data)):
        p = 1 / 256
        for length in range(min(order - 1, end) + 1):
            seen = followers.get(data[end - length : end])
            if seen:
                p = (seen[data[end]] + len(seen) * p) / (seen.total() + len(seen))
        bits.append(-math.log2(p))
    return np.array(bits)
