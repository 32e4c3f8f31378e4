"""From a gradient to a step: clipping, AdamW and Muon, each equal to torch's own.

Sources: Pascanu, Mikolov & Bengio 2013, "On the difficulty of training recurrent neural networks"
(arXiv:1211.5063, clipping); Loshchilov & Hutter 2019, "Decoupled weight decay regularization"
(arXiv:1711.05101, AdamW); Jordan 2024, "Muon: an optimizer for hidden layers in neural networks"
(kellerjordan.github.io/posts/muon).
"""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ch05_pretraining.config import TrainConfig

__all__ = ["clip_grad_norm", "Optimizer", "AdamW", "orthogonalize", "Muon", "make_optimizer"]


@torch.no_grad()
def clip_grad_norm(parameters: Iterable[nn.Parameter], max_norm: float) -> Float[Tensor, ""]:
    """Shrink all gradients by one factor, so that together they are no longer than `max_norm`.

    The length is that of one vector made of every gradient end to end, so its direction is kept.
    Returned is the length before shrinking: infinite or NaN if any gradient is.

    Raises:
        ValueError: if `max_norm` is not above 0.

    Source: Pascanu et al. 2013, algorithm 1.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm is {max_norm}, must be above 0: inf turns clipping off")
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    shrink = (max_norm / (norm + 1e-6)).clamp(max=1.0)  # with torch's own 1e-6
    for gradient in gradients:
        gradient.mul_(shrink)
    return norm


class Optimizer:
    """What both optimizers share: a rate that may change, and a memory for every parameter.

    `lr` is the rate of the next step, `peak_lr` the one that a schedule starts from.

    Raises:
        ValueError: if a number is out of its range.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float):
        if not (0 <= lr < math.inf and 0 <= weight_decay < math.inf):
            raise ValueError(
                f"lr {lr} and weight_decay {weight_decay} must be at least 0 and finite"
            )
        self.lr = self.peak_lr = lr
        self.weight_decay = weight_decay
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {p: {} for p in params}

    def zero_grad(self) -> None:
        """Forget the gradients of the last step."""
        for p in self.state:
            p.grad = None


class AdamW(Optimizer):
    """Steps of about `lr` for every weight, however large its gradient, and a pull towards zero.

    Source: Loshchilov & Hutter 2019, algorithm 2.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        super().__init__(params, lr, weight_decay)
        if len(betas) != 2 or not all(0 <= b < 1 for b in betas) or not 0 < eps < math.inf:
            raise ValueError(
                f"betas {betas} must be two numbers from 0 to below 1, eps {eps} above 0"
            )
        self.betas, self.eps = betas, eps

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        beta1, beta2 = self.betas
        for p, state in self.state.items():
            if p.grad is None:
                continue
            if not state:
                state["step"] = torch.zeros((), dtype=torch.int64)
                state["mean"], state["mean_square"] = torch.zeros_like(p), torch.zeros_like(p)
            state["step"] += 1
            mean = state["mean"].lerp_(p.grad, 1 - beta1)
            mean_square = state["mean_square"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)

            # Both averages began at zero: after t steps only 1 - beta^t of their weight is in them.
            t = state["step"].item()
            rms = (mean_square.sqrt() / math.sqrt(1 - beta2**t)).add_(self.eps)
            p.mul_(1 - self.lr * self.weight_decay)
            p.addcdiv_(mean, rms, value=-self.lr / (1 - beta1**t))


def orthogonalize(
    matrix: Float[Tensor, "rows cols"], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "rows cols"]:
    """Bring the singular values of a matrix near 1 and keep its singular vectors.

    A Newton-Schulz iteration: an odd polynomial of a matrix acts on its singular values alone, so
    five rounds of x -> ax + bx³ + cx⁵ replace a decomposition. These coefficients lift small values
    fast and in return never settle on 1: all above 0.0015 of the matrix's norm end in 0.68 to 1.21.

    Source: Jordan 2024, "Tuning the coefficients".
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    X = matrix.to(dtype)
    tall = X.size(0) > X.size(1)
    X = X.T if tall else X  # the sums of products below are (rows, rows): the short side is cheaper
    X = X / X.norm().clamp(min=1e-7)  # singular values at most 1
    identity = torch.eye(X.size(0), dtype=dtype, device=X.device)
    for _ in range(5):
        gram = X @ X.T
        X = (a * identity + b * gram + c * gram @ gram) @ X
    return X.T if tall else X


class Muon(Optimizer):
    """Momentum, made orthogonal: a step moves a weight matrix equally far in all its directions.

    For the matrices between the embedding and the head. A gradient matrix has a few large singular
    values and many small ones, and the rare directions are as worth learning as the common ones.
    `dtype` is what `orthogonalize` computes in: bfloat16 suffices where it is fast.

    Raises:
        ValueError: if a parameter is not a matrix.

    Source: Jordan 2024, "Definition".
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__(params, lr, weight_decay)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum}, must be from 0 to below 1")
        self.momentum, self.dtype = momentum, dtype
        for p in self.state:
            if p.ndim != 2:
                shape = tuple(p.shape)
                raise ValueError(f"Muon moves matrices, got shape {shape}: leave that to AdamW")

    @torch.no_grad()
    def step(self) -> None:
        """Move every matrix that has a gradient."""
        for p, state in self.state.items():
            if p.grad is None:
                continue
            if not state:
                state["mean"] = torch.zeros_like(p)
            mean = state["mean"].lerp_(p.grad, 1 - self.momentum)
            ahead = p.grad.lerp(mean, self.momentum)  # Nesterov: the newest gradient counts twice

            rows, cols = p.shape
            lr = self.lr * math.sqrt(
                max(1, rows / cols)
            )  # a tall matrix spreads its effect thinner
            p.mul_(1 - self.lr * self.weight_decay)
            p.add_(orthogonalize(ahead, self.dtype), alpha=-lr)


def make_optimizer(model: nn.Module, config: TrainConfig) -> list[Optimizer]:
    """Muon for the matrices of the blocks; AdamW for embeddings, head, norms and biases.

    Each row of an embedding or a head belongs to one token: it is a list of vectors rather than a
    map between spaces, which is what Muon is made for. Frozen parameters are left out.
    """
    inside = {p for p in model.blocks.parameters() if p.ndim == 2}
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices, others = [p for p in trained if p in inside], [p for p in trained if p not in inside]
    dtype = config.dtype(next(model.parameters()).device)
    return [
        Muon(matrices, config.muon_lr, weight_decay=config.weight_decay, dtype=dtype),
        AdamW(others, config.adamw_lr, config.betas, weight_decay=0.0),
    ]
