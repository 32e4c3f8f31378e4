"""Checks of the exercises of chapter 5: `check_x(x)` says whether x is right, or why not."""

import math

import torch
from torch.nn import functional as F

from ch01_overview.checking import checked, expect, require
from ch05_pretraining import solutions

__all__ = [
    "check_adamw_step",
    "check_clip",
    "check_combined_gradient",
    "check_cross_entropy",
    "check_fit_power",
    "check_gpu_hours",
    "check_momentum_path",
    "check_never_drawn",
    "check_polar",
    "check_signature",
    "check_windows",
    "check_wsd_rate",
]


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@checked
def check_windows(windows):
    """Lengths that leave a rest, and one where the last target is the last token."""
    hint = "The targets are the inputs moved by one; the last input needs a target too."
    for n, context_length in ((11, 3), (13, 3), (8, 7), (7, 7)):
        ids = torch.arange(n) + 100
        asked = f"windows(torch.arange({n}) + 100, {context_length})"
        expect(windows(ids, context_length), solutions.windows(ids, context_length), asked, hint)


@checked
def check_cross_entropy(cross_entropy):
    """Against torch; with ignored targets; with logits that overflow."""
    logits, targets = _random(7, 5), torch.tensor([0, 4, 2, 2, 1, 3, 0])
    hint = "log of the sum of exp(row), minus the logit of the target; then the mean."
    asked = "cross_entropy(7 rows of 5 logits)"
    expect(cross_entropy(logits, targets), F.cross_entropy(logits, targets), asked, hint)
    targets[[1, 5]] = -100
    hint = "Rows whose target is -100 count neither in the sum nor in the number."
    asked = "cross_entropy with two targets of -100"
    expect(cross_entropy(logits, targets), F.cross_entropy(logits, targets), asked, hint)
    large = torch.tensor([[1000.0, 0.0, 999.0], [-1000.0, -1001.0, -1002.0]])
    targets = torch.tensor([2, 0])
    hint = "exp(1000) is infinite: take each row's own largest logit out first."
    asked = "cross_entropy of logits near 1000 and -1000"
    # near 1000 numbers of float32 are 6e-5 apart
    right = F.cross_entropy(large, targets)
    expect(cross_entropy(large, targets), right, asked, hint, tolerance=2e-4)


@checked
def check_wsd_rate(wsd_rate):
    """By hand: the ends, the corners and the middle; no warm-up; no decay."""
    for arguments, expected in (
        ((0, 1000, 50, 400), 0.02),
        ((49, 1000, 50, 400), 1.0),
        ((300, 1000, 50, 400), 1.0),
        ((600, 1000, 50, 400), 1.0),
        ((800, 1000, 50, 400), 0.5),
        ((999, 1000, 50, 400), 0.0025),
        ((0, 10, 0, 5), 1.0),
        ((9, 10, 3, 0), 1.0),
    ):
        hint = "The least of 1, a line that starts at 1 / warmup, and one that ends at 1 / decay."
        expect(wsd_rate(*arguments), expected, f"wsd_rate{arguments}", hint)


@checked
def check_clip(clip):
    """By hand, below the limit, on several shapes; all zero."""
    got = clip([torch.tensor([3.0, 0.0]), torch.tensor([[0.0], [4.0]])], 1.0)
    expected = [torch.tensor([0.6, 0.0]), torch.tensor([[0.0], [0.8]])]
    hint = "One factor for all: the limit over the length of all gradients end to end."
    expect(got, expected, "clip([[3, 0], [[0], [4]]], 1.0)", hint)
    small = [_random(3, 2) * 0.01, _random(5) * 0.01]
    hint = "What is shorter than the limit stays as it is."
    given = [gradient.clone() for gradient in small]
    expect(clip(given, 1.0), small, "clip(short gradients, 1.0)", hint)
    long = [_random(3, 2) * 10, _random(5) * 10]
    given = [gradient.clone() for gradient in long]
    clip(given, 1.0)
    same = all(map(torch.equal, given, long))
    require(same, "the gradients passed in stay as they are", "Return new tensors.")
    zeros = [torch.zeros(2), torch.zeros(3)]
    expect(clip(zeros, 1.0), zeros, "clip(zeros, 1.0)", "Do not divide by a length of zero.")


@checked
def check_momentum_path(momentum_path):
    """Against torch.optim.SGD, twice; the start must stay as it was."""
    for momentum in (0.0, 0.9):
        start, gradients = _random(5, 3), list(_random(7, 5, 3, seed=1))
        before = start.clone()
        place = start.clone().requires_grad_()
        optimizer = torch.optim.SGD([place], lr=0.03, momentum=momentum)
        for gradient in gradients:
            place.grad = gradient.clone()
            optimizer.step()
        got = momentum_path(start, gradients, 0.03, momentum)
        hint = "velocity = momentum * velocity + gradient; place = place - lr * velocity."
        expect(got, place.detach(), f"momentum_path(..., lr=0.03, momentum={momentum})", hint)
        require(torch.equal(start, before), "start was changed", "Work on a copy.")


