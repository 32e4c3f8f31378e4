"""Weights in eight bits: a whole number from -127 to 127 for each, and a scale for each row.

A step of decoding reads every weight once, so a quarter of the bytes can be up to four times the
speed, if there is a kernel that multiplies the whole numbers as they are.

Shapes: R rows (outputs) and C columns (inputs) of a weight matrix.

Sources: Dettmers et al. 2022, "LLM.int8()" (arXiv:2208.07339), section 2, for absmax quantisation;
Jacob et al. 2017, "Quantization and training of neural networks for efficient
integer-arithmetic-only inference" (arXiv:1712.05877), for the arithmetic.
"""

import warnings
from collections.abc import Callable
from copy import deepcopy

import torch
from jaxtyping import Float, Int, Int8
from torch import Tensor, nn
from torch.nn import functional as F

from ch04_model.model import GPT

__all__ = [
    "quantize_int8",
    "dequantize",
    "Int8Embedding",
    "Int8Linear",
    "KernelLinear",
    "quantized",
    "relative_error",
]

LARGEST = 127  # -128 stays unused, so that the grid is the same on both sides of zero


def quantize_int8(weights: Float[Tensor, "R C"]) -> tuple[Int8[Tensor, "R C"], Float[Tensor, "R"]]:
    """Whole numbers q and a scale for each row, with weights ≈ q * scale.

    The largest weight of a row becomes 127 or -127; a row of zeros has the scale 1. No weight is
    off by more than half of its row's scale.
    """
    largest = weights.detach().abs().amax(dim=1)
    scale = torch.where(largest > 0, largest / LARGEST, 1.0)
    return (weights.detach() / scale[:, None]).round().to(torch.int8), scale


def dequantize(q: Int8[Tensor, "R C"], scale: Float[Tensor, "R"]) -> Float[Tensor, "R C"]:
    """The weights that the whole numbers stand for."""
    return q * scale[:, None]


def relative_error(weights: Float[Tensor, "R C"]) -> float:
    """How far the quantised weights are from `weights`, root mean square over root mean square."""
    return ((dequantize(*quantize_int8(weights)) - weights).norm() / weights.norm()).item()


class _Int8(nn.Module):
    """A matrix in eight bits; it has no parameters, as there is nothing to train."""

    def __init__(self, weights: Tensor, bias: Tensor | None = None):
        super().__init__()
        q, scale = quantize_int8(weights)
        self.register_buffer("q", q)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.detach())

    @property
    def weight(self) -> Float[Tensor, "R C"]:
        """The weights as numbers again."""
        return dequantize(self.q, self.scale)


class Int8Linear(_Int8):
    """A linear layer by hand: the whole numbers are made floats, multiplied, and scaled by row."""

    def forward(self, x: Float[Tensor, "*n C"]) -> Float[Tensor, "*n R"]:
        """x W^T + b. A row's scale comes out of the sum, so it multiplies R numbers, not R x C."""
        y = F.linear(x, self.q.to(x.dtype)) * self.scale
        return y if self.bias is None else y + self.bias


class Int8Embedding(_Int8):
    """A table of rows in eight bits, of which only the rows looked up become floats."""

    def forward(self, ids: Int[Tensor, "*n"]) -> Float[Tensor, "*n C"]:
        """The rows of `ids`."""
        return F.embedding(ids, self.q) * F.embedding(ids, self.scale[:, None])


class KernelLinear(Int8Linear):
    """The same weights in torch's own kernel (FBGEMM), which also turns `x` into whole numbers.

    Activations are quantised anew in every call, in seven bits: on processors without 8-bit dot
    products the sum of two products must fit into 16. The kernel has one scale for all of `x`, so
    rows are first made equally large, or one outlier would make the steps coarse for all tokens
    (measured on the stories: 0.7 % of the loss). FBGEMM is for x86; elsewhere this layer computes
    as `Int8Linear` does.
    """

    def __init__(self, weights: Tensor, bias: Tensor | None = None):
        super().__init__(weights, bias)
        self._packed = None
        if {"x86", "fbgemm"} & set(torch.backends.quantized.supported_engines):
            self._pack()

    def _pack(self) -> None:
        zero = torch.zeros(len(self.scale), dtype=torch.int64)
        with warnings.catch_warnings():  # torch 2.13 announces another way in, not another kernel
            warnings.simplefilter("ignore")
            w = torch._make_per_channel_quantized_tensor(self.q, self.scale.double(), zero, 0)
        self._packed = torch.ops.quantized.linear_prepack(w, None)

    def forward(self, x: Float[Tensor, "*n C"]) -> Float[Tensor, "*n R"]:
        """x W^T + b."""
        if self._packed is None:
            return super().forward(x)
        kernel = torch.ops.quantized.linear_dynamic
        if x.numel() == x.shape[-1]:  # a single row needs no other scale
            y = kernel(x, self._packed, True)
        else:
            largest = x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-20)
            y = kernel(x / largest, self._packed, True) * largest
        return y if self.bias is None else y + self.bias

    def __deepcopy__(self, memo: dict) -> "KernelLinear":
        return self  # there is nothing in it that a copy could change


def quantized(model: GPT, linear: Callable[..., nn.Module] = Int8Linear) -> GPT:
    """A copy of `model` with every matrix in eight bits; norms and positions stay as they are.

    `linear` is what takes the place of a linear layer: `Int8Linear` or `KernelLinear`.
    """
    copy = deepcopy(model)
    for name, module in list(copy.named_modules()):
        parent = copy.get_submodule(name.rpartition(".")[0]) if name else None
        if isinstance(module, nn.Linear):
            setattr(parent, name.rpartition(".")[2], linear(module.weight, module.bias))
    copy.token_embedding = Int8Embedding(copy.token_embedding.weight)
    return copy.eval()
