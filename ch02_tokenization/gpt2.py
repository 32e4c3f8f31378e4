"""GPT-2's own vocabulary, if this machine has it.

It is 1.5 MB that tiktoken downloads once and keeps. The book runs without a network, so it looks
whether tiktoken has it already, undamaged, and does without it if not. To get it, call
`tiktoken.get_encoding("gpt2")` once with a network.

Source: tiktoken 0.14, `tiktoken/load.py`, for the place and the names of the files, and
`tiktoken_ext/openai_public.py` for their SHA-256.
"""

import hashlib
import os
import tempfile
from pathlib import Path

import tiktoken

__all__ = ["cached_gpt2"]

URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
FILES = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}


def cached_gpt2() -> tiktoken.Encoding | None:
    """GPT-2's encoding from tiktoken's cache, or None if it is not there; downloads nothing."""
    folder = str(Path(tempfile.gettempdir()) / "data-gym-cache")
    for variable in ("DATA_GYM_CACHE_DIR", "TIKTOKEN_CACHE_DIR"):  # the second goes first
        folder = os.environ.get(variable, folder)
    kept = bool(folder)  # an empty name tells tiktoken to keep nothing
    if kept and all(_is_kept(Path(folder), file) for file in FILES):
        return tiktoken.get_encoding("gpt2")
    return None


def _is_kept(folder: Path, file: str) -> bool:
    """Whether the file is there with the right content; a damaged one is downloaded again."""
    path = folder / hashlib.sha1((URL + file).encode()).hexdigest()
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == FILES[file]
