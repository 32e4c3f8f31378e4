"""Four ways to share the training of one model among processes, each written by hand.

Data parallel shares the batch; fully sharded the batch and the weights; tensor parallel every
matrix; pipeline parallel the layers. All talk through `torch.distributed`, in four phrases:
all-reduce, all-gather, reduce-scatter, and send.

Shapes: B batch, T time, C d_model. n is the number of processes.

Sources: Rajbhandari et al. 2019, "ZeRO" (arXiv:1910.02054); Shoeybi et al. 2019, "Megatron-LM"
(arXiv:1909.08053); Huang et al. 2018, "GPipe" (arXiv:1811.06965); Patarasuk and Yuan 2009,
"Bandwidth optimal all-reduce algorithms for clusters of workstations".
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ch03_attention.attention import MultiHeadAttention
from ch04_model.model import GPT, FeedForward

__all__ = [
    "Shard",
    "Stage",
    "Traffic",
    "average_gradients",
    "gpipe",
    "head_rows",
    "split_attention",
    "split_feed_forward",
    "split_model",
]


class Traffic(TorchDispatchMode):
    """Counts the bytes that this process sends while it is active, in two ways.

    `bytes`, by operation, are messages as the program asks for them, at the price of the ring
    algorithm: an all-reduce of S bytes sends 2 (n - 1) / n S, a gathering or scattering of S in all
    half of that, a message its own length. `written` is what really left, as Linux counts it.
    """

    PRICES: ClassVar = {  # name: (which argument holds S, its price over (n - 1) / n)
        "c10d.allreduce_": (0, 2),
        "c10d._allgather_base_": (0, 1),
        "c10d._reduce_scatter_base_": (1, 1),
        "_c10d_functional.all_reduce": (0, 2),
    }

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()
        self.written = 0

    def __enter__(self) -> "Traffic":
        self._before = _bytes_written()
        return super().__enter__()

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self.written = _bytes_written() - self._before

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function).removesuffix(".default")
        n = dist.get_world_size()
        if name in self.PRICES:
            where, price = self.PRICES[name]
            self.bytes[name.split(".")[1].strip("_")] += price * _nbytes(args[where]) * (n - 1) // n
        elif name == "c10d.send":
            self.bytes["send"] += _nbytes(args[0])
        return function(*args, **(kwargs or {}))


def _bytes_written() -> int:
    """All that this process has written to files and sockets; 0 where the system does not tell."""
    count = Path("/proc/self/io")
    if not count.exists():
        return 0
    return int(dict(line.split(": ") for line in count.read_text().splitlines())["wchar"])


def _nbytes(tensors: Tensor | Sequence[Tensor]) -> int:
    return sum(t.nbytes for t in ([tensors] if isinstance(tensors, Tensor) else tensors))


# ---------------------------------------------------------------------------------- data parallel


def average_gradients(model: nn.Module) -> None:
    """Replace every gradient by its mean over the processes, so that all take the same step."""
    grads = [weights.grad for weights in model.parameters()]
    flat = torch.cat([grad.flatten() for grad in grads])  # one long message, not many short ones
    dist.all_reduce(flat)
    parts = (flat / dist.get_world_size()).split([grad.numel() for grad in grads])
    for grad, part in zip(grads, parts, strict=True):
        grad.copy_(part.view_as(grad))


# ---------------------------------------------------------------------------------- fully sharded


class Shard:
    """Every process owns one n-th of all weights, as one slice of one long row.

    The whole row is gathered for the forward and backward pass and thrown away after it; gradients
    are summed and scattered in one operation, so that each process gets those of its own slice. An
    optimizer sees the slice alone, and its state is as small as that.

    Source: Rajbhandari et al. 2019, section 5.3 (stage 3), here for the whole model at once.
    """

    def __init__(self, model: nn.Module):
        self.model, n = model, dist.get_world_size()
        self.sizes = [weights.numel() for weights in model.parameters()]
        flat = torch.cat([weights.detach().flatten() for weights in model.parameters()])
        flat = nn.functional.pad(flat, (0, -len(flat) % n))
        self.own = nn.Parameter(flat.chunk(n)[dist.get_rank()].clone())

    def gather(self) -> None:
        """Fetch everybody's slice and lay the weights of the model over the whole."""
        whole = self.own.new_empty(len(self.own) * dist.get_world_size())
        dist.all_gather_single(whole, self.own.detach())
        parts = whole[: sum(self.sizes)].split(self.sizes)
        for weights, part in zip(self.model.parameters(), parts, strict=True):
            weights.data = part.view_as(weights)

    def scatter_gradients(self) -> None:
        """Leave the mean gradient of the own slice in `own.grad`, and drop all others."""
        flat = torch.cat([weights.grad.flatten() for weights in self.model.parameters()])
        flat = nn.functional.pad(flat, (0, -len(flat) % dist.get_world_size()))
        self.own.grad = torch.empty_like(self.own)
        dist.reduce_scatter_single(self.own.grad, flat)
        self.own.grad /= dist.get_world_size()
        self.model.zero_grad(set_to_none=True)


# -------------------------------------------------------------------------------- tensor parallel


