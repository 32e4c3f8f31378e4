"""Checks of the exercises of the appendix: `check_x(x)` says whether x is right, or why not."""

import math

import torch

from appendix_performance import solutions
from ch01_overview.checking import checked, expect, require

__all__ = [
    "check_accepted_drafts",
    "check_attainable",
    "check_decode_bits",
    "check_lookup_draft",
    "check_next_scale",
    "check_quantize_rows",
    "check_recompute_gradient",
    "check_residual",
    "check_ring_all_reduce",
    "check_tensor_parallel",
    "check_zero_bytes",
]


def _randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@checked
def check_attainable(attainable):
    """Under the slope, under the roof, and at the corner."""
    hint = "Computing and fetching go on at the same time: the slower of the two decides."
    for arguments, expected in (
        ((2.0, 4.0, 100.0, 10.0), 5.0),
        ((2000.0, 4.0, 100.0, 10.0), 100.0),
        ((40.0, 4.0, 100.0, 10.0), 100.0),
        ((7.0, 11.0, 1000.0, 3.0), 21 / 11),
    ):
        expect(attainable(*arguments), expected, f"attainable{arguments}", hint)


@checked
def check_decode_bits(decode_bits):
    """Ordinary numbers, those near zero, infinities and no numbers."""
    hint = "(-1)^sign times 2^(exponent - bias) times 1.fraction; the bias is 2^(n - 1) - 1."
    for pattern, n, expected in (
        ("01000100", 4, 3.0),
        ("11000100", 4, -3.0),
        ("00111", 2, 1.75),
        ("0011110000000000", 5, 1.0),
        ("0100001010000000", 8, 64.0),
    ):
        expect(decode_bits(pattern, n), expected, f"decode_bits({pattern!r}, {n})", hint)
    hint = "With exponent 0 there is no leading one, and the power is that of exponent 1."
    for pattern, expected in (("00000001", 2.0**-9), ("00000111", 7 * 2.0**-9), ("00000000", 0.0)):
        asked = f"decode_bits({pattern!r}, 4)"
        expect(decode_bits(pattern, 4), expected, asked, hint, tolerance=1e-12)
    hint = "The highest exponent means infinity with fraction 0, and no number otherwise."
    expect(decode_bits("11111000", 4), -math.inf, "decode_bits('11111000', 4)", hint)
    expect(decode_bits("01111010", 4), math.nan, "decode_bits('01111010', 4)", hint)


@checked
def check_next_scale(next_scale):
    """A run of good steps, an overflow in the middle, and an overflow when a rise was due."""
    hint = "Halve after an overflow; double after `interval` good steps in a row; then count anew."
    scale, n_good, told = 16.0, 0, []
    wanted = [(16.0, 1), (16.0, 2), (32.0, 0), (32.0, 1), (16.0, 0), (16.0, 1), (16.0, 2)]
    wanted += [(8.0, 0), (8.0, 1), (8.0, 2), (16.0, 0)]
    for overflow, expected in zip("gggggggoggg".replace("ggggg", "ggggo", 1), wanted, strict=True):
        told.append(overflow)
        got = next_scale(scale, n_good, overflow == "o", 3)
        expect(got, expected, f"steps {''.join(told)} (g good, o overflow), interval 3", hint)
        scale, n_good = expected


@checked
def check_zero_bytes(zero_bytes):
    """All four stages, for seven weights and four processes."""
    hint = "Stage 1 shares the optimizer's 8 bytes, stage 2 the gradients' 4, stage 3 the weights'."
    for stage, expected in enumerate((112.0, 70.0, 49.0, 28.0)):
        got = float(zero_bytes(7, 4, stage))
        expect(got, expected, f"zero_bytes(7, 4, {stage})", hint)
    expect(float(zero_bytes(5, 1, 3)), 80.0, "zero_bytes(5, 1, 3)", "Alone, one has it all.")


@checked
def check_recompute_gradient(recompute_gradient):
    """Against autograd, with recording switched off, and without touching what is passed in."""
    x, w, grad_y = _randn(5, 3), _randn(3, 7, seed=1), _randn(5, 7, seed=2)

    def run(x):
        return torch.tanh(x @ w) ** 2

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(run(leaf), leaf, grad_y)
    hint = (
        "Run again on a copy that requires a gradient, then torch.autograd.grad(y, copy, grad_y)."
    )
    expect(recompute_gradient(run, x, grad_y), expected, "run = tanh(x w)²", hint)
    with torch.no_grad():
        hint = "A backward pass runs without recording: switch it on with torch.enable_grad()."
        got = recompute_gradient(run, x, grad_y)
    expect(got, expected, "the same inside torch.no_grad()", hint)
    hint = "Work on x.detach(), so that x keeps its own flag and gets no gradient."
    require(not x.requires_grad and x.grad is None, "x stays as it was", hint)
    deep = (2 * leaf).requires_grad_()
    leaf.grad = None
    expect(recompute_gradient(run, deep, grad_y).shape, x.shape, "an x inside a graph", hint)
    require(leaf.grad is None, "nothing flows to what x was made of", hint)


