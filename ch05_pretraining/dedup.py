"""Cleaning a collection of texts: characters, duplicates, near duplicates, and leaks into the test.

Two texts are near duplicates when their sets of shingles (runs of words) overlap in large part. The
share is the Jaccard similarity, |A and B| / |A or B|. To compute it for all pairs is hopeless for
many texts, so each set is boiled down to a short signature from which it can be estimated.

Shapes: S texts, K hash functions.

Sources: Broder 1997, "On the resemblance and containment of documents" (shingles, minima of
permutations); Leskovec, Rajaraman & Ullman, "Mining of Massive Datasets", chapter 3 (bands);
Brown et al. 2020 (arXiv:2005.14165), appendix C (overlap of test and training text).
"""

import hashlib
import re
import unicodedata
import zlib
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from jaxtyping import UInt64

__all__ = [
    "candidate_pairs",
    "chance_of_candidate",
    "clean",
    "contaminated",
    "exact_duplicates",
    "jaccard",
    "minhash",
    "near_duplicates",
    "shingles",
]

PRIME = np.uint64((1 << 32) - 5)  # the largest below 2^32: products of two numbers fit 64 bits
INVISIBLE = re.compile(r"[\u200b\u200c\u200d\u2060\ufeff\u00ad]")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def clean(text: str) -> str:
    """One way of writing each character, line ends as LF, no invisible characters, no loose spaces.

    >>> clean("Cafe\\u0301  au\\u00a0lait \\r\\n\\r\\n\\r\\n\\r\\nend\\ufeff")
    'Café au lait\\n\\nend'
    """
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    text = CONTROL.sub("", INVISIBLE.sub("", text))
    text = re.sub(r"[^\S\n]+", " ", text)  # runs of any space but the line end
    text = re.sub(r" ?\n ?", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def words(text: str) -> list[str]:
    """The words in small letters, without punctuation: what must differ for a text to be new."""
    return re.findall(r"\w+", text.lower())


def exact_duplicates(texts: Sequence[str]) -> list[int]:
    """The texts whose words all occurred before, in the same order: which of them to drop."""
    seen, repeated = set(), []
    for i, text in enumerate(texts):
        key = hashlib.sha256(" ".join(words(text)).encode()).digest()
        if key in seen:
            repeated.append(i)
        seen.add(key)
    return repeated


def shingles(text: str, length: int = 3) -> frozenset[int]:
    """The runs of `length` words in a text, each as a number of 32 bits.

    A text of fewer words is a single shingle.

    Raises:
        ValueError: if `length` is below 1.
    """
    if length < 1:
        raise ValueError(f"shingles of {length} words: at least 1 needed")
    parts = words(text)
    runs = (parts[i : i + length] for i in range(max(1, len(parts) - length + 1)))
    return frozenset(zlib.crc32(" ".join(run).encode()) for run in runs)


def jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    """How much two sets share: 1 if they are equal, 0 if nothing. Two empty sets are equal."""
    return len(a & b) / len(a | b) if a or b else 1.0


def minhash(sets: Sequence[frozenset[int]], n_hashes: int = 128, seed: int = 0) -> np.ndarray:
    """For every set the smallest value of each of `n_hashes` hash functions over its members.

    A hash function x -> (a x + b) mod p puts all numbers into an order as good as random. The first
    member of "A or B" in that order is in both sets with the probability |A and B| / |A or B|, and
    then, and only then, the two minima agree. So the share of equal entries in two signatures
    estimates the similarity, with a standard error of sqrt(J (1 - J) / n_hashes).

    Raises:
        ValueError: if a set is empty, or `n_hashes` is below 1.
    """
    if n_hashes < 1:
        raise ValueError(f"{n_hashes} hash functions: at least 1 needed")
    rng = np.random.default_rng(seed)
    a = rng.integers(1, int(PRIME), size=(n_hashes, 1), dtype=np.uint64)
    b = rng.integers(0, int(PRIME), size=(n_hashes, 1), dtype=np.uint64)
    signatures = np.empty((len(sets), n_hashes), dtype=np.uint64)  # (S, K)
    for i, members in enumerate(sets):
        if not members:
            raise ValueError(f"set {i} is empty: there is no smallest member")
        x = np.fromiter(members, dtype=np.uint64)
        signatures[i] = ((a * x % PRIME + b) % PRIME).min(axis=1)
    return signatures


def chance_of_candidate(similarity: float, n_bands: int, n_rows: int) -> float:
    """The probability that two signatures agree in all rows of at least one band.

    >>> round(chance_of_candidate(0.5, n_bands=32, n_rows=4), 3)
    0.873

    Raises:
        ValueError: if the similarity is not from 0 to 1, or there is no band or no row.
    """
    if not 0 <= similarity <= 1 or n_bands < 1 or n_rows < 1:
        raise ValueError(f"similarity {similarity}, {n_bands} bands of {n_rows} rows: impossible")
    return 1 - (1 - similarity**n_rows) ** n_bands


def candidate_pairs(signatures: UInt64[np.ndarray, "S K"], n_bands: int) -> set[tuple[int, int]]:
    """The pairs of texts whose signatures agree in a whole band: only these need a closer look.

    Raises:
        ValueError: if the signatures cannot be cut into `n_bands` equal bands.
    """
    n_hashes = signatures.shape[1]
    if n_bands < 1 or n_hashes % n_bands:
        raise ValueError(f"{n_hashes} hashes cannot be cut into {n_bands} equal bands")
    pairs = set()
    for band in np.split(signatures, n_bands, axis=1):
        buckets = defaultdict(list)
        for i, row in enumerate(band):
            buckets[row.tobytes()].append(i)
        for bucket in buckets.values():
            pairs.update(combinations(bucket, 2))
    return pairs


def near_duplicates(
    texts: Sequence[str], threshold: float = 0.7, length: int = 3, n_hashes: int = 128
) -> list[tuple[int, int, float]]:
    """The pairs of texts whose shingles overlap by `threshold` or more, and by how much.

    Bands of four propose the pairs, the sets themselves decide. A pair of similarity 0.7 is missed
    once in six thousand times.

    Raises:
        ValueError: if the threshold is not from 0 to 1.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"the threshold is {threshold}, a similarity is from 0 to 1")
    sets = [shingles(text, length) for text in texts]
    pairs = candidate_pairs(minhash(sets, n_hashes), n_bands=n_hashes // 4)
    close = ((i, j, jaccard(sets[i], sets[j])) for i, j in sorted(pairs))
    return [(i, j, similarity) for i, j, similarity in close if similarity >= threshold]


def contaminated(train: Sequence[str], held_out: Sequence[str], length: int = 13) -> list[int]:
    """The held-out texts that share a run of `length` words with a training text.

    Source: Brown et al. 2020, appendix C, where the run has 8 to 13 words.
    """
    seen = set()
    for text in train:
        seen |= shingles(text, length)
    return [i for i, text in enumerate(held_out) if not seen.isdisjoint(shingles(text, length))]
