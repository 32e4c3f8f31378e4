"""Checkpoints written while training goes on.

Whole or not at all is chapter 1's `write_whole`. What is added here is a thread: the weights are
copied, which is quick, and the copy is written while the next steps change the originals.
"""

from collections.abc import Mapping
from pathlib import Path
from threading import Thread

from safetensors.torch import save as to_bytes
from torch import Tensor

from ch01_overview.files import write_whole

__all__ = ["BackgroundSaver"]


class BackgroundSaver:
    """Writes tensors to files, one file at a time, on a thread of its own.

    Leave it by `wait`, or use it in a `with` statement: only then is the last file on the disk.
    """

    def __init__(self) -> None:
        self._thread: Thread | None = None
        self._error: Exception | None = None

    def save(self, path: str | Path, tensors: Mapping[str, Tensor]) -> None:
        """Copy the tensors now and write them soon; waits if the file before is not written yet.

        Raises: whatever went wrong with the file before.
        """
        self.wait()
        snapshot = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        self._thread = Thread(target=self._write, args=(Path(path), snapshot))
        self._thread.start()

    def _write(self, path: Path, snapshot: dict[str, Tensor]) -> None:
        try:
            write_whole(path, to_bytes(snapshot))
        except Exception as error:  # a thread's error would be lost: keep it for who waits
            self._error = error

    def wait(self) -> None:
        """Return when the last file is on the disk, whole.

        Raises: whatever went wrong with it.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def __enter__(self) -> "BackgroundSaver":
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
