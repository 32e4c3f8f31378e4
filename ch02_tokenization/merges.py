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
    words_with = defaultdict(list)  # a word that has a pair twice is listed twice
    for index, word in enumerate(words):
        for pair in map(add, word, word[1:]):
            words_with[pair].append(index)
    counts = {pair: sum([times[i] for i in where]) for pair, where in words_with.items()}

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
        # Few words have this pair. So nothing is counted again, but moved from old pairs to new.
        for old, new, where in _merge_in_words(pair, chr(n_tokens), words, words_with.pop(pair)):
            moved = sum([times[i] for i in where])
            counts[old] -= moved
            counts[new] = moved
            words_with[new] = where
            heappush(heap, (-moved, new))
        n_tokens += 1


def _merge_in_words(
    pair: str, merged: str, words: list[str], indices: list[int]
) -> list[tuple[str, str, list[int]]]:
    """Put `merged` in place of `pair`; return which pair gave way to which, and in which words.

    In "banana" the pair "an" is split off as "b", "", "a". What ends or starts a part was a
    neighbour of the pair and now is one of the merged token; an empty part makes two merged tokens
    neighbours of each other.
    """
    on_the_left, on_the_right, between = defaultdict(list), defaultdict(list), []
    for index in dict.fromkeys(indices):  # one split finds every place in a word
        parts = words[index].split(pair)
        words[index] = merged.join(parts)
        for before, after in pairwise(parts):
            if before:
                on_the_left[before[-1]].append(index)
            if after:
                on_the_right[after[0]].append(index)
        between += [index] * parts[1:-1].count("")
    left, right = pair
    changes = [(token + left, token + merged, where) for token, where in on_the_left.items()]
    changes += [(right + token, merged + token, where) for token, where in on_the_right.items()]
    return changes + ([(right + left, merged + merged, between)] if between else [])


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
