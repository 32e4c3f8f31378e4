"""Parallel training against one process: same model, same text, and the same weights at the end.

    torchrun --standalone --nproc_per_node=2 -m appendix_performance.distributed
    torchrun --standalone --nproc_per_node=4 -m appendix_performance.distributed tensor pipeline
    torchrun --standalone --nproc_per_node=4 -m appendix_performance.distributed save FOLDER
    torchrun --standalone --nproc_per_node=2 -m appendix_performance.distributed load FOLDER

Each kind is run twice, by the code of `parallel.py` and by torch's own engine. Both are compared
with what one process makes of the whole batch, and the bytes that process 0 sends are counted. The
processes compute on CPUs and talk by gloo.
"""

import argparse
import os
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from jaxtyping import Int
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn import functional as F

from appendix_performance.parallel import (
    Shard,
    Stage,
    Traffic,
    average_gradients,
    gpipe,
    head_rows,
    split_model,
)
from ch04_model.model import GPT, GPTConfig

__all__ = ["KINDS", "main", "new_model", "windows"]

# Every size is a multiple of 4, so that up to four processes share evenly.
CONFIG = GPTConfig.llama(vocab_size=104, context_length=32, n_layers=4, n_heads=4, d_model=64)
BATCH_SIZE, N_MICRO, STEPS, LR = 8, 4, 3, 1.0
# Sums in another order differ in the last digits of float32, by 1e-7 of a weight. What is wrong by
# a factor differs by as much as the weights move, and each of them moves by at least 50 times this:
# `one_process` sees to it.
SAME = 1e-5


def new_model() -> GPT:
    """The same model in every process, with a head large enough to make all other weights move."""
    torch.manual_seed(0)
    model = GPT(CONFIG)
    nn.init.normal_(model.head.weight)
    return model


def windows(step: int) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """The inputs and targets of a step, the same in every process."""
    generator = torch.Generator().manual_seed(step)
    shape = BATCH_SIZE, CONFIG.context_length + 1
    ids = torch.randint(CONFIG.vocab_size, shape, generator=generator)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats per token."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


def one_process() -> GPT:
    """What everything is compared with: the whole batch, and nobody to talk to."""
    model = new_model()
    _train(model, model.parameters(), lambda x, y: mean_loss(model(x), y).backward())
    pairs = zip(model.parameters(), new_model().parameters(), strict=True)
    moved = min((after - before).abs().max().item() for after, before in pairs)
    assert moved > 50 * SAME, f"weights that move by {moved:.2g} could not be told from others"
    return model


def _train(model: nn.Module, weights, gradients: Callable[[Tensor, Tensor], None]) -> Traffic:
    """A few steps of plain gradient descent; returns the bytes sent in the last.

    In the first step torch's engines also tell each other what shapes to expect.
    """
    optimizer = torch.optim.SGD(list(weights), lr=LR)
    for step in range(STEPS):
        inputs, targets = windows(step)
        with Traffic() as traffic:
            gradients(inputs, targets)
        optimizer.step()
        model.zero_grad()
    return traffic


def _share(batch: Tensor) -> Tensor:
    return batch.chunk(dist.get_world_size())[dist.get_rank()]


# --------------------------------------------------------------- the four kinds, each in two ways


def data_by_hand() -> tuple[nn.Module, Traffic]:
    """A share of the batch each, then the mean of all gradients."""
    model = new_model()

    def gradients(x, y):
        mean_loss(model(_share(x)), _share(y)).backward()
        average_gradients(model)

    return model, _train(model, model.parameters(), gradients)


def data_by_torch() -> tuple[nn.Module, Traffic]:
    """DistributedDataParallel."""
    model = nn.parallel.DistributedDataParallel(new_model())
    traffic = _train(
        model, model.parameters(), lambda x, y: mean_loss(model(_share(x)), _share(y)).backward()
    )
    return model.module, traffic


def sharded_by_hand() -> tuple[nn.Module, Traffic]:
    """Gather all weights, compute, scatter all gradients."""
    model = new_model()
    shard = Shard(model)

    def gradients(x, y):
        shard.gather()
        mean_loss(model(_share(x)), _share(y)).backward()
        shard.scatter_gradients()

    traffic = _train(model, [shard.own], gradients)
    shard.gather()
    return model, traffic


