"""Checks of the exercises of chapter 1: `check_x(x)` says whether x is right, or why not."""

import math

import numpy as np

from ch01_overview import solutions
from ch01_overview.checking import checked, expect, require

__all__ = [
    "check_bits_per_byte",
    "check_cross_entropy",
    "check_entropy",
    "check_held_out_loss",
    "check_letter_bits",
    "check_numeric_gradient",
    "check_paired_difference",
    "check_perplexity",
    "check_sample",
    "check_softmax_gradient",
    "check_with_temperature",
    "check_witten_bell",
]

UNCHANGED = "Arrays are passed as they are, not copied: make a new one instead of changing it."


@checked
def check_bits_per_byte(bits_per_byte):
    """Three tokens on thirteen bytes; one nat on one byte."""
    asked = "bits_per_byte(nats_per_token={}, n_tokens={}, n_bytes={})"
    for nats, n_tokens, n_bytes, expected in (
        (math.log(2), 3, 13, 3 / 13),
        (1.0, 1, 1, 1 / math.log(2)),
        (2.5, 700, 1100, 2.5 * 700 / 1100 / math.log(2)),
    ):
        hint = "Total nats are nats per token times tokens; a nat is more than a bit."
        got = bits_per_byte(nats, n_tokens, n_bytes)
        expect(got, expected, asked.format(round(nats, 3), n_tokens, n_bytes), hint)


@checked
def check_perplexity(perplexity):
    """By hand, and on a text so long that its probability is no longer a number."""
    expect(perplexity([0.5, 0.25, 1.0]), 2.0, "perplexity([0.5, 0.25, 1.0])", "exp(mean loss).")
    expect(perplexity([0.2] * 7), 5.0, "perplexity([0.2] * 7)", "Divide by the number of tokens.")
    hint = "The exponential of the mean of -log(p), over all tokens: not of the one in the middle."
    asked = "perplexity([0.5, 0.125, 1, 1])"
    expect(perplexity([0.5, 0.125, 1.0, 1.0]), 2.0, asked, hint)
    hint = "The product of 2,000 probabilities is too small for a float: add logarithms."
    expect(perplexity([0.001] * 2000), 1000.0, "perplexity([0.001] * 2000)", hint)


@checked
def check_entropy(entropy):
    """By hand, with an outcome that is impossible, with a certain one."""
    hint = "The mean of -log2(p), each p weighted by itself."
    expect(entropy([0.75, 0.25]), 0.8112781244591328, "entropy([0.75, 0.25])", hint)
    expect(entropy([1 / 16] * 16), 4.0, "entropy([1/16] * 16)", hint)
    hint = "What never happens adds nothing: leave out p = 0."
    expect(entropy([0.5, 0.0, 0.5]), 1.0, "entropy([0.5, 0.0, 0.5])", hint)
    expect(entropy([1.0]), 0.0, "entropy([1.0])", hint)


@checked
def check_letter_bits(letter_bits):
    """The pencil example of the chapter, then weights that differ."""
    even = dict.fromkeys(["badger", "bear", "beaver", "deer"], 0.25)
    hint = "Compare the total weight of the pieces that fit before a letter and after it."
    expected = [math.log2(4 / 3), math.log2(3 / 2), 0.0, 1.0]
    expect(letter_bits(even, "bear"), expected, "letter_bits(even weights, 'bear')", hint)
    uneven = {"owl": 0.5, "otter": 0.2, "ox": 0.05, "hen": 0.25}
    hint = "Add up weights, not numbers of pieces."
    got = letter_bits(uneven, "otter")
    expected = solutions.letter_bits(uneven, "otter")
    expect(got, expected, f"letter_bits({uneven}, 'otter')", hint)
    within = {"owl": 0.5, "bowl": 0.25, "hen": 0.25}
    hint = "A piece fits if it *begins* with the letters so far; to contain them is not enough."
    expect(letter_bits(within, "owl"), [1.0, 0.0, 0.0], f"letter_bits({within}, 'owl')", hint)
    hint = "The bits of a piece's letters add up to -log2 of its weight."
    total = sum(letter_bits(uneven, "hen"))
    expect(float(total), 2.0, "the sum of letter_bits for a piece of weight 0.25", hint)


