"""Training runs that others have published: the model, the plan, and the tokens per second.

Speeds are measured by those who publish them. Where they give operations per second, these are
turned back into tokens by the formula that they were made with.

Sources: Narayanan et al. 2021 (arXiv:2104.04473), table 1, with the plans in NVIDIA/Megatron-LM,
examples/sc21/run_table_1.sh; karpathy/llm.c, scripts/run_gpt2_124M.sh; bigscience-workshop/
bigscience, train/tr11-176B-ml/README.md; Touvron et al. 2023, "LLaMA" (arXiv:2302.13971); Llama
Team 2024, "The Llama 3 herd of models" (arXiv:2407.21783).
"""

from dataclasses import dataclass, replace

from appendix_performance.plan import A100, H100, Machine, Plan, Shape

__all__ = ["PUBLISHED", "Published"]


@dataclass(frozen=True)
class Published:
    """A run that others have reported, and the tokens per second of all its GPUs together."""

    name: str
    shape: Shape
    plan: Plan
    machine: Machine
    tokens_per_second: float | int
    source: str


def _megatron(name: str, sizes: tuple[int, int, int], tflops: float | int, **plan) -> Published:
    """From TFLOP/s for each GPU, in which recomputation counts as work (equation 3 there)."""
    n_layers, c, n_heads = sizes
    shape = Shape(n_layers, c, 51_200, 2048, 4 * c, n_heads)
    plan = Plan(**plan, zero=0, recompute=True)
    speed = tflops * 1e12 * plan.n_gpus / shape.flops_per_token(recompute=True)
    return Published(name, shape, plan, A100, speed, MEGATRON)


MEGATRON = "Narayanan et al. 2021, table 1; plans: Megatron-LM's examples/sc21/run_table_1.sh"
GPT2_124M = Shape(12, 768, 50_304, 1024, 3072, 12)
LLAMA_65B = Shape(80, 8192, 32_000, 2048, 22_016, 64, gated=True, tied=False)
BLOOM_176B = Shape(70, 14_336, 250_880, 2048, 57_344, 112)
LLAMA_405B = Shape(126, 16_384, 128_256, 8192, 53_248, 128, kv_share=1 / 16, gated=True, tied=False)
# Four links of 100 Gbit/s for the eight GPUs of a box.
JEAN_ZAY = replace(A100, name="A100 80GB, Jean Zay", outside=4 * 12.5e9 / 8)

PUBLISHED = (
    Published(
        "GPT-2 124M, llm.c",
        GPT2_124M,
        Plan(8, batch=512, micro_batch=64),
        A100,
        524_288 / 0.3,
        "Karpathy 2024, llm.c, scripts/run_gpt2_124M.sh: 524,288 tokens in about 300 ms",
    ),
    _megatron("GPT 1.7B", (24, 2304, 24), 137, n_gpus=32, batch=512, micro_batch=16),
    _megatron("GPT 3.6B", (30, 3072, 32), 138, n_gpus=64, batch=512, micro_batch=16, tensor=2),
    _megatron("GPT 7.5B", (36, 4096, 32), 142, n_gpus=128, batch=512, micro_batch=16, tensor=4),
    _megatron("GPT 18B", (40, 6144, 48), 135, n_gpus=256, batch=1024, micro_batch=8, tensor=8),
    _megatron(
        *("GPT 39B", (48, 8192, 64), 138),
        **{"n_gpus": 512, "batch": 1536, "micro_batch": 4, "tensor": 8, "pipeline": 2},
    ),
    _megatron(
        *("GPT 76B", (60, 10_240, 80), 140),
        **{"n_gpus": 1024, "batch": 1792, "micro_batch": 2, "tensor": 8, "pipeline": 4},
        interleave=3,
    ),
    _megatron(
        *("GPT 146B", (80, 12_288, 96), 148),
        **{"n_gpus": 1536, "batch": 2304, "micro_batch": 2, "tensor": 8, "pipeline": 8},
        interleave=2,
    ),
    _megatron(
        *("GPT 310B", (96, 16_384, 128), 155),
        **{"n_gpus": 1920, "batch": 2160, "tensor": 8, "pipeline": 16, "interleave": 2},
    ),
    _megatron(
        *("GPT 530B", (105, 20_480, 128), 163),
        **{"n_gpus": 2520, "batch": 2520, "tensor": 8, "pipeline": 35, "interleave": 3},
    ),
    _megatron(
        *("GPT 1T", (128, 25_600, 160), 163),
        **{"n_gpus": 3072, "batch": 3072, "tensor": 8, "pipeline": 64},
    ),
    Published(
        "BLOOM 176B",
        BLOOM_176B,
        Plan(384, batch=2048, micro_batch=2, tensor=4, pipeline=12, recompute=True),
        JEAN_ZAY,
        2048 * 2048 / 105,
        "BigScience 2022, bigscience/train/tr11-176B-ml/README.md: 105 seconds a step",
    ),
    # Of the plan the paper says "model and sequence parallelism" alone; the rest is assumed here.
    Published(
        "LLaMA 65B",
        LLAMA_65B,
        Plan(2048, batch=2048, micro_batch=2, tensor=8, sequence=True),
        A100,
        380 * 2048,
        "Touvron et al. 2023 (arXiv:2302.13971), section 2.4",
    ),
    # The paper does not say how its pipeline is interleaved, nor whether attention is among its
    # operations: not at all, and yes, are assumed here.
    Published(
        "Llama 3 405B",
        LLAMA_405B,
        Plan(8192, batch=2048, tensor=8, pipeline=16, zero=2, sequence=True),
        H100,
        430e12 * 8192 / LLAMA_405B.flops_per_token(),
        "Llama Team 2024 (arXiv:2407.21783), table 4: 430 TFLOP/s for each GPU",
    ),
)