def sharded_by_torch() -> tuple[nn.Module, Traffic]:
    """`fully_shard` on every block and on the rest: only one block is whole at a time."""
    model = new_sharded()
    return model, _train(
        model, model.parameters(), lambda x, y: mean_loss(model(_share(x)), _share(y)).backward()
    )


def new_sharded() -> nn.Module:
    """The model, every block of it spread over the processes."""
    model, mesh = new_model(), init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def tensor_by_hand() -> tuple[nn.Module, Traffic]:
    """Heads and widened rows shared out: two all-reduces in every block, there and back."""
    model = split_model(new_model())
    return model, _train(model, model.parameters(), lambda x, y: mean_loss(model(x), y).backward())


def tensor_by_torch() -> tuple[nn.Module, Traffic]:
    """`parallelize_module`: first matrices cut by columns of the result, second ones by rows."""
    n = dist.get_world_size()
    model, mesh = heads_together(new_model()), init_device_mesh("cpu", (n,))
    first, second = ("attention.qkv", "feed_forward.gate", "feed_forward.up"), ("attention.out",)
    plan = {name: ColwiseParallel() for name in first}
    plan |= {name: RowwiseParallel() for name in (*second, "feed_forward.down")}
    for block in model.blocks:
        parallelize_module(block, mesh, plan)
        block.attention.n_heads //= n
        block.attention.n_kv_heads //= n
    return model, _train(model, model.parameters(), lambda x, y: mean_loss(model(x), y).backward())


def heads_together(model: GPT) -> GPT:
    """Sort the rows of every `qkv`, so that a process's queries, keys and values are neighbours."""
    n = dist.get_world_size()
    for block in model.blocks:
        rows = torch.cat([head_rows(block.attention, rank, n) for rank in range(n)])
        block.attention.qkv.weight.data = block.attention.qkv.weight.data[rows]
    return model


def pipeline_by_hand() -> tuple[nn.Module, Traffic]:
    """Layers shared out, micro-batches sent from one to the next."""
    model = new_model()
    stage = Stage(model)
    traffic = _train(stage, stage.parameters(), lambda x, y: gpipe(stage, x, y, mean_loss, N_MICRO))
    return stage, traffic


def pipeline_by_torch() -> tuple[nn.Module, Traffic]:
    """`torch.distributed.pipelining` with the same stages and the same schedule."""
    stage = Stage(new_model())
    rank, n = dist.get_rank(), dist.get_world_size()
    part = PipelineStage(stage, rank, n, torch.device("cpu"))
    schedule = ScheduleGPipe(part, n_microbatches=N_MICRO, loss_fn=mean_loss)

    def gradients(x, y):
        if rank == 0:
            schedule.step(x)
        else:
            schedule.step(target=y) if rank == n - 1 else schedule.step()

    return stage, _train(stage, stage.parameters(), gradients)


KINDS = {
    "data": (data_by_hand, data_by_torch),
    "sharded": (sharded_by_hand, sharded_by_torch),
    "tensor": (tensor_by_hand, tensor_by_torch),
    "pipeline": (pipeline_by_hand, pipeline_by_torch),
}


# --------------------------------------------------------------------------------- the comparison


def predicted_bytes(run: Callable) -> int:
    """What process 0 sends in one step, from the sizes alone."""
    n, model = dist.get_world_size(), new_model()
    weights = 4 * model.n_parameters
    blocks = 4 * sum(p.numel() for p in model.blocks.parameters())
    stream = 4 * BATCH_SIZE * CONFIG.context_length * CONFIG.d_model  # B x T x C in float32
    layers = CONFIG.n_layers
    return {
        data_by_hand: 2 * weights * (n - 1) // n,
        data_by_torch: 2 * weights * (n - 1) // n,
        sharded_by_hand: 2 * weights * (n - 1) // n,
        sharded_by_torch: (2 * weights + blocks) * (n - 1) // n,  # blocks are gathered twice
        tensor_by_hand: 2 * 4 * layers * stream * (n - 1) // n,
        tensor_by_torch: 2 * 5 * layers * stream * (n - 1) // n,  # `gate` and `up` by themselves
        pipeline_by_hand: stream,
        pipeline_by_torch: stream,
    }[run]


