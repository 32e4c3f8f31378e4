"""Plausible mistakes in the exercises of chapter 1, named `exercise__what_is_wrong`."""

import math
from collections import Counter

import numpy as np

from ch01_overview import solutions


def bits_per_byte__stays_in_nats(nats_per_token, n_tokens, n_bytes):
    return nats_per_token * n_tokens / n_bytes


def bits_per_byte__multiplies_by_log_2(nats_per_token, n_tokens, n_bytes):
    return nats_per_token * n_tokens * math.log(2) / n_bytes


def bits_per_byte__tokens_and_bytes_swapped(nats_per_token, n_tokens, n_bytes):
    return nats_per_token * n_bytes / n_tokens / math.log(2)


def perplexity__product_underflows(probabilities):
    product = math.prod(probabilities)
    return product ** (-1 / len(probabilities)) if product else math.inf


def perplexity__product_underflows_and_raises(probabilities):
    return math.prod(probabilities) ** (-1 / len(probabilities))


def perplexity__mean_of_inverses(probabilities):
    return sum(1 / p for p in probabilities) / len(probabilities)


def perplexity__not_per_token(probabilities):
    return math.exp(min(700, -sum(math.log(p) for p in probabilities)))


def perplexity__of_the_median(probabilities):
    return math.exp(float(np.median([-math.log(p) for p in probabilities])))


def perplexity__forgets_to_return(probabilities):
    math.exp(-sum(math.log(p) for p in probabilities) / len(probabilities))


def entropy__in_nats(probabilities):
    return -sum(p * math.log(p) for p in probabilities if p > 0)


def entropy__unweighted(probabilities):
    return -sum(math.log2(p) for p in probabilities if p > 0) / len(probabilities)


def entropy__impossible_is_not_a_number(probabilities):
    p = np.array(probabilities)
    with np.errstate(all="ignore"):
        return float(-(p * np.log2(p)).sum())


def entropy__raises_at_zero(probabilities):
    return -sum(p * math.log2(p) for p in probabilities)


def letter_bits__counts_pieces(weights, chosen):
    return solutions.letter_bits(dict.fromkeys(weights, 1.0), chosen)


def letter_bits__all_at_the_first_letter(weights, chosen):
    total = math.log2(sum(weights.values()) / weights[chosen])
    return [total] + [0.0] * (len(chosen) - 1)


def letter_bits__negative(weights, chosen):
    return [-bits for bits in solutions.letter_bits(weights, chosen)]


def letter_bits__contained_anywhere(weights, chosen):
    bits = []
    for i in range(len(chosen)):
        before = sum(w for piece, w in weights.items() if chosen[:i] in piece)
        bits.append(math.log2(before / sum(w for p, w in weights.items() if chosen[: i + 1] in p)))
    return bits


def cross_entropy__overflows(scores, targets):
    powers = np.exp(scores)
    p = powers / powers.sum(axis=-1, keepdims=True)
    return float(-np.log(p[np.arange(len(targets)), targets]).mean())


def cross_entropy__one_maximum_for_all_rows(scores, targets):
    powers = np.exp(scores - scores.max())
    p = powers / powers.sum(axis=-1, keepdims=True)
    return float(-np.log(p[np.arange(len(targets)), targets]).mean())


def cross_entropy__summed(scores, targets):
    return solutions.cross_entropy(scores, targets) * len(targets)


def cross_entropy__softmax_over_columns(scores, targets):
    moved = scores - scores.max(axis=0)
    log_p = moved - np.log(np.exp(moved).sum(axis=0))
    return float(-log_p[np.arange(len(targets)), targets].mean())


def _softmax(scores):
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def cross_entropy__log_of_a_vanished_power(scores, targets):
    return float(-np.log(_softmax(scores)[np.arange(len(targets)), targets]).mean())


def cross_entropy__something_small_in_the_log(scores, targets):
    return float(-np.log(_softmax(scores)[np.arange(len(targets)), targets] + 1e-9).mean())


def cross_entropy__overwrites_the_scores(scores, targets):
    scores -= scores.max(axis=-1, keepdims=True)
    return solutions.cross_entropy(scores, targets)


def softmax_gradient__of_the_sum(scores, targets):
    return solutions.softmax_gradient(scores, targets) * len(targets)


def softmax_gradient__uphill(scores, targets):
    return -solutions.softmax_gradient(scores, targets)


def softmax_gradient__forgets_what_happened(scores, targets):
    powers = np.exp(scores)
    return powers / powers.sum(axis=-1, keepdims=True) / len(targets)


def softmax_gradient__overwrites_the_scores(scores, targets):
    scores[:] = _softmax(scores)
    scores[np.arange(len(targets)), targets] -= 1
    return scores / len(targets)


def numeric_gradient__one_sided(f, x, h=1e-5):
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        up = x.copy()
        up[index] += h
        gradient[index] = (f(up) - f(x)) / h
    return gradient


def numeric_gradient__forgets_to_move_back(f, x, h=1e-5):
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        x[index] += h
        up = f(x)
        x[index] -= 2 * h
        gradient[index] = (up - f(x)) / (2 * h)
    return gradient


def numeric_gradient__divides_by_h(f, x, h=1e-5):
    return 2 * solutions.numeric_gradient(f, x, h)


def numeric_gradient__two_dimensions_only(f, x, h=1e-5):
    rows, columns = x.shape
    return solutions.numeric_gradient(f, x.reshape(rows, columns), h)


