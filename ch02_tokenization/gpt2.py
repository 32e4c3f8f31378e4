"""GPT-2's own vocabulary, if this machine has it.

It is 1.5 MB that tiktoken downloads once and keeps. The book runs without a network, so it looks
whether tiktoken has it already, and does without it if not. To get it, call
`tiktoken.get_encoding("gpt2")` once with a network.

Source: tiktoken 0.14, `tiktoken/load.py`, for the place and the names of the files.
"""

import hashlib
import os
import tempfile
from pathlib import Path

import tiktoken

__all__ = ["cached_gpt2"]

URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
FILES = ("vocab.bpe", "encoder.json")


def cached_gpt2() -> tiktoken.Encoding | None:
    """GPT-2's encoding from tiktoken's cache, or None if it is not there; downloads nothing."""
    folder = Path(tempfile.gettempdir()) / "data-gym-cache"
    for variable in ("DATA_GYM_CACHE_DIR", "TIKTOKEN_CACHE_DIR"):  # the second goes first
        folder = Path(os.environ.get(variable, folder))
    names = [hashlib.sha1((URL + file).encode()).hexdigest() for file in FILES]
    if all((folder / name).is_file() for name in names):
        return tiktoken.get_encoding("gpt2")
    return None
