"""Byte-pair encoding itself: learn which pairs of tokens to merge, and merge them in a word.

Both functions are built on a heap, which gives out its smallest entry first, and both are lazy
about it: an entry that has gone stale stays, and is put right or dropped on its way out.

Source: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units",
section 3.2.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from itertools import pairwise
from operator import add

from ch02_tokenization.formats import N_BASE, base_ids

__all__ = ["learn_merges", "merge_word"]


def learn_merges(word_counts: Counter[str], n_merges: int) -> Iterator[tuple[int, int]]:
    """The pairs of ids to merge, most frequent first; each makes the next id, from 256 on.

    Among equally frequent pairs the one with the lowest ids is first, as in Hugging Face's trainer.
    The search ends early when no word has two tokens left.
    """
    # A word is a string with one character, chr(id), for each token: no loop in Python cuts and
    # joins as fast as strings do, and strings sort by their ids.
    words = [base_ids(word.encode()).decode("latin-1") for word in word_counts]
    times = list(word_counts.values())

    # A merge changes few words. So pairs are counted once, and each merge then corrects the counts.
    counts, words_with = defaultdict(int), defaultdict(list)
    for index, word in enumerate(words):
        for pair in map(add, word, word[1:]):
            counts[pair] += times[index]
            words_with[pair].append(index)

    heap = [
        (-count, pair) for pair, count in counts.items()
    ]  # minus: the most frequent is smallest
    heapify(heap)
    n_tokens = N_BASE
    while heap and n_tokens < N_BASE + n_merges:
        count, pair = heappop(heap)
        if counts[pair] < -count:  # other merges used some of these: put it where it belongs now
            if counts[pair] > 0:
                heappush(heap, (-counts[pair], pair))
            continue
        yield ord(pair[0]), ord(pair[1])
        found = _merge_in_words(pair, chr(n_tokens), words_with.pop(pair), words, times, counts)
        for new_pair in found:
            heappush(heap, (-counts[new_pair], new_pair))
        words_with.update(found)
        n_tokens += 1


def _merge_in_words(
    pair: str,
    merged: str,
    indices: list[int],
    words: list[str],
    times: list[int],
    counts: dict[str, int],
) -> dict[str, list[int]]:
    """Put `merged` in the place of `pair`, correct `counts`, and return where the new pairs are."""
    left, right = pair
    found = defaultdict(list)
    for index in indices:
        parts = words[index].split(pair)  # "banana" around "an" is "b", "", "a"
        words[index] = merged.join(parts)
        n = times[index]
        for before, after in pairwise(parts):
            if before:
                counts[before[-1] + left] -= n
                counts[before[-1] + merged] += n
                found[before[-1] + merged].append(index)
            if after:
                counts[right + after[0]] -= n
                counts[merged + after[0]] += n
                found[merged + after[0]].append(index)
        # Nothing stood between two of the pairs: n + a was a pair too, and merged + merged now is.
        if n_adjacent := parts[1:-1].count(""):
            counts[right + left] -= n * n_adjacent
            counts[merged + merged] += n * n_adjacent
            found[merged + merged].append(index)
    return found


def merge_word(base_ids: bytes, merged_id: dict[tuple[int, int], int]) -> list[int]:
    """The tokens of one word: always the earliest merge that is possible, leftmost first.

    `merged_id` maps a pair of ids to the id of the token that it makes; the lower, the earlier.

    A word can be as long as its text, as a million times "a" is, and to search all of it before
    every merge would take n^2 steps. So each token is linked to its neighbours, and a heap holds
    the merges that are possible: n merges of log n steps.
    """
    end = -1  # no token: it stands behind the last one and, being ids[-1], in front of the first
    ids = [*base_ids, end]
    before = list(range(-1, len(base_ids)))
    after = [*range(1, len(ids)), -1]
    heap = [(merged_id[pair], i) for i, pair in enumerate(pairwise(ids)) if pair in merged_id]
    heapify(heap)
    while heap:
        new_id, i = heappop(heap)
        j = after[i]
        if merged_id.get((ids[i], ids[j])) != new_id:  # one of the two is part of another token
            continue
        ids[i], ids[j] = new_id, end
        after[i] = after[j]
        before[after[i]] = i
        for k in (before[i], i):
            pair = ids[k], ids[after[k]]
            if pair in merged_id:
                heappush(heap, (merged_id[pair], k))
    return [token for token in ids if token != end]
