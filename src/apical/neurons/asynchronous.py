"""Outputs whose inputs arrive one after another and fade: several outputs for each example, and early decisions."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from apical.errors import ConfigError, DataError
from apical.options import check_choice, check_positive

Scenario = Literal["synaptic", "dendritic", "classical"]

# Weights of inputs, exp(t / decay), must stay far from the ends of single precision.
LONGEST_WINDOW = 100.0  # in decays


class Responses(NamedTuple):
    """What an asynchronous network does at the arrival of each input, (batch, outputs, dendrites, inputs of each).

    Attributes:
        potential: V of the dendrite at which the input arrives, at that time.
        bits: whether it reaches the threshold.
    """

    potential: Tensor
    bits: Tensor


class AsynchronousNetwork(nn.Module):
    r"""Outputs with dendrites whose inputs arrive one after another and fade; an output bit at every arrival.

    Input j arrives once, at the time t_j, with an amplitude x_j, at dendrite k of each output:

        V_k(t_i) = J_k Σ_{j at k, t_j <= t_i} w_j x_j exp(-(t_i - t_j) / T)       bit_i = V_k(t_i) >= θ

    So one example gives as many bits as there are inputs, and as many errors to learn from. Inputs that arrive at one
    time count in their order. With teacher's bits B and e_i = B_i - bit_i, `teach` leaves in `.grad` minus:

        synaptic     Δw_j = Σ_{i at k, t_i >= t_j} e_i x_j exp(-(t_i - t_j) / T)
        dendritic    ΔJ_k = Σ_{i at k} e_i V_k(t_i) / J_k,  J_k between reflecting boundaries (`reflect`)

    Any optimizer takes the step: `torch.optim.SGD` with constant step sizes, `apical.optim.Adaptation` with ones that
    grow while the steps of a synapse keep one direction. Which of the two learns is which of `weight` and `gain`
    the optimizer is given.

    Args:
        inputs: of all dendrites of an output together; dendrite k has the k-th of `dendrites` equal parts of them.
        outputs: units, each with weights and gains of its own.
        dendrites: K, of each output. It divides `inputs`.
        window: arrival times lie between 0 and this, in ms.
        decay: T, in ms.
        threshold: θ. At 0 the gains would change no bit.
        gain_range: the reflecting boundaries of J, positive. Gains begin at its geometric mean.
        seed: of the initial weights, drawn from N(0, 2 window / (inputs of a dendrite * T)), such that the potential of
            inputs of size 1 has a standard deviation of about J.

    Attributes:
        weight: w, (outputs, dendrites, inputs of each).
        gain: J, (outputs, dendrites).

    Raises:
        ConfigError: constants out of range.

    Source: Uzan et al., "Biological learning curves outperform existing ones in artificial intelligence algorithms"
    (Scientific Reports 9, 11558, 2019), and Sardi et al. (Scientific Reports 10, 6923, 2020). A reconstruction: their
    abstracts name the ingredients (asynchronous inputs, decaying summation, several outputs for each example, dendritic
    learning between reflecting boundaries), but no code was published and their equations could not be compared. All
    constants are ours: T = 20 ms, the window, θ, the boundaries and the size of the initial weights.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        dendrites: int = 1,
        window: float = 100.0,
        decay: float = 20.0,
        threshold: float = 1.0,
        gain_range: tuple[float, float] = (0.25, 4.0),
        seed: int = 0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_positive(name, inputs=inputs, outputs=outputs, dendrites=dendrites, window=window, decay=decay)
        low, high = gain_range
        check_positive(name, gain_range=low)
        if inputs % dendrites:
            raise ConfigError(f"{name}: {dendrites} dendrites do not divide {inputs} inputs evenly.")
        if not (math.isfinite(high) and high > low):
            raise ConfigError(f"{name}: gain_range={gain_range!r} must be two rising, finite numbers.")
        if not (math.isfinite(threshold) and threshold >= 0):
            raise ConfigError(f"{name}: threshold={threshold!r} must be a number of at least 0.")
        if window > LONGEST_WINDOW * decay:
            raise ConfigError(
                f"{name}: a window of {window:g} ms is more than {LONGEST_WINDOW:g} decays of {decay:g} ms, and what "
                "arrives early would be forgotten long before its end: take a shorter window or a longer decay."
            )
        self.window = window
        self.decay = decay
        self.threshold = threshold
        self.gain_range = gain_range
        each = inputs // dendrites
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(outputs, dendrites, each, generator=generator)
        self.weight = nn.Parameter(drawn * math.sqrt(2 * window / (each * decay)))
        self.gain = nn.Parameter(torch.full((outputs, dendrites), math.sqrt(low * high)))

    def arrivals(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Random arrival times, uniform in the window."""
        return self.window * torch.rand(*shape, generator=generator)

    @torch.no_grad()
    def forward(self, x: Tensor, times: Tensor) -> Responses:
        """The bits at all arrivals.

        Args:
            x: amplitudes, (batch, inputs), or (batch, outputs, inputs) where each output has inputs of its own.
            times: when they arrive, in ms, from 0 to the window; of the same shape.

        Raises:
            DataError: a shape or a time is not as above.
        """
        x, times = self._by_dendrite(x, times)
        potential = self.gain[..., None] * _fading_sum(self.weight * x, times / self.decay)
        return Responses(potential, potential >= self.threshold)

    @torch.no_grad()
    def teach(self, x: Tensor, times: Tensor, target: Tensor) -> Responses:
        """Leave in `.grad` of `weight` and `gain` minus the change that errors ask for, the batch's mean.

        Args:
            x: amplitudes, as for `forward`.
            times: as for `forward`.
            target: the bits that a teacher wants, broadcasting with (batch, outputs, dendrites, inputs of each).

        Returns:
            What the network did.
        """
        responses = self.forward(x, times)
        x, times = self._by_dendrite(x, times)
        error = (target.to(self.weight.dtype) - responses.bits.to(self.weight.dtype)).expand_as(responses.bits)
        # What fades forwards in time for inputs fades backwards for the errors that they took part in.
        eligible = x * _fading_sum(error.contiguous(), times / self.decay, backwards=True)
        self.weight.grad = -eligible.mean(dim=0)
        self.gain.grad = -(eligible * self.weight).sum(dim=3).mean(dim=0)
        return responses

    @torch.no_grad()
    def reflect(self) -> None:
        """Turn gains that went beyond a boundary back by as much, so that they swing between the two."""
        low, high = self.gain_range
        width = high - low
        self.gain.copy_(high - (torch.remainder(self.gain - low, 2 * width) - width).abs())

    def _by_dendrite(self, x: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        outputs, dendrites, each = self.weight.shape
        inputs = dendrites * each
        if (
            x.shape != times.shape
            or x.shape[-1] != inputs
            or x.dim() not in (2, 3)
            or x.shape[1:-1] not in ((), (outputs,))
        ):
            raise DataError(
                f"AsynchronousNetwork: amplitudes of shape {tuple(x.shape)} and times of shape {tuple(times.shape)}; "
                f"wanted are (batch, {inputs}) or (batch, {outputs}, {inputs}), both of one shape."
            )
        if not bool(((times >= 0) & (times <= self.window)).all()):
            raise DataError(
                f"AsynchronousNetwork: arrival times must lie between 0 and the window, {self.window:g} ms."
            )
        shape = (len(x), -1, dendrites, each)
        return x.reshape(shape), times.reshape(shape)


def _fading_sum(amplitude: Tensor, ages: Tensor, *, backwards: bool = False) -> Tensor:
    """At every arrival the sum of what arrived until then, each faded by exp(-age): a cumulative sum in closed form.

    Args:
        amplitude: (batch, outputs, dendrites, n).
        ages: arrival times over the decay; the same, or 1 for outputs.
        backwards: sum what arrives from then on.
    """
    order = ages.argsort(dim=3, stable=True)
    if backwards:
        order, ages = order.flip(3), -ages
    grown = (ages - ages.mean(dim=3, keepdim=True)).gather(3, order).exp()
    spread = order.expand_as(amplitude)
    sums = (amplitude.gather(3, spread) * grown).cumsum(dim=3) / grown
    return torch.empty_like(amplitude).scatter_(3, spread, sums)


class DecisionCurve(NamedTuple):
    """How good decisions are that do not wait for all inputs, one entry for each threshold of evidence.

    Attributes:
        thresholds: of evidence.
        time: mean time of decision, in ms.
        accuracy: share of right decisions.
        decided: share of examples whose evidence reached the threshold; the others were decided at the last arrival.
    """

    thresholds: Tensor
    time: Tensor
    accuracy: Tensor
    decided: Tensor


@torch.no_grad()
def decision_curve(bits: Tensor, times: Tensor, labels: Tensor, thresholds: Sequence[float]) -> DecisionCurve:
    """Accuracy against time of decision, when each example is decided as soon as the evidence suffices.

    The evidence for a class is the number of output bits that its unit has given so far. The first time at which one
    class leads the next by the threshold decides for it; what never gets there is decided when all inputs are in, for
    the class with the most evidence (the first of several).

    Args:
        bits: of the responses, (batch, classes, dendrites, inputs of each).
        times: arrival times that all classes share, (batch, inputs).
        labels: right classes, (batch,).
        thresholds: leads that suffice, above 0.

    Raises:
        ConfigError: a threshold is not above 0.
        DataError: the shapes do not belong together.

    Source: the "ultrafast decisions" that Sardi et al. (2020) speak of. How evidence is counted is a reconstruction.
    """
    for threshold in thresholds:
        check_positive("decision_curve", threshold=threshold)
    if times.dim() != 2 or bits.shape[0] != len(times) or bits.shape[2:].numel() != times.shape[1]:
        raise DataError(
            f"decision_curve: bits of shape {tuple(bits.shape)} and times of shape {tuple(times.shape)}; wanted are "
            "(batch, classes, dendrites, inputs of each) and (batch, inputs)."
        )
    ordered, order = times.sort(dim=1)
    along = bits.flatten(2).gather(2, order[:, None].expand(-1, bits.shape[1], -1))
    evidence = along.to(torch.int32).cumsum(dim=2)
    first, second = evidence.topk(2, dim=1).values.unbind(dim=1)
    lead = first - second
    chosen = evidence.argmax(dim=1)
    rows = []
    for threshold in thresholds:
        enough = lead >= threshold
        decided = enough.any(dim=1)
        moment = torch.where(decided, enough.to(torch.int8).argmax(dim=1), times.shape[1] - 1)[:, None]
        right = chosen.gather(1, moment).squeeze(1) == labels
        rows.append([part.double().mean() for part in (ordered.gather(1, moment), right, decided)])
    time, accuracy, decided = torch.tensor(rows, dtype=torch.float64).T
    return DecisionCurve(torch.tensor(thresholds, dtype=torch.float64), time, accuracy, decided)


@torch.no_grad()
def teacher_and_student(
    scenario: Scenario,
    counts: Sequence[int],
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    *,
    inputs: int = 60,
    dendrites: int = 1,
    runs: int = 20,
    test: int = 200,
    seed: int = 0,
) -> Tensor:
    """The generalisation error of students that learn a teacher's bits, example by example, from random inputs of ±1.

    - "synaptic": teacher and student are asynchronous networks of threshold 0, so that half of the bits are on; the
      student's weights begin elsewhere and learn.
    - "dendritic": asynchronous networks of threshold 1 with the same weights; the teacher's gains are spread over the
      range, and the student learns them.
    - "classical": perceptrons of threshold 0 without time: one bit for each example.

    Args:
        scenario: one of these.
        counts: numbers of examples after which the error is taken, in rising order; 0 is before learning.
        optimizer: makes the students' optimizer: `lambda p: torch.optim.SGD(p, lr=0.02)`.
        inputs: N.
        dendrites: K.
        runs: pairs of teacher and student, all in one computation; each has examples of its own.
        test: examples that the error is taken on, which are not learned from.
        seed: of everything.

    Returns:
        The share of bits in which student and teacher differ, (runs, counts). Before learning it is about a half, and
        a tenth in "dendritic", where the weights are known: compare each with its own beginning.
    """
    check_choice("teacher_and_student", "scenario", scenario, get_args(Scenario))
    generator = torch.Generator().manual_seed(seed)
    threshold = 1.0 if scenario == "dendritic" else 0.0
    teacher, student = (
        AsynchronousNetwork(inputs, runs, dendrites=dendrites, threshold=threshold, seed=2 * seed + which)
        for which in (0, 1)
    )
    learned = student.weight
    if scenario == "dendritic":
        student.weight.copy_(teacher.weight)
        low, high = (math.log(boundary) for boundary in teacher.gain_range)
        teacher.gain.copy_((low + (high - low) * torch.rand(teacher.gain.shape, generator=generator)).exp())
        learned = student.gain
    steps = optimizer([learned])

    def examples(number: int) -> tuple[Tensor, Tensor]:
        shape = (number, runs, inputs)
        return torch.randint(0, 2, shape, generator=generator) * 2.0 - 1.0, teacher.arrivals(shape, generator)

    def classical(network: AsynchronousNetwork, x: Tensor) -> Tensor:
        return (network.weight.flatten(1) * x).sum(dim=2) >= 0

    def bits(network: AsynchronousNetwork, x: Tensor, times: Tensor) -> Tensor:
        return classical(network, x) if scenario == "classical" else network(x, times).bits

    exam = examples(test)
    wanted = bits(teacher, *exam)
    errors = []
    seen = 0
    for count in counts:
        for _ in range(count - seen):
            x, times = examples(1)
            if scenario == "classical":
                error = classical(teacher, x).float() - classical(student, x).float()
                learned.grad = -(error[..., None] * x).mean(dim=0).view_as(learned)
            else:
                student.teach(x, times, bits(teacher, x, times))
            steps.step()
            if scenario == "dendritic":
                student.reflect()
        seen = count
        errors.append((bits(student, *exam) != wanted).double().transpose(0, 1).flatten(1).mean(dim=1))
    return torch.stack(errors, dim=1)
