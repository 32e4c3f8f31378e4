"""How a vocabulary is written down: GPT-2's order and spelling of bytes, and tokenizer.json.

A file of text cannot hold every byte, so GPT-2 spells each one as a character that can be seen.
The 188 bytes that Latin-1 prints stand for themselves. The other 68 take the characters from U+0100
on, in order: the space becomes "Ġ", the line break "Ċ". The base tokens stand in this order too.

Sources: `bytes_to_unicode` in github.com/openai/gpt-2, src/encoder.py; for tokenizer.json, the
fields that `tokenizers` 0.23 writes.
"""

import json
from typing import Any

__all__ = [
    "BASE_TOKENS",
    "N_BASE",
    "base_ids",
    "from_tokenizer_json",
    "spell",
    "to_tokenizer_json",
    "unspell",
]

_PRINTED = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTED]
_SPELLING = dict(zip(_PRINTED, map(chr, _PRINTED), strict=True)) | {
    byte: chr(256 + i) for i, byte in enumerate(_OTHERS)
}
_BYTE_OF = {character: byte for byte, character in _SPELLING.items()}

BASE_TOKENS = [bytes([byte]) for byte in _SPELLING]  # id 0 is "!", and id 220 the space
N_BASE = len(BASE_TOKENS)
_ID_OF = bytes(BASE_TOKENS.index(bytes([byte])) for byte in range(256))

_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}


def base_ids(text: bytes) -> bytes:
    """The id of each byte, before any merge; below 256 they are, and so they are bytes again."""
    return text.translate(_ID_OF)


def spell(token: bytes) -> str:
    """The characters that stand for the bytes of a token: `spell(b" a")` is "Ġa"."""
    return "".join([_SPELLING[byte] for byte in token])


def unspell(token: str) -> bytes:
    """The bytes of a spelled token.

    Raises: ValueError if a character stands for no byte.
    """
    if strange := set(token) - _BYTE_OF.keys():
        raise ValueError(f"token {token!r} has {sorted(strange)}, which stands for no byte")
    return bytes([_BYTE_OF[character] for character in token])


def to_tokenizer_json(
    vocab: dict[int, bytes], merges: list[tuple[bytes, bytes]], special_ids: dict[str, int]
) -> str:
    """The text of the tokenizer.json that makes Hugging Face's `tokenizers` give the same ids."""
    exact = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    special = [{"id": i, "content": s, **exact, "special": True} for s, i in special_ids.items()]
    model = {
        "type": "BPE",
        "vocab": {spell(token): id for id, token in sorted(vocab.items())},
        "merges": [[spell(left), spell(right)] for left, right in merges],
    }
    fields = {
        "version": "1.0",
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": _BYTE_LEVEL,
        "post_processor": None,
        "decoder": _BYTE_LEVEL,
        "model": model,
    }
    return json.dumps(fields, ensure_ascii=False, indent=1)


def from_tokenizer_json(
    text: str | bytes,
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]], dict[str, int]]:
    """The vocabulary, the merges and the ids of the special tokens in a tokenizer.json.

    Raises: ValueError if it is no JSON, lacks a field, or has settings that give other ids.
    """
    fields = json.loads(text)
    try:
        _check_settings(fields)
        special_ids = {token["content"]: token["id"] for token in fields["added_tokens"]}
        # GPT-2's own file lists its special token among the ordinary ones, too.
        spelled = {t: id for t, id in fields["model"]["vocab"].items() if t not in special_ids}
        if not all(isinstance(token, str) for token in special_ids):
            raise TypeError("a special token is text")
        if not all(type(id) is int for id in (*special_ids.values(), *spelled.values())):
            raise TypeError("an id is a whole number")
        # Older files write a merge as one string. No spelled token has a space in it.
        pairs = [m.split(" ") if isinstance(m, str) else m for m in fields["model"]["merges"]]
        vocab = {id: unspell(token) for token, id in spelled.items()}
        return vocab, [(unspell(left), unspell(right)) for left, right in pairs], special_ids
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a field is missing or of another kind: {error!r}") from error


def _check_settings(fields: dict[str, Any]) -> None:
    model, split = fields["model"], fields["pre_tokenizer"] or {"type": None}
    kinds = model["type"], split["type"], (fields.get("post_processor") or _BYTE_LEVEL)["type"]
    if kinds != ("BPE", "ByteLevel", "ByteLevel"):
        raise ValueError(
            f"model, pre_tokenizer and post_processor are {kinds}, "
            "expected BPE, ByteLevel, and nothing or ByteLevel"
        )
    # These would quietly change ids; one that is null, false or "" is not in use.
    settings = "dropout byte_fallback ignore_merges continuing_subword_prefix end_of_word_suffix"
    used = [name for name in settings.split() if model.get(name)]
    used += [
        name
        for name in ("single_word", "lstrip", "rstrip")
        for token in fields["added_tokens"]
        if token.get(name)
    ]
    used += ["normalizer"] if fields.get("normalizer") else []
    used += ["add_prefix_space"] if split["add_prefix_space"] else []
    used += [] if split.get("use_regex", True) else ["use_regex=False"]
    if used:
        raise ValueError(f"it uses {', '.join(used)}, which gives other ids than GPT-2's way")
