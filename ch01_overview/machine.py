"""What this machine can do: how many cores, how much memory, how fast it multiplies matrices.

Almost all the work of a language model is matrix products, so their speed foretells the time that
the book's models take. bfloat16 halves the bytes of a number; some CPUs multiply it several times
as fast as float32, others more slowly, and only a measurement tells.
"""

import os
import platform
from pathlib import Path
from time import perf_counter

import torch

__all__ = ["describe_machine", "matmul_speed", "memory_gib", "usable_cores"]

GIB = 1 << 30


def usable_cores() -> int:
    """The cores that this process may use, which in a container can be fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_gib() -> float | None:
    """The machine's memory, or the container's share of it, in GiB; None where nothing tells."""
    limits = []
    if hasattr(os, "sysconf") and {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(os.sysconf_names):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    control_group = Path("/sys/fs/cgroup/memory.max")
    if control_group.is_file() and (limit := control_group.read_text().strip()).isdigit():
        limits.append(int(limit))
    return min(limits) / GIB if limits else None


def matmul_speed(dtype: torch.dtype, size: int = 1024, seconds: float = 0.5) -> float:
    """Thousand million operations per second in products of two square matrices of this size.

    A product of two n x n matrices is n³ multiplications and as many additions. The fastest of all
    the products that fit into `seconds` counts: what else the machine does can only slow one down.

    Raises:
        ValueError: if `size` or `seconds` is not positive, or `seconds` has no end.
    """
    if size < 1 or not 0 < seconds < float("inf"):
        raise ValueError(f"size {size} and seconds {seconds} must be positive and finite")
    a, b = (torch.ones(size, size, dtype=dtype) for _ in range(2))
    a @ b  # the first product also pays for what is set up once
    best, end = float("inf"), perf_counter() + seconds
    while True:
        start = perf_counter()
        a @ b
        now = perf_counter()
        best = min(best, now - start)
        if now >= end:
            return 2 * size**3 / best / 1e9


def describe_machine() -> dict[str, str]:
    """What the environment cell prints, measured in about a second."""
    memory = memory_gib()
    full, half = matmul_speed(torch.float32), matmul_speed(torch.bfloat16)
    return {
        "Python, torch": f"{platform.python_version()}, {torch.__version__}",
        "processor": f"{platform.machine()}, {usable_cores()} cores to use",
        "threads of torch": str(torch.get_num_threads()),
        "memory": "unknown" if memory is None else f"{memory:.0f} GiB",
        "float32 products": f"{full:.3g} GFLOP/s",
        "bfloat16 products": f"{half:.3g} GFLOP/s, {half / full:.2g} times float32",
        "GPU (not needed)": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
