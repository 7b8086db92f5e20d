"""A learning rate, or a grid of them, as a configuration has it."""

import math
from typing import Annotated, Any

from pydantic import PlainValidator
from pydantic_core import PydanticCustomError, PydanticKnownError


def _rate_or_grid(given: Any) -> Any:
    """A learning rate, or a list of different ones, as floats."""
    rates = given if isinstance(given, list | tuple) else [given]
    for rate in rates:
        if isinstance(rate, bool) or not isinstance(rate, int | float):
            raise PydanticKnownError("float_type")
        if not math.isfinite(rate):
            raise PydanticKnownError("finite_number")
        if rate <= 0:
            raise PydanticKnownError("greater_than", {"gt": 0})
    if not rates or len(set(rates)) != len(rates):
        raise PydanticCustomError("rates", "a list of learning rates needs at least one, and each once")
    return float(given) if rates is not given else [float(rate) for rate in rates]


RateOrGrid = Annotated[float | list[float], PlainValidator(_rate_or_grid)]