@checked
def check_adamw_step(adamw_step):
    """Against torch.optim.AdamW over five steps."""
    p = _random(7, 3)
    theirs = p.clone().requires_grad_()
    options = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    optimizer = torch.optim.AdamW([theirs], **options)
    mean, mean_square = torch.zeros(7, 3), torch.zeros(7, 3)
    for t, gradient in enumerate(_random(5, 7, 3, seed=2), 1):
        theirs.grad = gradient.clone()
        optimizer.step()
        p, mean, mean_square = adamw_step(p, gradient, mean, mean_square, t, **options)
        hint = (
            "Is the old mean kept with weight beta and the gradient added with 1 - beta? Are both "
            "divided by 1 - beta^t? Is p multiplied by 1 - lr * weight_decay before the step?"
        )
        expect(p, theirs.detach(), f"p after step {t}", hint, tolerance=1e-5)
        state = optimizer.state[theirs]
        expect(mean, state["exp_avg"], f"mean after step {t}", "Return the mean before dividing.")
        expect(mean_square, state["exp_avg_sq"], f"mean_square after step {t}", "The same holds.")
    tiny = torch.full((3,), 1e-6)
    options |= {"eps": 1e-6, "weight_decay": 0.0}
    got = adamw_step(torch.zeros(3), tiny, torch.zeros(3), torch.zeros(3), 1, **options)[0]
    hint = "eps is added to the root, not under it."
    expect(got, torch.full((3,), -0.005), "a gradient as small as eps", hint, tolerance=1e-5)


@checked
def check_polar(polar):
    """Wide, tall and square; the result's singular values are 1, its vectors those of the input."""
    for shape in ((3, 7), (7, 3), (5, 5)):
        matrix = _random(*shape)
        hint = "U and Vh of torch.linalg.svd(..., full_matrices=False), without the values."
        asked = f"polar(a matrix of {shape})"
        expect(polar(matrix), solutions.polar(matrix), asked, hint, tolerance=1e-4)


@checked
def check_combined_gradient(combined_gradient):
    """Parts of different lengths."""
    parts, n_tokens = [_random(5, 2, seed=s) for s in range(3)], [7, 2, 11]
    hint = "Each token counts once, so a part counts by its number of tokens."
    expected = solutions.combined_gradient(parts, n_tokens)
    got = combined_gradient(parts, n_tokens)
    expect(got, expected, "combined_gradient(three parts, [7, 2, 11])", hint)


@checked
def check_signature(signature):
    """The pencil example of the chapter, and a larger one."""
    hint = "For each (a, b): the smallest (a x + b) mod p over the members."
    got = signature({1, 2, 3}, [(3, 1), (5, 1)], 7)
    expect(got, [0, 2], "signature({1, 2, 3}, [(3, 1), (5, 1)], 7)", hint)
    members, functions = {3, 17, 101, 999}, [(12, 5), (7, 90), (55, 1)]
    expected = solutions.signature(members, functions, 1009)
    expect(signature(members, functions, 1009), expected, "signature of four numbers", hint)


@checked
def check_never_drawn(never_drawn):
    """By hand, then the limit 1/e."""
    hint = "One draw misses a window with probability 1 - 1/n."
    expect(never_drawn(2, 3), 1 / 8, "never_drawn(2, 3)", hint)
    expect(never_drawn(10, 5), 0.9**5, "never_drawn(10, 5)", hint)
    got = never_drawn(10**6, 10**6)
    expect(got, math.exp(-1), "never_drawn(a million, a million)", hint, tolerance=1e-5)


@checked
def check_gpu_hours(gpu_hours):
    """One hour by construction; GPT-2's size on 2.5 thousand million tokens."""
    hint = "6 N D operations, divided by peak times utilisation, divided by 3600 seconds."
    got = gpu_hours(1e9, 6e8, 1e15, 1.0)
    expect(got, 1.0, "gpu_hours(1e9, 6e8, 1e15, 1.0)", hint)
    expected = solutions.gpu_hours(124e6, 2.5e9, 989e12, 0.4)
    expect(gpu_hours(124e6, 2.5e9, 989e12, 0.4), expected, "gpu_hours(124e6, ...)", hint)


@checked
def check_fit_power(fit_power):
    """An exact law with a floor; then points that lie beside it."""
    x = [10.0, 30.0, 100.0, 700.0]
    loss = [0.5 + 3.0 * value**-0.25 for value in x]
    hint = "Subtract the floor first; then fit a line to log(excess) over log(x)."
    got = fit_power(x, loss, 0.5)
    expect(got, (3.0, 0.25), "fit_power of 0.5 + 3 x^-0.25", hint, tolerance=1e-5)
    loss = [2.0, 1.4, 1.3, 0.8]
    expected = solutions.fit_power(x, loss, 0.5)
    got = fit_power(x, loss, 0.5)
    expect(got, expected, "fit_power of four points", hint, tolerance=1e-5)