@checked
def check_quantize_rows(quantize_rows):
    """By hand, a row of zeros, and random rows of very different sizes."""
    hint = "The scale is the row's largest absolute value over 127; round, then to int8."
    weights = torch.tensor([[0.5, -1.27, 0.02], [0.0, 0.0, 0.0]])
    got = quantize_rows(weights)
    pair = isinstance(got, tuple) and len(got) == 2
    require(pair, "it should return a pair", "The whole numbers, and the scales.")
    numbers = torch.tensor([[50, -127, 2], [0, 0, 0]], dtype=torch.int8)
    expect(got[0], numbers, f"the numbers of {weights.tolist()}", hint)
    hint = "A row of zeros has no largest value to divide by: give it the scale 1."
    expect(got[1], torch.tensor([0.01, 1.0]), f"the scales of {weights.tolist()}", hint)
    weights = _randn(5, 11) * torch.tensor([0.01, 1.0, 100.0, 3.0, 1e-4])[:, None]
    expected = solutions.quantize_rows(weights)
    hint = "One scale for each row. Round to the nearest: .to(torch.int8) alone cuts off."
    expect(quantize_rows(weights)[0], expected[0], "the numbers of rows of many sizes", hint)
    expect(quantize_rows(weights)[1], expected[1], "the scales of rows of many sizes", hint)


@checked
def check_accepted_drafts(accepted_drafts):
    """All accepted, a rejection in the middle, and a good token after a bad one."""
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    q = torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.3, 0.3], [0.1, 0.1, 0.8]])
    hint = "Draft i is accepted if uniforms[i] < p / q of its token; p above q is always accepted."
    for tokens, uniforms, expected in (
        ([1, 1, 1], [0.99, 0.99, 0.99], 3),
        ([0, 0, 2], [0.71, 0.24, 0.74], 3),
        ([0, 1, 2], [0.72, 0.0, 0.0], 0),
        ([1, 0, 1], [0.5, 0.26, 0.0], 1),
        ([2, 1, 2], [0.9, 0.9, 0.76], 2),
        ([], [], 0),
    ):
        asked = f"tokens {tokens}, uniforms {uniforms}"
        got = accepted_drafts(p, q, tokens, uniforms)
        more = (
            hint
            if expected == 3
            else "Stop at the first that is rejected: those after it are void."
        )
        expect(got, expected, asked, more)


@checked
def check_residual(residual):
    """By hand, a draft that is certain, and two equal distributions."""
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.7, 0.2, 0.1])
    hint = "max(0, p - q), divided by its sum."
    expect(residual(p, q), torch.tensor([0.0, 0.5, 0.5]), "p = .5 .3 .2, q = .7 .2 .1", hint)
    sure = torch.tensor([1.0, 0.0, 0.0])
    expect(residual(p, sure), torch.tensor([0.0, 0.6, 0.4]), "q certain of the first", hint)
    p, q = _randn(11).softmax(0), _randn(11, seed=1).softmax(0)
    mixed = torch.minimum(p, q)
    mixed = mixed + (1 - mixed.sum()) * residual(p, q)
    expect(mixed, p, "min(p, q) + P(rejection) x residual", "It must give p again.")
    hint = "Equal distributions leave no excess, and 0 / 0 is no number: return p."
    expect(residual(p, p), p, "q = p", hint)


@checked
def check_lookup_draft(lookup_draft):
    """The longest match, the latest of several, and texts without any."""
    hint = "Longest endings first; of equal ones the latest; propose what followed."
    for text, longest, n, expected in (
        ([7, 8, 1, 9, 8, 2, 7, 8], 2, 3, [1, 9, 8]),
        ([7, 8, 1, 9, 8, 2, 7, 8], 1, 3, [2, 7, 8]),
        ([7, 8, 1, 7, 8, 3, 7, 8], 2, 1, [3]),
        ([4, 5, 6], 3, 2, []),
        ([5, 5, 5], 3, 2, [5]),
        ([3], 3, 2, []),
    ):
        got = lookup_draft(list(text), longest, n)
        expect(got, expected, f"lookup_draft({text}, {longest}, {n})", hint)


@checked
def check_ring_all_reduce(ring_all_reduce):
    """Two, three and five processes."""
    for n in (2, 3, 5):
        vectors = [[float(10 * k + i * i) for i in range(n)] for k in range(n)]
        kept = [list(vector) for vector in vectors]
        got = ring_all_reduce(vectors)
        hint = "Return two things: the vectors afterwards, and the pieces that each process sent."
        require(isinstance(got, tuple) and len(got) == 2, "it should return a pair", hint)
        hint = "The first of the pair is a list of vectors, one for each process."
        vectors_too = isinstance(got[0], list) and all(isinstance(v, list) for v in got[0])
        require(vectors_too, "all vectors should come back", hint)
        sums = [sum(vector[i] for vector in kept) for i in range(n)]
        hint = "Adding takes n - 1 rounds, handing the finished pieces on another n - 1."
        expect(got[0], [sums] * n, f"{n} processes", hint)
        hint = "In every round each process sends one piece, in 2 (n - 1) rounds."
        expect(got[1], 2 * (n - 1), f"pieces sent by each of {n}", hint)
        require(vectors == kept, "the vectors passed in stay as they are", "Copy them first.")


@checked
def check_tensor_parallel(tensor_parallel):
    """Two and three processes: the sum is the whole layer, and no part is."""
    x, up, down = _randn(5, 7), _randn(7, 12, seed=1), _randn(12, 11, seed=2)
    whole = torch.relu(x @ up) @ down
    for n in (1, 2, 3):
        got = tensor_parallel(x, up, down, n)
        require(isinstance(got, list), "it should return a list", "One output for each process.")
        hint = "One output for each process, all of the shape of the result."
        expect([tuple(part.shape) for part in got], [(5, 11)] * n, f"shapes, n = {n}", hint)
        hint = "Columns of `up` go with the rows of `down` of the same numbers."
        expect(sum(got), whole, f"the sum of {n} parts", hint, tolerance=1e-4)
        for i, (part, right) in enumerate(
            zip(got, solutions.tensor_parallel(x, up, down, n), strict=True)
        ):
            hint = "Process i has the i-th share of the widened row, and no other."
            expect(part, right, f"part {i} of {n}", hint, tolerance=1e-4)
