"""Operations of a training step, counted from the sizes of fully connected layers."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

Signal = Literal["backprop", "direct", "label"]


def operations(sizes: Sequence[int], signal: Signal) -> int:
    """Multiply-accumulates of one training step for one sample, biases left out.

        forward   sum_l n_l n_(l+1)
        update    sum_l n_l n_(l+1)              the outer products of every layer
        signal    sum_(l >= 1) n_l n_(l+1)       "backprop": the error passes every layer but the first
                  sum_(0 < l < L) n_l n_L        "direct": the output's error is projected on every hidden layer
                  0                              "label": a row of a table, as for NACA and random target projection

    Args:
        sizes: n_0 ... n_L, units from the input to the output.
        signal: how hidden layers are taught.
    """
    forward = sum(below * above for below, above in pairwise(sizes))
    taught = {
        "backprop": forward - sizes[0] * sizes[1],
        "direct": sum(sizes[1:-1]) * sizes[-1],
        "label": 0,
    }
    return 2 * forward + taught[signal]
