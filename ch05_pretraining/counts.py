"""A model that only counts: how often has each token followed these few? And how to ask it too.

Chapter 1 counts bytes and mixes short and long contexts by a rule of 1991. This is the better rule
of 1995, for tokens of any vocabulary. It needs seconds where a network needs minutes, and it errs
elsewhere: it knows by heart what was said before, and nothing of what is like it. So the mean of
the two is better than either.

Shapes: N ids to count in, M ids to predict, P = N + M places, S grams seen, G kinds of gram.

Sources: Kneser and Ney 1995, "Improved Backing-off for M-gram Language Modeling"; Chen and Goodman
1999, "An Empirical Study of Smoothing Techniques for Language Modeling", sections 3 and 4 (the
discounts, and that this rule is the best of many).
"""

import numpy as np
from jaxtyping import Float, Integer

__all__ = ["counted_probabilities"]


def counted_probabilities(
    train_ids: Integer[np.ndarray, "N"],
    val_ids: Integer[np.ndarray, "M"],
    vocab_size: int,
    order: int,
) -> Float[np.ndarray, "M"]:
    """The probability of each of `val_ids` after the `order` - 1 ids before it.

    Of every count a little is taken off, and what is saved goes to the model one token shorter. A
    shorter model does not ask how often a token came, but after how many different tokens: "York"
    is frequent, yet comes after "New" alone, so nobody expects it after another word.

    Raises:
        ValueError: if `order` is below 1, there are fewer ids to count in, or one is outside the
            vocabulary.
    """
    n = len(train_ids)
    if not 1 <= order <= n:
        raise ValueError(f"the order is {order}, must be from 1 to the {n} ids to count in")
    ids = np.concatenate([train_ids, val_ids]).astype(np.int64)
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise ValueError(f"ids from {ids.min()} to {ids.max()} in a vocabulary of {vocab_size}")
    contexts, grams = [np.zeros(len(ids), dtype=np.int64)], []
    for _ in range(order):  # number the runs of 1, 2, ... `order` ids that end at each place
        _, gram = np.unique(contexts[-1] * vocab_size + ids, return_inverse=True)
        grams.append(gram)
        contexts.append(np.concatenate([[0], gram[:-1] + 1]))  # 0: before the first id is nothing
    p = np.full(len(val_ids), 1 / vocab_size)
    for k in range(order):
        seen = grams[k][:n]
        if k + 1 < order:  # each longer run counts once, however often it came
            seen = seen[np.unique(grams[k + 1][:n], return_index=True)[1]]
        p = _one_token_longer(p, seen, grams[k], contexts[k], n)
    return p


def _one_token_longer(
    shorter: Float[np.ndarray, "M"],
    seen: Integer[np.ndarray, "S"],
    gram: Integer[np.ndarray, "P"],
    context: Integer[np.ndarray, "P"],
    n: int,
) -> Float[np.ndarray, "M"]:
    """Discounted counts of `seen` grams, and for what was taken off the probability `shorter`."""
    count = np.bincount(seen, minlength=gram.max() + 1)
    discount = _discounts(count)[np.minimum(count, 3)]
    context_of = np.zeros(len(count), dtype=np.int64)
    context_of[gram] = context
    size = context.max() + 1
    total = np.bincount(context_of, count, size)[context[n:]]
    saved = np.bincount(context_of, discount, size)[context[n:]]
    kept = (count - discount)[gram[n:]]
    return np.where(total > 0, (kept + saved * shorter) / np.maximum(total, 1), shorter)


def _discounts(count: Integer[np.ndarray, "G"]) -> Float[np.ndarray, "4"]:
    """What is taken off a count of 0, 1, 2, and 3 or more: Chen and Goodman 1999, equation 26."""
    n1, n2, n3, n4 = (max(1, int((count == times).sum())) for times in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2)
    discounts = np.array([0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return discounts.clip(0, [0, 1, 2, 3])
