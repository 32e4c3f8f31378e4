"""Reference answers to the exercises of chapter 5, with the reasoning."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "adamw_step",
    "clip",
    "combined_gradient",
    "cross_entropy",
    "fit_power",
    "gpu_hours",
    "momentum_path",
    "never_drawn",
    "polar",
    "signature",
    "windows",
    "wsd_rate",
]


def windows(ids: Tensor, context_length: int) -> tuple[Tensor, Tensor]:
    """As many whole windows as there are, one behind the other.

    Every window needs the token after its last one as a target, so only N - 1 tokens can be inputs.
    The targets are the inputs moved by one, so both are cut in the same way.
    """
    n = (len(ids) - 1) // context_length
    inputs, targets = ids[: n * context_length], ids[1 : n * context_length + 1]
    return inputs.view(n, context_length), targets.view(n, context_length)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Log of the sum of the exponentials, minus the target's logit; the largest is taken out first.

    Where the target is -100 nothing is predicted: such rows count neither above nor below the line.
    """
    logits, targets = logits[targets != -100], targets[targets != -100]
    shifted = logits - logits.max(dim=-1, keepdim=True).values  # so no target's logit is large
    log_sum = shifted.exp().sum(dim=-1).log()
    return (log_sum - shifted[torch.arange(len(targets)), targets]).mean()


def wsd_rate(step: int, steps: int, warmup: int, decay: int) -> float:
    """The lower of a rising and a falling line, and never above 1.

    Step 0 must already move, so the rise begins with 1 / warmup; the last step must still move, so
    the fall would reach zero in the step after it.
    """
    return min(1.0, (step + 1) / max(1, warmup), (steps - step) / max(1, decay))


def clip(gradients: Sequence[Tensor], max_norm: float) -> list[Tensor]:
    """One factor for all of them, so that the direction of the whole stays as it is.

    The length of the whole is the root of the sum of all squares, over all tensors.
    """
    length = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
    factor = min(1.0, max_norm / length) if length > 0 else 1.0
    return [gradient * factor for gradient in gradients]


def momentum_path(start: Tensor, gradients: Sequence[Tensor], lr: float, momentum: float) -> Tensor:
    """The velocity keeps a share of itself and takes each gradient in whole, as torch has it."""
    place, velocity = start.clone(), torch.zeros_like(start)
    for gradient in gradients:
        velocity = momentum * velocity + gradient
        place = place - lr * velocity
    return place


def adamw_step(p, gradient, mean, mean_square, t, lr, betas, eps, weight_decay):
    """Two running means, both made whole, and a pull towards zero that the gradient has no part in.

    After t steps from zero, the weights in a running mean add up to 1 - beta^t.
    """
    beta1, beta2 = betas
    mean = beta1 * mean + (1 - beta1) * gradient
    mean_square = beta2 * mean_square + (1 - beta2) * gradient**2
    unbiased, unbiased_square = mean / (1 - beta1**t), mean_square / (1 - beta2**t)
    p = p * (1 - lr * weight_decay) - lr * unbiased / (unbiased_square.sqrt() + eps)
    return p, mean, mean_square


def polar(matrix: Tensor) -> Tensor:
    """U Vᵀ of the singular value decomposition: the rotation and reflection without the stretching.

    It is what Muon's polynomial comes near to, and exactly what its definition asks for.
    """
    U, _, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return U @ Vh


def combined_gradient(gradients: Sequence[Tensor], n_tokens: Sequence[int]) -> Tensor:
    """The mean over all tokens weighs each part's mean by the number of its tokens."""
    total = sum(g * n for g, n in zip(gradients, n_tokens, strict=True))
    return total / sum(n_tokens)


def signature(members: set[int], functions: Sequence[tuple[int, int]], prime: int) -> list[int]:
    """For each function (a, b) the smallest (a x + b) mod p over the members."""
    return [min((a * x + b) % prime for x in members) for a, b in functions]


def never_drawn(n_windows: int, n_draws: int) -> float:
    """Each draw misses a window with probability 1 - 1/n, and the draws are independent."""
    return (1 - 1 / n_windows) ** n_draws


def gpu_hours(n_parameters: float, n_tokens: float, peak: float, utilisation: float) -> float:
    """Six operations per parameter and token, at the share of the peak that one really gets."""
    return 6 * n_parameters * n_tokens / (peak * utilisation) / 3600


def fit_power(x: Sequence[float], loss: Sequence[float], floor: float) -> tuple[float, float]:
    """A straight line in logarithms: log(loss - floor) = log A - alpha log x.

    The slope of least squares is the covariance over the variance.
    """
    u, v = torch.tensor(x).double().log(), (torch.tensor(loss).double() - floor).log()
    slope = ((u - u.mean()) * (v - v.mean())).sum() / (u - u.mean()).square().sum()
    return (v.mean() - slope * u.mean()).exp().item(), -slope.item()
