"""Low-rank adaptation: fine-tune a model by adding a product of two thin matrices to each matrix.

A frozen matrix W of shape (out, in) acts as W + (alpha / rank) B A. Only A, of shape (rank, in),
and B, of shape (out, rank), are trained: rank * (in + out) numbers in place of in * out.

Source: Hu et al. (2021), "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ch04_model.model import GPT

__all__ = ["LoRALinear", "add_lora", "merge_lora"]


class LoRALinear(nn.Module):
    """A frozen linear layer plus its low-rank update: base(x) + (alpha / rank) B A x.

    B starts at zero, so at first nothing changes. A starts random: from two zeros neither would
    ever get a gradient. Division by the rank spares most of the retuning when the rank changes.

    Raises:
        ValueError: unless 1 <= rank <= min(in, out), the largest rank an update can have.

    Source: Hu et al. (2021), equation 3.
    """

    def __init__(
        self, base: nn.Linear, rank: int, alpha: float, generator: torch.Generator | None = None
    ):
        super().__init__()
        _check_rank(rank, base)
        if not math.isfinite(alpha):
            raise ValueError(f"alpha is {alpha}, must be finite")
        self.base = base.requires_grad_(False)
        self.scale = alpha / rank
        # Gaussian as in the paper, with the spread that keeps the size of the inputs.
        a = torch.randn(rank, base.in_features, generator=generator) / base.in_features**0.5
        self.lora_a = nn.Parameter(a.to(base.weight))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, rank))

    def forward(self, x: Float[Tensor, "*B n_in"]) -> Float[Tensor, "*B n_out"]:
        """The update as two thin products: B A itself, as large as W, is never formed."""
        return self.base(x) + self.scale * (x @ self.lora_a.T @ self.lora_b.T)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The base layer with the update added into its weight."""
        self.base.weight += self.scale * self.lora_b @ self.lora_a
        return self.base


def _check_rank(rank: int, layer: nn.Linear) -> None:
    limit = min(layer.in_features, layer.out_features)
    if not 1 <= rank <= limit:
        raise ValueError(
            f"rank {rank} does not fit a layer of {layer.in_features} inputs and"
            f" {layer.out_features} outputs: choose 1 to {limit}"
        )


def add_lora(model: GPT, rank: int, alpha: float, generator: torch.Generator | None = None) -> None:
    """Freeze `model` and give every linear layer of its blocks an update to train, in place.

    Embeddings, norms and head stay as they are. The head may share its weight with the embedding,
    and then an update merged into the one would change the other.

    Raises:
        ValueError: for a rank that does not fit some layer, or a model with LoRA layers already.
    """
    if any(isinstance(layer, LoRALinear) for layer in model.modules()):
        raise ValueError("the model has LoRA layers already: call merge_lora(model) first")
    blocks = model.blocks.named_modules()
    layers = {name: layer for name, layer in blocks if isinstance(layer, nn.Linear)}
    for layer in layers.values():
        _check_rank(rank, layer)  # all of them, before any layer is changed
    model.requires_grad_(False)
    for name, layer in layers.items():
        model.blocks.set_submodule(name, LoRALinear(layer, rank, alpha, generator))


def merge_lora(model: GPT) -> None:
    """Add every update into its weight, in place: a plain GPT again, trainable and as fast."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoRALinear):
            model.set_submodule(name, layer.merged())
    model.requires_grad_(True)
