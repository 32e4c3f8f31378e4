"""The model once more, in plain NumPy, on one page: from token ids to logits with our weights.

`weights` maps the names in `GPT.state_dict()` to arrays. What a model has is seen from the names:
biases, normed queries and keys, a gate. Only the sizes come from the config.

Shapes: T time, C d_model, H query heads, K key/value heads, D head_dim, V vocabulary.
"""

import numpy as np

__all__ = ["numpy_weights", "numpy_gpt"]


def numpy_weights(model) -> dict[str, np.ndarray]:
    """A model's weights as arrays, by name."""
    return {name: weights.numpy() for name, weights in model.state_dict().items()}


def numpy_gpt(ids, weights, config):
    """The logits (T, V) of the token after each of `ids`, a list of T token ids."""
    x = weights["token_embedding.weight"][ids]  # (T, C)
    if config.positions == "learned":
        x = x + weights["position_embedding.weight"][: len(ids)]
    for layer in range(config.n_layers):
        start = f"blocks.{layer}."
        block = {k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}
        x = x + attention(norm(x, block, "attention_norm", config), block, config)
        x = x + feed_forward(norm(x, block, "feed_forward_norm", config), block)
    return linear(norm(x, weights, "norm", config), weights, "head")


def linear(x, weights, name):
    """A matrix, and its bias if it has one."""
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)


def norm(x, weights, name, config):
    """RMS norm; with a bias it is layer norm, which moves the mean to 0 before."""
    if f"{name}.bias" in weights:
        x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_eps)
    return x * weights[f"{name}.weight"] + weights.get(f"{name}.bias", 0)


def attention(x, weights, config):
    """What each position gathers from itself and those before it."""
    T, H, K = len(x), config.n_heads, config.n_kv_heads
    heads = linear(x, weights, "attention.qkv").reshape(T, H + 2 * K, -1).swapaxes(0, 1)
    q, k, v = np.split(heads, [H, H + K])  # (H, T, D), (K, T, D), (K, T, D)
    if config.qk_norm:
        q = norm(q, weights, "attention.q_norm", config)
        k = norm(k, weights, "attention.k_norm", config)
    if config.positions == "rotary":
        q, k = rotate(q, config.rope_theta), rotate(k, config.rope_theta)
    k, v = (part.repeat(H // K, axis=0) for part in (k, v))
    scores = q @ k.swapaxes(1, 2) / config.head_dim**0.5  # (H, T, T)
    scores = np.where(np.tri(T, dtype=bool), scores, -np.inf)
    exps = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = exps / exps.sum(-1, keepdims=True) @ v  # (H, T, D)
    return linear(mixed.swapaxes(0, 1).reshape(T, -1), weights, "attention.out")


def rotate(x, theta):
    """Turn the pairs (a, b) of a position by its angles."""
    _, T, D = x.shape
    angles = np.outer(np.arange(T), theta ** (-np.arange(0, D, 2) / D))  # (T, D/2)
    cos, sin = np.cos(angles).astype(x.dtype), np.sin(angles).astype(x.dtype)
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate((a * cos - b * sin, b * cos + a * sin), axis=-1)


def feed_forward(x, weights):
    """SwiGLU where there is a gate, else GPT-2's GELU."""
    wide = linear(x, weights, "feed_forward.up")
    if "feed_forward.gate.weight" in weights:
        gate = linear(x, weights, "feed_forward.gate")
        wide = gate / (1 + np.exp(-gate)) * wide
    else:
        wide = wide / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (wide + 0.044715 * wide**3)))
    return linear(wide, weights, "feed_forward.down")
