"""Activation checkpointing: forget what a block computed, and compute it again when it is needed.

A block then keeps its input alone, (B, T, C), and pays with a second forward pass.

Source: Chen et al. 2016, "Training deep nets with sublinear memory cost" (arXiv:1604.06174).
"""

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ch04_model.model import GPT

__all__ = ["Recompute", "checkpoint", "checkpointed"]


class Recompute(torch.autograd.Function):
    """y = run(x), of which only x is kept; `weights` are all that `run` can send gradients to."""

    @staticmethod
    def forward(ctx: Any, run: Callable[[Tensor], Tensor], x: Tensor, *weights: Tensor) -> Tensor:
        """Run without writing down anything for the way back; here autograd is off already."""
        ctx.run, ctx.weights = run, weights
        ctx.precision = (
            x.device.type,
            torch.get_autocast_dtype(x.device.type),
            torch.is_autocast_enabled(x.device.type),
        )
        ctx.save_for_backward(x)
        return run(x)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        """Run again, this time with a graph, and send the gradient through it."""
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad(), torch.autocast(*ctx.precision):
            y = ctx.run(x)
        grads = torch.autograd.grad(y, (x, *ctx.weights), grad_y)
        return None, *grads


def checkpoint(run: Callable[[Tensor], Tensor], x: Tensor, weights: Iterable[Tensor]) -> Tensor:
    """run(x), with nothing but x kept for the backward pass; gradients also reach `weights`.

    `run` must do the same both times. If it draws random numbers, as dropout does, it must draw
    the same ones again, which `torch.utils.checkpoint` takes care of and this function does not.
    """
    return Recompute.apply(run, x, *(w for w in weights if w.requires_grad))


@contextmanager
def checkpointed(model: GPT):
    """While this is active, every block of `model` keeps its input alone when it trains."""
    kept = [block.forward for block in model.blocks]

    def light(block: nn.Module, forward: Callable) -> Callable:
        def run(x: Tensor, *rest: Any) -> Tensor:
            return checkpoint(lambda x: forward(x, *rest), x, block.parameters())

        return run

    try:
        for block, forward in zip(model.blocks, kept, strict=True):
            block.forward = light(block, forward)
        yield model
    finally:
        for block in model.blocks:
            del block.forward  # the class's own is found again
