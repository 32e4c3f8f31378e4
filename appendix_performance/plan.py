"""Planning a training run: the memory of each GPU, what all tell each other, and the time taken.

A plan splits a model over `tensor` x `pipeline` GPUs, and such groups over the batch. Numbers are
in bytes, seconds and operations. The calculator knows five things about a machine and one about
programs: which share of the peak large matrix products reach. It was not fitted to any run.

Sources: Narayanan et al. 2021, "Efficient large-scale language model training on GPU clusters using
Megatron-LM" (arXiv:2104.04473); Rajbhandari et al. 2019, "ZeRO" (arXiv:1910.02054); Korthikanti et
al. 2022, "Reducing activation recomputation in large Transformer models" (arXiv:2205.05198).
"""

from dataclasses import dataclass

__all__ = ["A100", "H100", "PUBLISHED", "Estimate", "Machine", "Plan", "Shape", "estimate"]

KERNEL_EFFICIENCY = 0.6  # of the peak, in large matrix products with everything between them
WEIGHT_BYTES, GRADIENT_BYTES = 2, 2  # bfloat16
OPTIMIZER_BYTES = 12  # float32: the weight itself and AdamW's two averages


@dataclass(frozen=True)
class Machine:
    """A GPU and its wires; speeds in one direction, for each GPU."""

    name: str
    peak: float | int  # operations per second, bfloat16, dense
    memory: float | int  # bytes
    inside: float | int  # bytes per second to the GPUs in the same box
    outside: float | int  # bytes per second to the others
    per_box: int = 8


# NVIDIA's data sheets: 312 TFLOP/s and NVLink 600 GB/s both ways together; 989 and 900. One network
# card of 200 or 400 Gbit/s for each GPU.
A100 = Machine("A100 80GB", 312e12, 80e9, 300e9, 25e9)
H100 = Machine("H100 80GB", 989e12, 80e9, 450e9, 50e9)


@dataclass(frozen=True)
class Shape:
    """A model's sizes, as far as they cost something."""

    n_layers: int
    d_model: int
    vocab_size: int
    context_length: int
    d_ff: int
    n_heads: int
    kv_share: float | int = 1.0  # n_kv_heads / n_heads
    gated: bool = False  # three feed-forward matrices instead of two
    tied: bool = True

    @property
    def matrix_weights(self) -> float:
        """Weights in the blocks' matrices."""
        attention = (2 + 2 * self.kv_share) * self.d_model**2
        return self.n_layers * (attention + (3 if self.gated else 2) * self.d_model * self.d_ff)

    @property
    def parameters(self) -> float:
        """All weights, but for norms, biases and learned positions."""
        return self.matrix_weights + (1 if self.tied else 2) * self.vocab_size * self.d_model

    def flops_per_token(self, recompute: bool = False) -> float:
        """Training: three times the forward pass, and a fourth of the blocks to recompute them."""
        attention = 2 * self.n_layers * self.d_model * self.context_length
        blocks = 2 * (self.matrix_weights + attention)
        return (4 if recompute else 3) * blocks + 6 * self.vocab_size * self.d_model


@dataclass(frozen=True)
class Plan:
    """How a run is shared out: GPUs = data x tensor x pipeline.

    `sharded` spreads weights, gradients and optimizer over the `data` GPUs (ZeRO stage 3);
    otherwise only the optimizer is spread (stage 1). `batch` is in sequences.

    Raises: ValueError if the GPUs do not divide into groups, or the batch among them.
    """

    n_gpus: int
    batch: int
    micro_batch: int = 1
    tensor: int = 1
    pipeline: int = 1
    sharded: bool = False
    recompute: bool = False

    def __post_init__(self):
        if self.n_gpus % (self.tensor * self.pipeline):
            raise ValueError(
                f"{self.n_gpus} GPUs do not divide into groups of {self.tensor} x {self.pipeline}"
            )
        if self.batch % (self.data * self.micro_batch):
            raise ValueError(
                f"a batch of {self.batch} sequences does not divide into micro-batches of "
                f"{self.micro_batch} for {self.data} groups"
            )

    @property
    def data(self) -> int:
        """How many groups share the batch."""
        return self.n_gpus // (self.tensor * self.pipeline)

    @property
    def n_micro(self) -> int:
        """Micro-batches that a group works through in a step."""
        return self.batch // (self.data * self.micro_batch)

    @property
    def bubble(self) -> float:
        """Idle time of a pipeline over its working time, (stages - 1) / micro-batches."""
        return (self.pipeline - 1) / self.n_micro


@dataclass(frozen=True)
class Estimate:
    """What a plan costs: bytes for each GPU, and seconds for each step."""

    state_bytes: float | int  # weights, gradients, optimizer
    activation_bytes: float | int
    compute_seconds: float | int  # with the bubble
    tensor_seconds: float | int  # waited for
    data_seconds: float | int  # mostly hidden behind the backward pass
    step_seconds: float | int
    tokens_per_second: float | int
    utilisation: float | int  # useful operations over the peak

    @property
    def memory(self) -> float:
        """Bytes for each GPU, without what the allocator wastes."""
        return self.state_bytes + self.activation_bytes

    def hours(self, tokens: float | int) -> float:
        """How long so many tokens take."""
        return tokens / self.tokens_per_second / 3600


