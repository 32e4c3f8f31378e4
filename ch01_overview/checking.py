"""How the exercises are marked: a wrong answer gets a reason and a hint, not a traceback.

A chapter's `checks.py` has a function for each exercise. It says what it tries and what should come
out; `checked` turns the outcome into one line.

    @checked
    def check_softmax(softmax):
        expect(softmax([0.0, 0.0]), [0.5, 0.5], "softmax([0.0, 0.0])", hint="Divide by the sum.")
"""

import math
from collections.abc import Callable
from functools import wraps
from inspect import isfunction
from numbers import Real
from typing import Any

import numpy as np
import torch

__all__ = ["WrongAnswerError", "checked", "expect", "require"]


class WrongAnswerError(Exception):
    """An answer that is not right yet. JupyterLab shows its message alone."""

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()


def checked(check: Callable[[Any], None]) -> Callable[[Any], None]:
    """Make `check_x` print "x: correct", or "x: not done yet" for a stub.

    What an answer raises is reported with the call that it was raised in.

    Raises:
        WrongAnswerError: if the answer is wrong, or raises something itself.
    """
    name = check.__name__.removeprefix("check_")

    @wraps(check)
    def run(answer: Any) -> None:
        calls: list[str] = []
        try:
            check(_noting(answer, calls) if isfunction(answer) else answer)
        except NotImplementedError:
            print(f"{name}: not done yet")
        except WrongAnswerError:
            raise
        except Exception as error:
            asked = calls[-1] if calls else name
            raise WrongAnswerError(
                f"Not right yet: {asked}\n  raised {type(error).__name__}: {error}\n"
                f"Hint: {_hint(error)} The check: {check.__doc__ or name}"
            ) from error
        else:
            print(f"{name}: correct")

    return run


def _hint(error: Exception) -> str:
    """What is usually behind an error that an answer raises."""
    if isinstance(error, ZeroDivisionError):
        return "what you divide by has become 0, as a product of many small numbers does."
    if isinstance(error, OverflowError):
        return "a number is too large for a float: subtract the largest, or use logarithms."
    if isinstance(error, ValueError) and ("math domain" in str(error) or "positive" in str(error)):
        return "of 0 there is no logarithm: what never happens is left out."
    return "your function itself raises this."


def _noting(answer: Callable, calls: list[str]) -> Callable:
    """The same function, which also notes the calls that are made of it."""

    @wraps(answer)
    def noting(*args: Any, **kwargs: Any) -> Any:
        given = [_short(arg) for arg in args]
        given += [f"{name}={_short(arg)}" for name, arg in kwargs.items()]
        calls.append(f"{answer.__name__}({', '.join(given)})")
        return answer(*args, **kwargs)

    return noting


def _short(value: Any) -> str:
    """The value in a few words: a large array by its shape, a function by its name."""
    if isinstance(value, torch.Tensor | np.ndarray):
        few = math.prod(value.shape) < 13
        return str(value.tolist()) if few else f"<array of shape {tuple(value.shape)}>"
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    text = repr(value)
    return text if len(text) < 90 else text[:86] + " ..."


def _side_by_side(got: torch.Tensor, expected: torch.Tensor) -> str:
    """Two small tables, and how far apart they are at most."""
    lines = []
    for label, table in (("should be", expected), ("got", got)):
        numbers = np.array2string(table.detach().numpy(), precision=4, prefix=" " * 12)
        lines.append(f"{label:<9} {numbers}")
    if (got.isnan() & ~expected.isnan()).any():
        return "\n  ".join([*lines, "some numbers are nan: a zero, or an infinity, was divided by"])
    apart = (got.double() - expected.double()).nan_to_num(0).abs().max().item()
    return "\n  ".join([*lines, f"apart by up to {apart:.2g}"])


def require(holds: bool, what: str, hint: str) -> None:
    """Reject the answer unless `what` holds."""
    if not holds:
        raise WrongAnswerError(f"Not right yet: {what}.\nHint: {hint}")


def expect(
    got: Any,
    expected: Any,
    asked: str,
    hint: str,
    tolerance: float | None = None,
) -> None:
    """Reject the answer unless `got` has the type, then the shape, then the values of `expected`.

    Nothing is broadcast or converted. Numbers in tensors and arrays may differ by what
    `torch.testing.assert_close` allows for their type, other numbers by a millionth; `tolerance`
    takes the place of both, relative and absolute.
    """

    items = isinstance(expected, list | tuple) and isinstance(got, type(expected))
    if items and len(got) == len(expected):
        for i, (one, other) in enumerate(zip(got, expected, strict=True)):
            expect(one, other, f"{asked}, item {i}", hint, tolerance)
    elif (fault := _fault(got, expected, tolerance)) is not None:
        raise WrongAnswerError(f"Not right yet: {asked}\n  {fault}\nHint: {hint}")


def _fault(got: Any, expected: Any, tolerance: float | None) -> str | None:
    """What is wrong with an answer; None if nothing is."""
    if got is None and expected is not None:
        return "got None: did you forget `return`?"
    # Where a float is expected, any real number will do; a bool is no number.
    kind = Real if isinstance(expected, float) else type(expected)
    if not isinstance(got, kind) or isinstance(got, bool) != isinstance(expected, bool):
        return f"should be of type {type(expected).__name__}, got {type(got).__name__}"
    if isinstance(expected, torch.Tensor | np.ndarray):
        return _fault_of_array(got, expected, tolerance)
    if isinstance(expected, float):
        near = 1e-6 if tolerance is None else tolerance
        same = math.isclose(got, expected, rel_tol=near, abs_tol=near)
        same = same or (math.isnan(got) and math.isnan(expected))
        return None if same else f"should be {expected:.6g}, got {got:.6g}"
    if isinstance(expected, list | tuple):
        return f"should have {len(expected)} items, got {len(got)}: {got!r}"
    return None if got == expected else f"should be {expected!r}\n  got       {got!r}"


def _fault_of_array(got: Any, expected: Any, tolerance: float | None) -> str | None:
    if got.shape != expected.shape:
        return f"should have shape {tuple(expected.shape)}, got {tuple(got.shape)}"
    if got.dtype != expected.dtype:
        return f"should have dtype {expected.dtype}, got {got.dtype}"
    got, expected = torch.as_tensor(got), torch.as_tensor(expected)
    try:
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
    except AssertionError as error:
        return _side_by_side(got, expected) if expected.numel() < 13 else str(error)
    return None