@checked
def check_cross_entropy(cross_entropy):
    """Against PyTorch, by way of the solution; then scores that overflow."""
    rng = np.random.default_rng(0)
    scores, targets = rng.normal(size=(7, 5)), rng.integers(5, size=7)
    hint = "The mean over rows of: log of the sum of exp(row), minus the score of the target."
    expected, before = solutions.cross_entropy(scores, targets), scores.copy()
    expect(cross_entropy(scores, targets), expected, "cross_entropy(7 rows of 5 scores)", hint)
    require(np.array_equal(scores, before), "`scores` was changed", UNCHANGED)
    hint = "exp(1000) is infinite: subtract each row's own largest score first."
    large = np.array([[1000.0, 999.0, 0.0], [-1000.0, -1000.0, -1001.0]])
    with np.errstate(all="ignore"):
        got = cross_entropy(large, np.array([1, 0]))
    expected = solutions.cross_entropy(large, np.array([1, 0]))
    expect(got, expected, "cross_entropy of scores near 1000 and -1000", hint)
    hint = "The log of a power that became 0 is lost: log sum exp(row), minus the target's score."
    with np.errstate(all="ignore"):
        got = cross_entropy(np.array([[1000.0, 0.0]]), np.array([1]))
    expect(got, 1000.0, "cross_entropy([[1000, 0]], [1])", hint)


@checked
def check_softmax_gradient(softmax_gradient):
    """By hand for one row, then several, against quotients of differences."""
    third = 1 / 3
    hint = "What was predicted, minus what happened."
    got = softmax_gradient(np.zeros((1, 3)), np.array([1]))
    expected = np.array([[third, third - 1, third]])
    expect(got, expected, "softmax_gradient([[0, 0, 0]], [1])", hint)
    rng = np.random.default_rng(1)
    scores, targets = rng.normal(size=(7, 5)), np.array([0, 3, 4, 1, 1, 2, 0])
    expected = solutions.numeric_gradient(lambda x: solutions.cross_entropy(x, targets), scores)
    hint = "The loss is the mean over the rows, so each row's gradient is divided by their number."
    before = scores.copy()
    got = softmax_gradient(scores, targets)
    expect(got, expected, "softmax_gradient(7 rows of 5 scores)", hint, tolerance=1e-6)
    require(np.array_equal(scores, before), "`scores` was changed", UNCHANGED)


@checked
def check_numeric_gradient(numeric_gradient):
    """Known derivatives in one to three dimensions, a large h; x must stay as it was."""
    x = np.array([[0.5, -1.0, 2.0], [1.5, 0.0, -0.5]])
    before = x.copy()
    got = numeric_gradient(lambda a: float((a**3).sum()), x)
    hint = "Move one number up and down by h, and divide the change of f by 2h."
    expect(got, 3 * before**2, "numeric_gradient(sum of cubes, x)", hint, tolerance=1e-7)
    require(
        np.array_equal(x, before),
        "x was changed",
        "Move a copy, or keep the old value and put it back.",
    )
    got = numeric_gradient(lambda a: float(np.exp(a[0, 0] * a[1, 2])), x, h=1e-4)
    expected = np.zeros((2, 3))
    product = math.exp(before[0, 0] * before[1, 2])
    expected[0, 0], expected[1, 2] = before[1, 2] * product, before[0, 0] * product
    expect(got, expected, "numeric_gradient(exp(x00 * x12), x, h=1e-4)", hint, tolerance=1e-7)
    hint = "With the h that is given, the quotient of x³ is 3x² + h²."
    for shape in ((5,), (2, 3, 5)):
        x = np.random.default_rng(4).normal(size=shape)
        got = numeric_gradient(lambda a: float((a**3).sum()), x, h=0.1)
        asked = f"numeric_gradient(sum of cubes, x of shape {shape}, h=0.1)"
        expect(got, 3 * x**2 + 0.01, asked, hint, tolerance=1e-7)


@checked
def check_held_out_loss(held_out_loss):
    """By hand on a table of two, then with k = 0: where something unseen happens, and where not."""
    train, val = np.array([[3, 1], [2, 2]]), np.array([[1, 1], [0, 2]])
    rows = "P(b | a) is (count + k) / (row sum + k V), and the mean is over the held-out pairs."
    expected = -(math.log2(4 / 6) + math.log2(2 / 6) + 2 * math.log2(3 / 6)) / 4
    expect(held_out_loss(train, val, 1), expected, "held_out_loss(train, val, k=1)", rows)
    expected = -(math.log2(3.5 / 5) + math.log2(1.5 / 5) + 2 * math.log2(2.5 / 5)) / 4
    expect(held_out_loss(train, val, 0.5), expected, "held_out_loss(train, val, k=0.5)", rows)
    rng = np.random.default_rng(2)
    train, val = rng.integers(1, 9, size=(7, 7)), rng.integers(0, 3, size=(7, 7))
    expected = solutions.held_out_loss(train, val, 0.3)
    expect(held_out_loss(train, val, 0.3), expected, "held_out_loss(7 characters, k=0.3)", rows)
    unseen = np.array([[0, 5], [5, 5]])
    with np.errstate(all="ignore"):
        got = held_out_loss(unseen, np.array([[1, 0], [0, 0]]), 0)
    expect(got, math.inf, "held_out_loss when an unseen pair happens and k = 0", rows)
    for train, val, expected, hint in (
        ([[1, 0], [1, 1]], [[1, 0], [0, 1]], 0.5, "What never happens must not be charged."),
        ([[0, 0], [1, 1]], [[1, 0], [0, 0]], math.inf, "A row never seen foresees nothing."),
    ):
        with np.errstate(all="ignore"):
            got = held_out_loss(np.array(train), np.array(val), 0)
        expect(got, expected, f"held_out_loss({train}, {val}, k=0)", hint)


