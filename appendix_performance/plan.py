"""Planning a training run: the memory of each GPU, what all tell each other, and the time taken.

A plan splits a model over `tensor` x `pipeline` GPUs, and such groups over the batch. Numbers are
in bytes, seconds and operations. The calculator knows four things about a machine and one about
programs: which share of the peak a GPU reaches when it waits for nobody. That share was taken from
one published run, the first in `published.py`; no other was used.

Sources: Narayanan et al. 2021, "Efficient large-scale language model training on GPU clusters using
Megatron-LM" (arXiv:2104.04473); Rajbhandari et al. 2019, "ZeRO" (arXiv:1910.02054); Korthikanti et
al. 2022, "Reducing activation recomputation in large Transformer models" (arXiv:2205.05198).
"""

from dataclasses import dataclass

__all__ = [
    "A100",
    "H100",
    "Estimate",
    "Machine",
    "Plan",
    "Shape",
    "estimate",
    "state_bytes_per_weight",
    "utilisation",
]

KERNEL_EFFICIENCY = 0.6  # of the peak: what llm.c reports for 124M weights on one box, "~60% MFU"
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

    `zero` says what is spread over the `data` GPUs: 0 nothing, 1 the optimizer, 2 the gradients as
    well, 3 the weights, too. `interleave` cuts a stage into so many pieces, which shortens the
    bubble; `sequence` also splits what lies between the matrices of a tensor group, along the
    sequence. `batch` is in sequences.

    Raises: ValueError if the GPUs do not divide into groups, or the batch among them, or for an
    unknown stage of ZeRO.
    """

    n_gpus: int
    batch: int
    micro_batch: int = 1
    tensor: int = 1
    pipeline: int = 1
    interleave: int = 1
    zero: int = 1
    recompute: bool = False
    sequence: bool = False

    def __post_init__(self):
        if self.zero not in range(4):
            raise ValueError(f"ZeRO has the stages 0 to 3, not {self.zero}")
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
        """Idle time of a pipeline over its working time, (stages - 1) / micro-batches.

        Source: Narayanan et al. 2021, section 2.2, also for interleaving.
        """
        return (self.pipeline - 1) / self.n_micro / self.interleave


@dataclass(frozen=True)
class Estimate:
    """What a plan costs: bytes for each GPU, and seconds for each step."""

    state_bytes: float | int  # weights, gradients, optimizer
    activation_bytes: float | int
    compute_seconds: float | int  # with the bubble
    tensor_seconds: float | int  # waited for
    pipeline_seconds: float | int  # waited for
    data_seconds: float | int  # hidden behind the computing, as far as that is long enough
    step_seconds: float | int
    tokens_per_second: float | int
    utilisation: float | int  # useful operations over the peak

    @property
    def memory(self) -> float:
        """Bytes for each GPU, without what the allocator wastes."""
        return self.state_bytes + self.activation_bytes

    @property
    def waiting(self) -> float:
        """The share of the step in which a GPU waits for messages."""
        return 1 - self.compute_seconds / self.step_seconds

    def hours(self, tokens: float | int) -> float:
        """How long so many tokens take."""
        return tokens / self.tokens_per_second / 3600


def estimate(shape: Shape, plan: Plan, machine: Machine = A100) -> Estimate:
    """Memory, communication and time of one step."""
    own = shape.parameters / (plan.tensor * plan.pipeline)  # weights of this GPU's part
    tokens = plan.batch * shape.context_length
    flops = tokens * shape.flops_per_token(plan.recompute) / plan.n_gpus
    compute = flops / (KERNEL_EFFICIENCY * machine.peak) * (1 + plan.bubble)
    tensor = _tensor_seconds(shape, plan, machine)
    pipeline = _pipeline_seconds(shape, plan, machine)
    data = _data_seconds(own, plan, machine)
    # Weights and gradients of a block travel while another is computed; the rest is waited for.
    step = compute + tensor + pipeline + max(0.0, data - compute)
    return Estimate(
        state_bytes=own * state_bytes_per_weight(plan.zero, plan.data),
        activation_bytes=_activation_bytes(shape, plan),
        compute_seconds=compute,
        tensor_seconds=tensor,
        pipeline_seconds=pipeline,
        data_seconds=data,
        step_seconds=step,
        tokens_per_second=tokens / step,
        utilisation=utilisation(shape, tokens / step / plan.n_gpus, machine),
    )


def utilisation(shape: Shape, tokens_per_second: float, machine: Machine) -> float:
    """MFU: the useful operations of one GPU's tokens per second over its peak."""
    return tokens_per_second * shape.flops_per_token() / machine.peak


