"""What a computation costs: seconds, floating-point operations, bytes, and the machine's limits.

Speeds are in operations or bytes per second, sizes in bytes, times in seconds, without prefixes.

Sources: Williams et al. 2009, "Roofline: an insightful visual performance model for multicore
architectures" (Communications of the ACM 52:4); Kaplan et al. 2020, "Scaling laws for neural
language models" (arXiv:2001.08361), section 2.1, for operations per token; Chowdhery et al. 2022,
"PaLM" (arXiv:2204.02311), appendix B, for the utilisation of a machine by a model.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import flop_counter
from torch.utils.flop_counter import FlopCounterMode

from ch01_overview.machine import matmul_speed
from ch04_model.model import GPTConfig

__all__ = [
    "Timing",
    "benchmark",
    "machine_peak_flops",
    "memory_bandwidth",
    "attainable_flops",
    "flops_per_token",
    "counted_flops",
    "mfu",
    "saved_tensors",
    "saved_activation_bytes",
    "weight_bytes",
]


@dataclass(frozen=True)
class Timing:
    """The seconds of several runs of the same thing, in the order in which they were taken."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Half of the runs were faster: a single interruption does not move it."""
        return median(self.seconds)

    @property
    def best(self) -> float:
        """The fastest run, the closest to what the machine can do when it does nothing else."""
        return min(self.seconds)


def benchmark(fn: Callable[[], Any], *, repeats: int = 7, warmup: int = 1) -> Timing:
    """Call `fn` a few times unmeasured, then time each of `repeats` calls.

    The first calls also pay for what is set up once: memory, code paths, threads. On a GPU, which
    works on while Python runs ahead, the clock waits for it.

    Raises: ValueError if `repeats` is less than 1 or `warmup` is negative.
    """
    if repeats < 1 or warmup < 0:
        raise ValueError(f"repeats {repeats} must be at least 1, and warmup {warmup} at least 0")
    seconds = []
    for _ in range(warmup + repeats):
        _wait_for_gpu()
        start = perf_counter()
        fn()
        _wait_for_gpu()
        seconds.append(perf_counter() - start)
    return Timing(tuple(seconds[warmup:]))


def _wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine_peak_flops(dtype: torch.dtype = torch.float32, size: int = 1024) -> float:
    """Operations per second in the best of many products of two square matrices on the CPU."""
    return matmul_speed(dtype, size) * 1e9


def memory_bandwidth(n_bytes: int = 1 << 29, repeats: int = 5) -> float:
    """Bytes per second read from memory: a matrix of `n_bytes` times a vector, at the best.

    Such a product meets every weight once, as a step of decoding does. The matrix should be larger
    than the processor's last cache, which on a server can have hundreds of megabytes.
    """
    rows = max(1, n_bytes // (4 * 4096))
    weights, vector = torch.ones(rows, 4096), torch.ones(4096)
    timing = benchmark(lambda: weights @ vector, repeats=repeats)
    return weights.nbytes / timing.best


def attainable_flops(intensity: float, peak: float, bandwidth: float) -> float:
    """The roofline: operations per second at `intensity` operations per byte read from memory.

    Source: Williams et al. 2009.
    """
    return min(peak, intensity * bandwidth)


def flops_per_token(
    config: GPTConfig, context_length: int | None = None, training: bool = True
) -> int:
    """Floating-point operations for one token of a window, `context_length` of the model if None.

    A weight in a matrix product costs a multiplication and an addition. A position's query meets
    the keys, and its weights the values, of all T positions: what the kernel leaves out above the
    diagonal is counted, as in PaLM. (Kaplan et al. count half of it.) The backward pass needs two
    products for each one forward, so that training costs three times as much.

    Source: Kaplan et al. 2020, table 1; Chowdhery et al. 2022, appendix B.
    """
    c, T = config, context_length or config.context_length
    heads = (2 * c.n_heads + 2 * c.n_kv_heads) * c.head_dim  # rows of q and out, of k and v
    feed_forward = (3 if c.activation == "swiglu" else 2) * c.d_ff
    weights = c.n_layers * c.d_model * (heads + feed_forward) + c.d_model * c.vocab_size
    attention = c.n_layers * 2 * c.n_heads * c.head_dim * T
    return (3 if training else 1) * 2 * (weights + attention)


def counted_flops(fn: Callable[[], Any]) -> int:
    """The operations in matrix products and attention while `fn` runs, as torch counts them.

    Torch has formulas for the fused attention kernels of GPUs: two products forward and five
    backward, since such a kernel computes the scores a second time. The kernel of the CPU works in
    the same way and is counted by the same formulas.
    """
    ops = torch.ops.aten
    on_cpu = {
        ops._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        ops._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
    }
    with FlopCounterMode(display=False, custom_mapping=on_cpu) as counter:
        fn()
    return counter.get_total_flops()


def _attention_flops(q, k, v, *rest: Any, **options: Any) -> int:
    return flop_counter.sdpa_flop_count(q, k, v)


def _attention_backward_flops(grad, q, k, v, *rest: Any, **options: Any) -> int:
    return flop_counter.sdpa_backward_flop_count(grad, q, k, v)


def mfu(
    tokens_per_second: float, config: GPTConfig, peak: float, context_length: int | None = None
) -> float:
    """Model FLOP utilisation: the useful operations of training over the most the machine can do.

    Operations that are done twice to save memory do not count as useful.

    Source: Chowdhery et al. 2022, appendix B.
    """
    return tokens_per_second * flops_per_token(config, context_length) / peak


def saved_tensors(fn: Callable[[], Tensor], model: nn.Module | None = None) -> list[Tensor]:
    """What `fn` keeps for its backward pass, each piece of memory once, without `model`'s weights.

    `fn` must return what would be differentiated. Tensors that share memory count as the first.
    """
    own = _storages([*model.parameters(), *model.buffers()] if model is not None else [])
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in own:
            kept.setdefault(address, tensor)  # held on to, so that no address is used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = fn()
    del result
    return list(kept.values())


def saved_activation_bytes(fn: Callable[[], Tensor], model: nn.Module | None = None) -> int:
    """The bytes that `fn` keeps for its backward pass, without the weights of `model`."""
    return sum(tensor.untyped_storage().nbytes() for tensor in saved_tensors(fn, model))


def _storages(tensors: Iterable[Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


def weight_bytes(model: nn.Module) -> int:
    """The bytes of a model's weights, tied ones once, and of the buffers saved with them."""
    tensors = model.state_dict().values()
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())