def numeric_gradient__ignores_h(f, x, h=1e-5):
    return solutions.numeric_gradient(f, x)


def numeric_gradient__moves_back_by_adding(f, x, h=1e-5):
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        x[index] += h
        up = f(x)
        x[index] -= 2 * h
        gradient[index] = (up - f(x)) / (2 * h)
        x[index] += h
    return gradient


def held_out_loss__k_not_in_the_row_sum(train_counts, val_counts, k):
    p = (train_counts + k) / train_counts.sum(axis=1, keepdims=True)
    return float(-(val_counts * np.log2(p)).sum() / val_counts.sum())


def held_out_loss__over_columns(train_counts, val_counts, k):
    p = (train_counts + k) / (train_counts + k).sum(axis=0, keepdims=True)
    return float(-(val_counts * np.log2(p)).sum() / val_counts.sum())


def held_out_loss__zero_times_infinity(train_counts, val_counts, k):
    p = (train_counts + k) / (train_counts + k).sum(axis=1, keepdims=True)
    with np.errstate(all="ignore"):
        bits = np.nan_to_num(-np.log2(p), posinf=0.0)
        return float((val_counts * bits).sum() / val_counts.sum())


def held_out_loss__tested_on_the_training_text(train_counts, val_counts, k):
    return solutions.held_out_loss(train_counts, train_counts, k)


def held_out_loss__charges_what_never_happens(train_counts, val_counts, k):
    p = (train_counts + k) / (train_counts + k).sum(axis=1, keepdims=True)
    return float(-(val_counts * np.log2(p)).sum() / val_counts.sum())


def held_out_loss__no_number_for_an_unseen_row(train_counts, val_counts, k):
    p = (train_counts + k) / (train_counts + k).sum(axis=1, keepdims=True)
    happens = val_counts > 0
    return float(-(val_counts[happens] * np.log2(p[happens])).sum() / val_counts.sum())


def sample__left_side(probabilities, u):
    return int(np.searchsorted(np.cumsum(probabilities), u, side="left"))


def sample__likeliest(probabilities, u):
    return int(np.argmax(probabilities))


def sample__first_that_is_larger_than_u(probabilities, u):
    return next((i for i, p in enumerate(probabilities) if p > u), len(probabilities) - 1)


def sample__not_scaled_to_the_sum(probabilities, u):
    return int(np.searchsorted(np.cumsum(probabilities), u, side="right"))


def sample__clamped_to_the_last(probabilities, u):
    index = int(np.searchsorted(np.cumsum(probabilities), u, side="right"))
    return min(index, len(probabilities) - 1)


def with_temperature__multiplies(scores, temperature):
    return solutions.with_temperature(scores, 1 / temperature if temperature else 0)


def with_temperature__overflows(scores, temperature):
    powers = np.exp(scores / np.float64(temperature))
    return powers / powers.sum(axis=-1, keepdims=True)


def with_temperature__of_all_rows_together(scores, temperature):
    if temperature == 0:
        return solutions.with_temperature(scores, 0)
    powers = np.exp((scores - scores.max()) / temperature)
    return powers / powers.sum()


def with_temperature__one_maximum_for_all_rows(scores, temperature):
    if temperature == 0:
        return solutions.with_temperature(scores, 0)
    powers = np.exp((scores - scores.max()) / temperature)
    return powers / powers.sum(axis=-1, keepdims=True)


def with_temperature__never_quite_zero(scores, temperature):
    return _softmax(scores / max(temperature, 0.001))


def paired_difference__unpaired_error(bits_a, bits_b, n_bytes):
    ratio, _ = solutions.paired_difference(bits_a, bits_b, n_bytes)
    zero = np.zeros(len(n_bytes))
    errors = [solutions.paired_difference(bits, zero, n_bytes)[1] for bits in (bits_a, bits_b)]
    return ratio, math.hypot(*errors)


def paired_difference__mean_of_ratios(bits_a, bits_b, n_bytes):
    ratios = (bits_a - bits_b) / n_bytes
    return float(ratios.mean()), float(ratios.std() / math.sqrt(len(ratios)))


def paired_difference__deviation_not_error(bits_a, bits_b, n_bytes):
    ratio, error = solutions.paired_difference(bits_a, bits_b, n_bytes)
    return ratio, error * math.sqrt(len(n_bytes))


def witten_bell__counts_characters(train, val, order):
    as_bytes = train.encode().decode("latin-1"), val.encode().decode("latin-1")
    if as_bytes == (train, val):
        return solutions.witten_bell(train, val, order)
    return np.zeros(len(val))


def witten_bell__unseen_context_is_uniform(train, val, order):
    data, start = (train + val).encode(), len(train.encode())
    bits = []
    for end in range(start, len(data)):
        p = 1 / 256
        for length in range(order):
            context = data[end - length : end]
            ends = (i for i in range(length, start) if data[i - length : i] == context)
            seen = Counter(data[i] for i in ends)
            p = (seen[data[end]] + len(seen) * p) / (seen.total() + len(seen)) if seen else 1 / 256
        bits.append(-math.log2(p))
    return np.array(bits)


def witten_bell__one_byte_too_many(train, val, order):
    return solutions.witten_bell(train, val, order + 1)


def witten_bell__nats(train, val, order):
    return solutions.witten_bell(train, val, order) * math.log(2)
