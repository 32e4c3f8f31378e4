"""Number formats: what a pattern of bits says, for any split into sign, exponent and fraction.

Sources: IEEE 754-2019, section 3.4, for float32 and float16; Micikevicius et al. 2022, "FP8 formats
for deep learning" (arXiv:2209.05433), for the two of eight bits.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["FORMATS", "Format", "bits", "decode"]


@dataclass(frozen=True)
class Format:
    """How many bits are exponent and how many fraction; one more is the sign.

    `finite` says that the highest exponent holds numbers like any other, but for one NaN.
    """

    dtype: torch.dtype
    n_exponent: int
    n_fraction: int
    finite: bool = False

    @property
    def n_bits(self) -> int:
        """All of them."""
        return 1 + self.n_exponent + self.n_fraction

    @property
    def bias(self) -> int:
        """What is taken off the exponent, so that half of the exponents are negative."""
        return 2 ** (self.n_exponent - 1) - 1


FORMATS = {
    "float32": Format(torch.float32, 8, 23),
    "bfloat16": Format(torch.bfloat16, 8, 7),
    "float16": Format(torch.float16, 5, 10),
    "float8 e4m3": Format(torch.float8_e4m3fn, 4, 3, finite=True),
    "float8 e5m2": Format(torch.float8_e5m2, 5, 2),
}
WHOLE = {8: torch.uint8, 16: torch.int16, 32: torch.int32}


def decode(pattern: str, f: Format) -> float:
    """The number that a pattern of zeros and ones stands for.

    (-1)^sign x 2^(exponent - bias) x 1.fraction; with exponent 0 there is no leading one, so that
    the numbers go on evenly down to zero.

    Raises: ValueError if the pattern has another length than the format.
    """
    if len(pattern) != f.n_bits or set(pattern) - {"0", "1"}:
        raise ValueError(f"{pattern!r} has {len(pattern)} signs, the format {f.n_bits} bits")
    sign = -1.0 if pattern[0] == "1" else 1.0
    exponent = int(pattern[1 : 1 + f.n_exponent], 2)
    fraction = int(pattern[1 + f.n_exponent :], 2) / 2**f.n_fraction
    highest = exponent == 2**f.n_exponent - 1
    if highest and not f.finite:
        return sign * float("inf") if fraction == 0 else float("nan")
    if highest and fraction == 1 - 2**-f.n_fraction:
        return float("nan")
    if exponent == 0:
        return sign * 2.0 ** (1 - f.bias) * fraction
    return sign * 2.0 ** (exponent - f.bias) * (1 + fraction)


def bits(number: float | Tensor, f: Format) -> str:
    """The pattern of the number of this format that is nearest to `number`."""
    stored = torch.as_tensor(number).to(f.dtype).view(WHOLE[f.n_bits])
    return format(int(stored) & (2**f.n_bits - 1), f"0{f.n_bits}b")
