"""Where the book keeps what it makes, and how it writes a file so that no crash leaves half of one.

Everything the book downloads or trains goes into one folder, `.cache` at the repository's root or
wherever `LLM_CACHE_DIR` points. Deleting it costs time, never work.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = [
    "cache_folder",
    "check_sums",
    "make_folder",
    "whole_file",
    "write_sums",
    "write_whole",
]


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

    Raises:
        OSError: naming `path`, if the folder cannot be written or the disk is full.
    """
    with whole_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write to, piece by piece, that is at `path` once all of it has been written."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        if error.filename not in (None, str(beside)):  # of a file that was read meanwhile
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        beside.unlink(missing_ok=True)


SUMS = "SHA256SUMS"  # as `sha256sum` writes it: `sha256sum --check SHA256SUMS` verifies a folder


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Note the SHA-256 of these files in a file beside them."""
    lines = [f"{_sha256(folder / name)}  {name}\n" for name in names]
    write_whole(folder / SUMS, "".join(lines))


def check_sums(folder: Path) -> None:
    """Compare the files of a folder with what `write_sums` noted, if it noted anything.

    Raises:
        ValueError: naming the file, if one is not as it was written.
    """
    path = folder / SUMS
    for line in path.read_bytes().splitlines() if path.exists() else []:
        expected, _, name = line.decode("utf-8", "replace").partition("  ")
        file = folder / Path(name).name
        if not file.is_file() or _sha256(file) != expected:
            raise ValueError(
                f"{file} is altered: its SHA-256 is not the one in {path}. Make it again or, if "
                f"it was changed on purpose, delete {SUMS}"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