def estimate(shape: Shape, plan: Plan, machine: Machine = A100) -> Estimate:
    """Memory, communication and time of one step."""
    split = plan.tensor * plan.pipeline
    own = shape.parameters / split
    spread = plan.data if plan.sharded else 1
    state = own * ((WEIGHT_BYTES + GRADIENT_BYTES) / spread + OPTIMIZER_BYTES / plan.data)
    tokens = plan.batch * shape.context_length
    flops = tokens * shape.flops_per_token(plan.recompute) / plan.n_gpus
    compute = flops / (KERNEL_EFFICIENCY * machine.peak) * (1 + plan.bubble)
    tensor, data = _tensor_seconds(shape, plan, machine), _data_seconds(own, plan, machine)
    # Weights and gradients of a block travel while another is computed; the rest is waited for.
    step = compute + tensor + max(0.0, data - compute)
    useful = tokens * shape.flops_per_token() / plan.n_gpus
    return Estimate(
        state_bytes=state,
        activation_bytes=_activation_bytes(shape, plan),
        compute_seconds=compute,
        tensor_seconds=tensor,
        data_seconds=data,
        step_seconds=step,
        tokens_per_second=tokens / step,
        utilisation=useful / step / machine.peak,
    )


def _activation_bytes(shape: Shape, plan: Plan) -> float:
    """Of a block 34 s b h bytes, or its input alone; of the head the logits and their gradient.

    Source: Korthikanti et al. 2022, equation 2 and table 2, with fused attention, which keeps no
    table of weights, and the tensor-parallel share of 24 of the 34.
    """
    row = plan.micro_batch * shape.context_length * shape.d_model
    layers = shape.n_layers / plan.pipeline
    in_flight = min(plan.pipeline, plan.n_micro)  # micro-batches waiting for their way back
    each = 2 * row if plan.recompute else (10 + 24 / plan.tensor) * row
    one_block = (10 + 24 / plan.tensor) * row if plan.recompute else 0
    logits = plan.micro_batch * shape.context_length * shape.vocab_size / plan.tensor
    return layers * in_flight * each + one_block + (2 + 4) * logits


def _tensor_seconds(shape: Shape, plan: Plan, machine: Machine) -> float:
    """Two all-reduces of B x T x C there and two back in every block, and two more to recompute."""
    if plan.tensor == 1:
        return 0.0
    stream = 2 * plan.micro_batch * shape.context_length * shape.d_model
    messages = (6 if plan.recompute else 4) * shape.n_layers / plan.pipeline * plan.n_micro
    sent = messages * 2 * stream * (plan.tensor - 1) / plan.tensor
    return sent / (machine.inside if plan.tensor <= machine.per_box else machine.outside)


def _data_seconds(own: float | int, plan: Plan, machine: Machine) -> float:
    """A reduce-scatter of the gradients and an all-gather of the weights, more if sharded."""
    if plan.data == 1:
        return 0.0
    gathers = 2 * plan.n_micro if plan.sharded else 1  # there and back, for every micro-batch
    passes = gathers * WEIGHT_BYTES + GRADIENT_BYTES
    wire = machine.inside if plan.n_gpus <= machine.per_box else machine.outside
    return own * passes * (plan.data - 1) / plan.data / wire


@dataclass(frozen=True)
class Published:
    """A run that others have reported, and the tokens per second of all its GPUs together."""

    name: str
    shape: Shape
    plan: Plan
    machine: Machine
    tokens_per_second: float | int
    source: str


def _gpt(n_layers: int, d_model: int, n_heads: int) -> Shape:
    return Shape(n_layers, d_model, 51_200, 2048, 4 * d_model, n_heads)


def _megatron(name: str, shape: Shape, plan: Plan, tflops: float | int) -> Published:
    """From TFLOP/s for each GPU, in which recomputation counts as work (equation 3 there)."""
    c, s = shape.d_model, shape.context_length
    per_token = 96 * shape.n_layers * c**2 * (1 + s / (6 * c))
    per_token += 6 * shape.vocab_size * c
    speed = tflops * 1e12 * plan.n_gpus / per_token
    return Published(name, shape, plan, A100, speed, "Narayanan et al. 2021, table 1")


GPT2_124M = Shape(12, 768, 50_304, 1024, 3072, 12)
LLAMA_65B = Shape(80, 8192, 32_000, 2048, 22_016, 64, gated=True, tied=False)

PUBLISHED = (
    Published(
        "GPT-2 124M, llm.c",
        GPT2_124M,
        Plan(8, batch=512, micro_batch=64),
        A100,
        10e9 / (90 * 60),
        'Karpathy 2024, "Reproducing GPT-2 (124M) in llm.c in 90 minutes for $20"',
    ),
    _megatron("GPT 1.7B", _gpt(24, 2304, 24), Plan(32, 512, recompute=True), 137),
    _megatron("GPT 7.5B", _gpt(36, 4096, 32), Plan(128, 512, 1, 4, recompute=True), 142),
    _megatron("GPT 18B", _gpt(40, 6144, 48), Plan(256, 1024, 1, 8, recompute=True), 135),
    _megatron("GPT 76B", _gpt(60, 10_240, 80), Plan(1024, 1792, 1, 8, 4, recompute=True), 140),
    _megatron("GPT 146B", _gpt(80, 12_288, 96), Plan(1536, 2304, 1, 8, 8, recompute=True), 148),
    Published(
        "LLaMA 65B",
        LLAMA_65B,
        Plan(2048, batch=2048, micro_batch=4, tensor=8, sharded=True),
        A100,
        380 * 2048,
        "Touvron et al. 2023 (arXiv:2302.13971), section 2.4",
    ),
)