class _ToAll(torch.autograd.Function):
    """The same input for all; on the way back their gradients add up. Megatron-LM's f."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad


class _FromAll(torch.autograd.Function):
    """The sum of everybody's output; on the way back the same gradient for all. Megatron-LM's g."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous().clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class _Split(nn.Module):
    """A layer of which every process computes a part, between f and g."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part

    def forward(self, x: Tensor, *rest: Any) -> Tensor:
        return _FromAll.apply(self.part(_ToAll.apply(x), *rest))


def head_rows(attention: MultiHeadAttention, rank: int, n: int) -> Int[Tensor, "R"]:
    """The rows of the matrix `qkv` that make the `rank`-th of n shares of the heads."""
    H, K, D = attention.n_heads, attention.n_kv_heads, attention.head_dim
    q, k, v = torch.arange((H + 2 * K) * D).split([H * D, K * D, K * D])
    return torch.cat([rows.chunk(n)[rank] for rows in (q, k, v)])  # heads are neighbouring rows


def split_attention(attention: MultiHeadAttention, rank: int, n: int) -> MultiHeadAttention:
    """The `rank`-th of n parts: some heads, their rows of the input and columns of the output."""
    H, K, D = attention.n_heads // n, attention.n_kv_heads // n, attention.head_dim
    part = MultiHeadAttention(attention.qkv.in_features, H, K, D)
    part.qkv.weight.data = attention.qkv.weight.data[head_rows(attention, rank, n)]
    part.out.weight.data = attention.out.weight.data.chunk(n, dim=1)[rank].contiguous()
    return part


def split_feed_forward(layer: FeedForward, rank: int, n: int) -> FeedForward:
    """The `rank`-th of n parts of the widened row: rows of `gate` and `up`, columns of `down`.

    What bends a number looks at no other, so nothing need be said between the two products.
    """
    part = FeedForward.__new__(FeedForward)
    nn.Module.__init__(part)
    for name, dim in (("gate", 0), ("up", 0), ("down", 1)):
        weight = getattr(layer, name).weight.data.chunk(n, dim)[rank].contiguous()
        own = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        own.weight.data = weight
        setattr(part, name, own)
    return part


def split_model(model: GPT) -> GPT:
    """Replace attention and feed-forward layers in place by this process's parts of them.

    Raises: ValueError when heads or d_ff do not divide, or there is a bias or a norm inside
    attention, which all processes would have to share.
    """
    rank, n, c = dist.get_rank(), dist.get_world_size(), model.config
    if c.n_heads % n or c.n_kv_heads % n or c.d_ff % n:
        raise ValueError(
            f"{c.n_heads} heads, {c.n_kv_heads} key/value heads and d_ff {c.d_ff} must be "
            f"multiples of the {n} processes"
        )
    if c.bias or c.qk_norm or c.activation != "swiglu":
        raise ValueError("only Llama's recipe is split here: no bias, no qk_norm, swiglu")
    for block in model.blocks:
        block.attention = _Split(split_attention(block.attention, rank, n))
        block.feed_forward = _Split(split_feed_forward(block.feed_forward, rank, n))
    return model


# ------------------------------------------------------------------------------ pipeline parallel


class Stage(nn.Module):
    """This process's share of the layers: the first also embeds, the last also scores."""

    def __init__(self, model: GPT):
        super().__init__()
        self.rank, self.n = dist.get_rank(), dist.get_world_size()
        per_stage = -(-len(model.blocks) // self.n)
        self.blocks = model.blocks[self.rank * per_stage : (self.rank + 1) * per_stage]
        self.embedding = model.token_embedding if self.rank == 0 else nn.Identity()
        last = self.rank == self.n - 1
        self.score = nn.Sequential(model.norm, model.head) if last else nn.Identity()
        self.register_buffer("cos", model.cos)
        self.register_buffer("sin", model.sin)

    def forward(self, x: Tensor) -> Tensor:
        """Ids to (B, T, C), (B, T, C) to (B, T, C), or (B, T, C) to logits."""
        x = self.embedding(x)
        for block in self.blocks:
            x = block(x, (self.cos[: x.shape[1]], self.sin[: x.shape[1]]))
        return self.score(x)


def gpipe(
    stage: Stage,
    ids: Int[Tensor, "B T"],
    targets: Int[Tensor, "B T"],
    loss: Callable[[Tensor, Tensor], Tensor],
    n_micro: int,
) -> None:
    """All micro-batches forward, then all backward; leaves gradients in the stage's weights.

    A process waits for the one before it on the way there and for the one after it on the way
    back. Each keeps the graphs of all micro-batches until then.

    Source: Huang et al. 2018, section 2.2.
    """
    first, last = stage.rank == 0, stage.rank == stage.n - 1
    graphs = []
    for some_ids, some_targets in zip(ids.chunk(n_micro), targets.chunk(n_micro), strict=True):
        x = some_ids
        if not first:
            x = stage.cos.new_empty(*some_ids.shape, _width(stage))
            dist.recv(x, stage.rank - 1)
            x.requires_grad_()
        y = stage(x)
        if last:
            y = loss(y, some_targets) / n_micro  # the mean of equal parts' means is the mean
        else:
            dist.send(y.detach(), stage.rank + 1)
        graphs.append((x, y))
    for x, y in graphs:
        grad = None
        if not last:
            grad = torch.empty_like(y)
            dist.recv(grad, stage.rank + 1)
        y.backward(grad)
        if not first:
            dist.send(x.grad, stage.rank - 1)


def _width(stage: Stage) -> int:
    return stage.blocks[0].attention_norm.weight.shape[0]