# What a process has after training, if not the whole model, made of the whole model.
OWN_PART = {
    tensor_by_hand: split_model,
    tensor_by_torch: heads_together,
    pipeline_by_hand: Stage,
    pipeline_by_torch: Stage,
}


def largest_difference(module: nn.Module, reference: nn.Module) -> float:
    """Over all weights that this process has, against those of one process, then over all."""
    theirs = dict(reference.named_parameters())
    worst = torch.zeros(())
    for name, weights in module.named_parameters():
        whole = weights.full_tensor() if isinstance(weights, DTensor) else weights
        worst = torch.maximum(worst, (whole.detach() - theirs[name].detach()).abs().max())
    dist.all_reduce(worst, dist.ReduceOp.MAX)
    return worst.item()


def compare(kind: str, reference: GPT) -> None:
    """Run one kind in both ways and print what came of it.

    Raises: ValueError if the weights differ from those of one process.
    """
    for run in KINDS[kind]:
        module, traffic = run()
        own_part = OWN_PART.get(run, lambda model: model)
        difference = largest_difference(module, own_part(deepcopy(reference)))
        who = "torch" if run.__name__.endswith("torch") else "by hand"
        sent, foreseen = traffic.bytes.total(), predicted_bytes(run)
        _say(
            f"{kind:<9} {who:<8} sends {sent:>9,} bytes a step, predicted {foreseen:>9,}, "
            f"written {traffic.written / sent:.1f} x; "
            f"weights {'equal' if difference < SAME else 'DIFFER'}"
        )
        if not difference < SAME:
            raise ValueError(f"{kind} {who}: weights differ by {difference:.2g}")


def save(folder: Path) -> None:
    """Train with fully sharded weights and write a checkpoint, every process its own part."""
    model = new_sharded()
    _train(
        model, model.parameters(), lambda x, y: mean_loss(model(_share(x)), _share(y)).backward()
    )
    # Asynchronous: the weights are copied at once, written while training could go on.
    writing = dcp.async_save({"model": get_model_state_dict(model)}, checkpoint_id=folder)
    writing.result()
    dist.barrier()
    _say(f"{dist.get_world_size()} processes wrote {len(list(folder.glob('*.distcp')))} files")


def load(folder: Path) -> None:
    """Read such a checkpoint, under any number of processes, and compare with one process."""
    model = new_sharded()
    state = {"model": get_model_state_dict(model)}
    dcp.load(state, checkpoint_id=folder)
    set_model_state_dict(model, state["model"])
    difference = largest_difference(model, one_process())
    same = "equal" if difference < SAME else "DIFFER"
    _say(f"{dist.get_world_size()} processes read them: weights {same} those of one process")
    if not difference < SAME:
        raise ValueError(f"loaded weights differ by {difference:.2g}")


def _say(line: str) -> None:
    if dist.get_rank() == 0:
        print(line, flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Join the other processes, run what is asked for, and leave."""
    parser = argparse.ArgumentParser(prog="torchrun ... -m appendix_performance.distributed")
    parser.add_argument("what", nargs="*", help=f"{', '.join(KINDS)}, save FOLDER or load FOLDER")
    what = parser.parse_args(arguments).what or list(KINDS)
    if "RANK" not in os.environ:
        parser.error("start it with torchrun --standalone --nproc_per_node=2 -m ...")
    if what[0] in ("save", "load") and len(what) != 2:
        parser.error(f"{what[0]} needs one folder")
    if what[0] not in ("save", "load") and not set(what) <= set(KINDS):
        parser.error(f"unknown: {', '.join(sorted(set(what) - set(KINDS)))}")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    try:
        if what[0] in ("save", "load"):
            {"save": save, "load": load}[what[0]](Path(what[1]))
        else:
            reference = one_process()
            for kind in what:
                compare(kind, reference)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