@checked
def check_sample(sample):
    """Inside the pieces, on their edges, at 0 before a piece of length 0, and next to 1."""
    p = np.array([0.0, 0.25, 0.5, 0.0, 0.25])
    for u, expected in ((0.1, 1), (0.3, 2), (0.7, 2), (0.8, 4), (0.999, 4)):
        _expect_index(sample(p, u), expected, f"sample({p.tolist()}, {u})")
    _expect_index(sample(p, 0.0), 1, f"sample({p.tolist()}, 0.0)")
    _expect_index(sample(p, 0.25), 2, f"sample({p.tolist()}, 0.25)")
    _expect_index(sample(p, 0.75), 4, f"sample({p.tolist()}, 0.75)")
    hint = "Ten times 0.1 adds up to a little less than 1: scale u to the sum."
    for tenths in (np.full(10, 0.1), np.append(np.full(10, 0.1), 0.0)):
        asked = f"sample({tenths.tolist()}, the largest float below 1)"
        _expect_index(sample(tenths, np.nextafter(1, 0)), 9, asked, hint)


FIRST = "The first outcome whose cumulated probability is above u; one of probability 0 never."


def _expect_index(got, expected: int, asked: str, hint: str = FIRST) -> None:
    require(got is not None, f"{asked} is None", "Did you forget `return`?")
    right_type = isinstance(got, int | np.integer) and not isinstance(got, bool)
    require(right_type, f"{asked} should be an index, got {type(got).__name__}", hint)
    expect(int(got), expected, asked, hint)


@checked
def check_with_temperature(with_temperature):
    """By hand, on scores that overflow, and at temperature 0."""
    scores = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    hint = "softmax(scores / temperature), row by row."
    got = with_temperature(scores, 0.5)
    expected = np.array([[2 / 3, 1 / 6, 1 / 6], [1 / 66, 1 / 66, 64 / 66]])
    expect(got, expected, "with_temperature(log of two rows, 0.5)", hint)
    expect(with_temperature(scores, 1), np.exp(scores), "with_temperature(scores, 1)", hint)
    with np.errstate(all="ignore"):
        got = with_temperature(np.array([[5.0, 1.0], [1.0, 0.0]]), 0.001)
    hint = "5 / 0.001 overflows in exp: subtract each row's own largest score first."
    expect(got, np.eye(2)[[0, 0]], "with_temperature([[5, 1], [1, 0]], 0.001)", hint)
    with np.errstate(all="ignore"):
        got = with_temperature(scores, 0)
    hint = "At temperature 0 the likeliest has all the probability."
    expected = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    expect(got, expected, "with_temperature(scores, 0)", hint)
    with np.errstate(all="ignore"):
        got = with_temperature(np.array([[1.0, 1.0001]]), 0)
    expect(got, np.array([[0.0, 1.0]]), "with_temperature([[1, 1.0001]], 0)", hint)


@checked
def check_paired_difference(paired_difference):
    """Two models whose costs rise and fall together."""
    rng = np.random.default_rng(3)
    n_bytes = rng.integers(200, 900, size=101)
    hard = 0.3 * n_bytes * rng.uniform(0.5, 1.5, size=101)
    better, worse = hard, hard + 0.05 * n_bytes * rng.uniform(0.8, 1.2, size=101)
    expected = solutions.paired_difference(worse, better, n_bytes)
    got = paired_difference(worse, better, n_bytes)
    hint = "First the difference of each text, then the ratio and its error as for the floor."
    expect(got, expected, "paired_difference(worse, better, n_bytes)", hint)
    got = paired_difference(better, worse, n_bytes)
    expected = solutions.paired_difference(better, worse, n_bytes)
    expect(got, expected, "paired_difference(better, worse, n_bytes)", hint)


@checked
def check_witten_bell(witten_bell):
    """On short texts and orders from 1 to 6; tests hold the reference against `ladder`."""
    train, val = "a man ran and an ant sat", "tan ants and a cat"
    mix = "(count + t * P(shorter)) / (n + t); where n is 0, the shorter context alone."
    for order in (1, 2, 3, 6):
        expected = solutions.witten_bell(train, val, order)
        got = witten_bell(train, val, order)
        expect(got, expected, f"witten_bell(train, val, order={order})", mix)
    hint = "Count bytes, not characters: é is two of them."
    expected = solutions.witten_bell("théâtre, café", "été", 3)
    expect(witten_bell("théâtre, café", "été", 3), expected, "witten_bell of French words", hint)
