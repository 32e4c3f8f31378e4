"""Token ids on disk, as long as they may be, and the windows of them that a model trains on.

The stream of a corpus reads `EOT text EOT text EOT`: every text stands between two end-of-text
tokens. The one before is its start signal, the one after the last token for the model to predict.

Shapes: N ids in the stream, S texts, B batch, T time.
"""

import struct
import zlib
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, Int64, Integer
from torch import Tensor

from ch01_overview.files import whole_file

__all__ = ["write_tokens", "open_tokens", "document_starts", "take", "get_batch"]

HEADER = struct.Struct("<8sIIQ")  # the mark, bytes per id, CRC-32 of the ids, number of ids
MARK = b"tokens 1"
CHUNK = 1 << 20  # ids in memory at a time


def write_tokens(path: str | Path, ids: Iterable[int], vocab_size: int) -> int:
    """Write ids to a file as they come, in two bytes each if that is enough; return how many.

    The file appears whole or not at all, and need not fit into memory.

    Raises:
        ValueError: if an id is outside the vocabulary, or there are none.
    """
    ids, width = iter(ids), 2 if vocab_size <= 1 << 16 else 4
    n, check = 0, 0
    with whole_file(path) as file:
        file.write(bytes(HEADER.size))
        while len(chunk := np.fromiter(islice(ids, CHUNK), dtype=np.int64)):
            check_vocabulary(chunk, vocab_size)
            data = chunk.astype(f"<u{width}").tobytes()
            n, check = n + len(chunk), zlib.crc32(data, check)
            file.write(data)
        if n == 0:
            raise ValueError(f"nothing to write to {path}: 0 token ids, at least 1 needed")
        file.seek(0)
        file.write(HEADER.pack(MARK, width, check, n))
    return n


def open_tokens(path: str | Path) -> Integer[np.ndarray, "N"]:
    """The ids in a file by `write_tokens`, left on the disk and read from it as needed.

    The whole file is read once, for its checksum.

    Raises:
        ValueError: if the file is something else, truncated or altered.
    """
    path = Path(path)
    with path.open("rb") as file:
        header = file.read(HEADER.size).ljust(HEADER.size)
    mark, width, check, n = HEADER.unpack(header)
    if mark != MARK or width not in (2, 4):
        raise ValueError(f"{path} is not a token file: make one with write_tokens")
    size, expected = path.stat().st_size, HEADER.size + width * n
    if size != expected:
        raise ValueError(f"{path} is truncated or altered: {size} bytes, expected {expected}")
    ids = np.memmap(path, dtype=f"<u{width}", mode="r", offset=HEADER.size)
    if zlib.crc32(ids) != check:
        raise ValueError(f"{path} is altered: its checksum is not {check:08x}; write it again")
    return ids


def check_vocabulary(ids: Integer[Tensor | np.ndarray, "N"], vocab_size: int) -> None:
    """Raise a ValueError if any id is outside 0 to vocab_size - 1."""
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab_size:
        raise ValueError(
            f"token ids go from {low} to {high}, the vocabulary from 0 to {vocab_size - 1}: "
            "encode the text with the model's own tokenizer"
        )


def document_starts(ids: Integer[Tensor | np.ndarray, "N"], end_of_text: int) -> Int64[Tensor, "S"]:
    """Where each text begins: the position of the end-of-text token before it.

    >>> document_starts(torch.tensor([0, 7, 8, 0, 9, 0]), end_of_text=0)
    tensor([0, 3])

    Raises:
        ValueError: if the stream does not begin with `end_of_text`, or holds no text.
    """
    if len(ids) < 2 or int(ids[0]) != end_of_text:
        raise ValueError(f"a stream of texts begins with {end_of_text} and a text, got {ids[:2]}")
    candidates = ids[:-1]  # nothing begins at the last id
    found = [
        np.flatnonzero(np.asarray(candidates[i : i + CHUNK]) == end_of_text) + i
        for i in range(0, len(candidates), CHUNK)
    ]
    return torch.from_numpy(np.concatenate(found))


def take(
    ids: Integer[Tensor | np.ndarray, "N"], positions: Int[Tensor, "*shape"]
) -> Int64[Tensor, "*shape"]:
    """The ids at these positions; of a file, only the parts that hold them are read.

    Raises:
        ValueError: if a position is below 0 or beyond the last id.
    """
    low, high = (int(end) for end in positions.aminmax()) if positions.numel() else (0, 0)
    if low < 0 or high >= len(ids):
        raise ValueError(f"positions from {low} to {high} in a stream of {len(ids)} ids")
    if isinstance(ids, Tensor):
        return ids[positions].long()
    return torch.from_numpy(ids[positions.numpy()].astype(np.int64))


def get_batch(
    ids: Integer[Tensor | np.ndarray, "N"],
    batch_size: int,
    context_length: int,
    generator: torch.Generator,
    starts: Int[Tensor, "S"] | None = None,
) -> tuple[Int64[Tensor, "B T"], Int64[Tensor, "B T"]]:
    """Draw windows of the stream, and for every token in them the one that follows it.

    Windows start anywhere, or at one of `starts`: in a window that starts where a text does, every
    token comes with all that it depends on.

    Raises:
        ValueError: if the stream is too short for one window, or for one from any of `starts`, or
            a size is below 1.
    """
    if batch_size < 1 or context_length < 1:
        raise ValueError(f"{batch_size} windows of {context_length} tokens: at least 1 of each")
    n_positions = len(ids) - context_length  # the target of the last input must exist too
    if n_positions < 1:
        raise ValueError(
            f"{len(ids)} tokens are too few for a window of {context_length} and the one after it: "
            "give more text or a smaller context_length"
        )
    if starts is None:
        begin = torch.randint(n_positions, (batch_size,), generator=generator)
    else:
        starts = starts[starts < n_positions]
        if len(starts) == 0:
            raise ValueError(
                f"no text starts {context_length} tokens or more before the end of {len(ids)}: "
                "give more text or a smaller context_length"
            )
        begin = starts[torch.randint(len(starts), (batch_size,), generator=generator)]
    windows = take(ids, begin[:, None] + torch.arange(context_length + 1))  # (B, T + 1)
    return windows[:, :-1], windows[:, 1:]