def state_bytes_per_weight(zero: int, data: int) -> float:
    """Weights, gradients and optimizer, of which each stage of ZeRO spreads more over `data` GPUs.

    Source: Rajbhandari et al. 2019, figure 1.
    """
    spread = [data if zero >= stage else 1 for stage in (3, 2, 1)]
    return WEIGHT_BYTES / spread[0] + GRADIENT_BYTES / spread[1] + OPTIMIZER_BYTES / spread[2]


def _activation_bytes(shape: Shape, plan: Plan) -> float:
    """Of a block 34 s b h bytes, or its input alone; of the head the logits and their gradient.

    Counted for a feed-forward layer of two matrices, four times as wide, with dropout, and for
    fused attention, which keeps no table of weights; Llama's three narrower ones come to 38. Tensor
    parallelism shares 24 of the 34, with `sequence` all. A stage starts no more micro-batches than
    there are stages before it turns round (one forward, one backward; Narayanan et al.).

    Source: Korthikanti et al. 2022, equations 2 and 4, and table 2.
    """
    row = plan.micro_batch * shape.context_length * shape.d_model
    layers = shape.n_layers / plan.pipeline
    in_flight = min(plan.pipeline, plan.n_micro)
    block = (34 / plan.tensor if plan.sequence else 10 + 24 / plan.tensor) * row
    kept = layers * in_flight * (2 * row if plan.recompute else block)
    logits = plan.micro_batch * shape.context_length * shape.vocab_size / plan.tensor
    return kept + (block if plan.recompute else 0) + (2 + 4) * logits


def _stream_bytes(shape: Shape, plan: Plan) -> int:
    """What stands between two blocks for a micro-batch, in bfloat16."""
    return 2 * plan.micro_batch * shape.context_length * shape.d_model


def _tensor_seconds(shape: Shape, plan: Plan, machine: Machine) -> float:
    """Two all-reduces of B x T x C there and two back in every block, and two more to recompute."""
    messages = (6 if plan.recompute else 4) * shape.n_layers / plan.pipeline * plan.n_micro
    sent = messages * 2 * _stream_bytes(shape, plan) * (plan.tensor - 1) / plan.tensor
    return sent / (machine.inside if plan.tensor <= machine.per_box else machine.outside)


def _pipeline_seconds(shape: Shape, plan: Plan, machine: Machine) -> float:
    """The stream to the next stage and its gradient back; each GPU of a group sends its share."""
    if plan.pipeline == 1:
        return 0.0
    messages = 2 * plan.n_micro * plan.interleave
    return messages * _stream_bytes(shape, plan) / plan.tensor / machine.outside


def _data_seconds(own: float | int, plan: Plan, machine: Machine) -> float:
    """Gradients are scattered and weights gathered, once a step or for every micro-batch.

    Who shares out the gradients has no room to add them up: every micro-batch sends its own. Who
    shares out the weights gathers them there and back.
    """
    gathers = 2 * plan.n_micro if plan.zero == 3 else 1
    scatters = plan.n_micro if plan.zero >= 2 else 1
    sent = own * (gathers * WEIGHT_BYTES + scatters * GRADIENT_BYTES) * (plan.data - 1) / plan.data
    return sent / (machine.inside if plan.n_gpus <= machine.per_box else machine.outside)
