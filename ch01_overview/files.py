"""Where the book keeps what it makes, and how it writes a file so that no crash leaves half of one.

Everything the book downloads or trains goes into one folder, `.cache` at the repository's root or
wherever `LLM_CACHE_DIR` points. Deleting it costs time, never work.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

__all__ = ["cache_folder", "make_folder", "write_whole"]


def cache_folder() -> Path:
    """The folder of all that can be made again: `$LLM_CACHE_DIR`, or `.cache` in the book."""
    folder = Path(os.environ.get("LLM_CACHE_DIR") or Path(__file__).parents[1] / ".cache")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_whole(path: str | Path, data: str | bytes) -> None:
    """Write `data` (text as UTF-8) to `path`, whole or not at all.

    The bytes go to a file beside `path`, are flushed to the disk, and take the name in one step. A
    crash at any moment leaves the old file or the new one; two processes that write at once leave
    one of the two.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def make_folder(folder: Path, fill: Callable[[Path], object]) -> None:
    """Make `folder` whole or not at all: `fill` writes its files beside it, then it is renamed.

    If another process made it in the meantime, that one stays.
    """
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        fill(beside)
        if not folder.exists():
            beside.rename(folder)
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
