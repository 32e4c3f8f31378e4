"""What a computation takes in memory: its largest tensor, and what it keeps for the gradient."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["LargestTensor", "saved_for_backward"]


class LargestTensor(TorchDispatchMode):
    """Notes the bytes of the largest tensor that is made while it is active.

    with LargestTensor() as largest:
        q @ k.transpose(-2, -1)
    largest.n_bytes
    """

    n_bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for made in out if isinstance(out, tuple | list) else (out,):
            if isinstance(made, Tensor):
                self.n_bytes = max(self.n_bytes, made.numel() * made.element_size())
        return out


def saved_for_backward(compute: Callable[[], Tensor]) -> int:
    """The bytes of all tensors that `compute` keeps until its gradient is asked for, each once."""
    storages = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = compute()
    del result
    return sum(storages.values())
