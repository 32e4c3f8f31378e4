"""Plausible mistakes in the exercises of chapter 5, named `exercise__what_is_wrong`."""

import math

import torch

from ch05_pretraining import solutions


def windows__targets_are_the_inputs(ids, context_length):
    inputs, _ = solutions.windows(ids, context_length)
    return inputs, inputs


def windows__forgets_the_last_target(ids, context_length):
    n = (len(ids) - 2) // context_length
    end = n * context_length
    return ids[:end].view(n, context_length), ids[1 : end + 1].view(n, context_length)


def windows__targets_before_inputs(ids, context_length):
    return solutions.windows(ids, context_length)[::-1]


def cross_entropy__overflows(logits, targets):
    logits, targets = logits[targets != -100], targets[targets != -100]
    p = logits.exp() / logits.exp().sum(dim=-1, keepdim=True)
    return -p[torch.arange(len(targets)), targets].log().mean()


def cross_entropy__ignored_targets_count_in_the_mean(logits, targets):
    counted = targets != -100
    return solutions.cross_entropy(logits, targets) * counted.sum() / len(targets)


def cross_entropy__one_maximum_for_all(logits, targets):
    logits, targets = logits[targets != -100], targets[targets != -100]
    shifted = logits - logits.max()
    log_p = shifted - shifted.exp().sum(dim=-1, keepdim=True).log()
    return -log_p[torch.arange(len(targets)), targets].mean()


def wsd_rate__starts_at_zero(step, steps, warmup, decay):
    return min(1.0, step / max(1, warmup), (steps - step) / max(1, decay))


def wsd_rate__ends_at_zero(step, steps, warmup, decay):
    return min(1.0, (step + 1) / max(1, warmup), (steps - 1 - step) / max(1, decay))


def clip__each_tensor_by_itself(gradients, max_norm):
    return [solutions.clip([gradient], max_norm)[0] for gradient in gradients]


def clip__always_scales(gradients, max_norm):
    length = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
    return [gradient * max_norm / (length + 1e-6) for gradient in gradients]


def clip__by_value(gradients, max_norm):
    return [gradient.clamp(-max_norm, max_norm) for gradient in gradients]


def clip__in_place(gradients, max_norm):
    length = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
    return [gradient.mul_(min(1.0, max_norm / max(length, 1e-9))) for gradient in gradients]


def momentum_path__gradient_weighted_as_in_adam(start, gradients, lr, momentum):
    place, velocity = start.clone(), torch.zeros_like(start)
    for gradient in gradients:
        velocity = momentum * velocity + (1 - momentum) * gradient
        place = place - lr * velocity
    return place


def momentum_path__moves_before_it_adds(start, gradients, lr, momentum):
    place, velocity = start.clone(), torch.zeros_like(start)
    for gradient in gradients:
        place = place - lr * velocity
        velocity = momentum * velocity + gradient
    return place


def momentum_path__changes_the_start(start, gradients, lr, momentum):
    velocity = torch.zeros_like(start)
    for gradient in gradients:
        velocity = momentum * velocity + gradient
        start -= lr * velocity
    return start


def adamw_step__no_bias_correction(p, gradient, mean, mean_square, t, lr, betas, eps, weight_decay):
    options = (lr, betas, eps, weight_decay)
    return solutions.adamw_step(p, gradient, mean, mean_square, 10**6, *options)


def adamw_step__decay_in_the_gradient(
    p, gradient, mean, mean_square, t, lr, betas, eps, weight_decay
):
    gradient = gradient + weight_decay * p
    return solutions.adamw_step(p, gradient, mean, mean_square, t, lr, betas, eps, 0.0)


def adamw_step__eps_under_the_root(p, gradient, mean, mean_square, t, lr, betas, eps, weight_decay):
    mean = betas[0] * mean + (1 - betas[0]) * gradient
    mean_square = betas[1] * mean_square + (1 - betas[1]) * gradient**2
    root = (mean_square / (1 - betas[1] ** t) + eps).sqrt()
    p = p * (1 - lr * weight_decay) - lr * mean / (1 - betas[0] ** t) / root
    return p, mean, mean_square


def adamw_step__returns_the_corrected_means(
    p, gradient, mean, mean_square, t, lr, betas, eps, weight_decay
):
    options = (t, lr, betas, eps, weight_decay)
    p, mean, mean_square = solutions.adamw_step(p, gradient, mean, mean_square, *options)
    return p, mean / (1 - betas[0] ** t), mean_square / (1 - betas[1] ** t)


def polar__divides_by_the_norm(matrix):
    return matrix / torch.linalg.matrix_norm(matrix, 2)


def polar__signs_instead(matrix):
    return matrix.sign()


def polar__first_factor_alone(matrix):
    return torch.linalg.svd(matrix, full_matrices=False)[0]


def combined_gradient__mean_of_means(gradients, n_tokens):
    return sum(gradients) / len(gradients)


def combined_gradient__sum(gradients, n_tokens):
    return sum(gradients)


def signature__largest(members, functions, prime):
    return [max((a * x + b) % prime for x in members) for a, b in functions]


def signature__hash_of_the_smallest(members, functions, prime):
    return [(a * min(members) + b) % prime for a, b in functions]


def signature__member_instead_of_its_hash(members, functions, prime):
    return [min(members, key=lambda x, a=a, b=b: (a * x + b) % prime) for a, b in functions]


def never_drawn__share_not_drawn_without_replacement(n_windows, n_draws):
    return max(0.0, 1 - n_draws / n_windows)


def never_drawn__drawn_at_least_once(n_windows, n_draws):
    return 1 - (1 - 1 / n_windows) ** n_draws


def gpu_hours__two_operations(n_parameters, n_tokens, peak, utilisation):
    return 2 * n_parameters * n_tokens / (peak * utilisation) / 3600


def gpu_hours__in_seconds(n_parameters, n_tokens, peak, utilisation):
    return 6 * n_parameters * n_tokens / (peak * utilisation)


def gpu_hours__multiplies_by_utilisation(n_parameters, n_tokens, peak, utilisation):
    return 6 * n_parameters * n_tokens * utilisation / peak / 3600


def fit_power__forgets_the_floor(x, loss, floor):
    return solutions.fit_power(x, loss, 0.0)


def fit_power__sign_of_the_exponent(x, loss, floor):
    A, alpha = solutions.fit_power(x, loss, floor)
    return A, -alpha


def fit_power__line_in_numbers_not_logarithms(x, loss, floor):
    x, y = torch.tensor(x).double(), torch.tensor(loss).double() - floor
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    return (y.mean() - slope * x.mean()).item(), -slope.item()
