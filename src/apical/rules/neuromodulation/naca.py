"""NACA: the label sets a neuromodulator's level at every hidden unit, and the level how its synapses change."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from apical.errors import CircuitError
from apical.feedback import Direct
from apical.feedback.randomness import uniform
from apical.layers import ForwardState, Node
from apical.options import check_choice, check_positive, check_ranges
from apical.rules.alignment.direct_feedback import DirectRandomTargetProjection
from apical.wiring import Wiring

DISTRIBUTIONS = ("uniform", "normal", "beta")


def expectation_units(classes: int) -> list[int]:
    """The first of the two expectation units of every class; the second is the next one.

        a(i) = floor(2 (C - 1) r(i) / r(1)),   r(i) = sqrt(2 ln(C / i)),   i = 1 ... C

    Args:
        classes: C, at least 2.

    Raises:
        CircuitError: two classes have the same units, as from some 230 classes on.
    """
    r = [math.sqrt(2 * math.log(classes / i)) for i in range(1, classes + 1)]
    units = [math.floor(each / r[0] * 2 * (classes - 1)) for each in r]
    if len(set(units)) < classes:
        raise CircuitError(
            f"NACA: the expectation code gives some of the {classes} classes the same two units, so that hidden layers "
            "cannot tell them apart. Use DirectRandomTargetProjection, which has a unit for each class."
        )
    return units


def modulation(level: Tensor, inversion: float = 0.5, peak: float = 1.2) -> Tensor:
    """The modulation curve phi, with levels clamped to 0 ... 2L.

        phi = theta - (theta - 1) (4 lambda - L)^2 / L^2    0    <= lambda <= L/2
        phi = 4 (lambda - L)^2 / L^2                        L/2  <= lambda <= L
        phi(2 L - lambda) = -phi(lambda)

    Args:
        level: lambda, of any shape.
        inversion: L, the level at which plasticity changes its sign.
        peak: theta, the largest value.
    """
    distance = (1 - level / inversion).clamp(-1, 1)
    size = distance.abs()
    outer = peak - (peak - 1) * (3 - 4 * size).square()
    return torch.where(size <= 0.5, 4 * size.square(), outer) * distance.sign()


class Modulatory(Direct):
    """Direct feedback of the label through a modulator: the modulation curve of its level at each unit.

        M_l = phi(E Lambda_l),   E (classes, 2 classes): 1/2 at the two expectation units of each class

    Lambda_l (2 classes, units ...) is drawn once, by the seed and the layer's name, and is a buffer.

    Args:
        distribution: as for `apical.NACA`.
        inversion: as for `apical.NACA`.
        peak: as for `apical.NACA`.
        scale: as for `apical.NACA`.
        seed: as for `apical.NACA`.
    """

    name = "modulatory"
    summary = "A modulator, whose level at each unit the label sets."

    def __init__(
        self,
        *,
        distribution: str = "uniform",
        inversion: float = 0.5,
        peak: float = 1.2,
        scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(init="outputs", scale=scale, seed=seed)
        self.distribution = distribution
        self.inversion = inversion
        self.peak = peak
        check_choice("NACA", "distribution", distribution, DISTRIBUTIONS)
        check_positive("NACA", inversion=inversion)
        check_ranges("NACA", self, {"peak": (1 <= peak < math.inf, "a finite number of at least 1")})
        self._known: dict[int, tuple[Tensor, int, Tensor]] = {}  # levels, their version, and what follows from them

    def initialize_lazily(self, wiring: Wiring, state: ForwardState, y: Tensor) -> None:
        if y.dim() == 2 and y.shape[1] > 1:
            expectation_units(y.shape[1])
        super().initialize_lazily(wiring, state, y)

    def draw(self, like: Tensor, node: Node) -> Tensor:
        """The levels that each expectation unit sets, (2 classes, units ...), from 0 to 1."""
        levels = uniform(torch.cat([like, like]).double(), 1 / math.sqrt(12), self.seed, node.name) + 0.5
        if self.distribution == "normal":
            levels = (0.5 + math.sqrt(2) * torch.erfinv(2 * levels - 1)).clamp(0, 1)
        elif self.distribution == "beta":
            levels = (math.pi / 2 * levels).sin().square()  # the inverse of the arcsine law's distribution function
        return levels.to(like)

    def products(self, wiring: Wiring) -> dict[int, Tensor]:
        """Minus the modulation of every class at every unit, which the target multiplies."""
        return {node.index: self._pushes(node) for node in wiring.nodes if node in self.weights}

    def _pushes(self, node: Node) -> Tensor:
        levels = self.weights[node]
        if torch.compiler.is_compiling():
            return self.modulated(levels) * -self.scale
        known = self._known.get(node.index)
        if known is None or known[0] is not levels or known[1] != levels._version:
            known = self._known[node.index] = (levels, levels._version, self.modulated(levels) * -self.scale)
        return known[2]

    def modulated(self, levels: Tensor) -> Tensor:
        """The modulation of each class at each unit, (classes, units ...), of the levels (2 classes, units ...)."""
        units = torch.tensor(expectation_units(len(levels) // 2), device=levels.device)
        level = (levels.index_select(0, units) + levels.index_select(0, units + 1)) / 2
        return modulation(level, self.inversion, self.peak)


class NACA(DirectRandomTargetProjection):
    """Neuromodulation-assisted credit assignment: the label sets a modulator's level, and the level the plasticity.

        lambda_l = E(y)^T Lambda_l          E(y): 1/2 at two of 2 C expectation units, 0 elsewhere
        delta_l  = phi(lambda_l) * f'(a_l)  hidden layers;   the output layer uses its own error
        dW_l     = -eta delta_l h_(l-1)^T

        a(i) = floor(2 (C - 1) r(i) / r(1)),  b(i) = a(i) + 1,  r(i) = sqrt(2 ln(C / i)),  i = 1 ... C the class
        phi  = theta - (theta - 1) (4 lambda - L)^2 / L^2    0    <= lambda <= L/2
             = 4 (lambda - L)^2 / L^2                        L/2  <= lambda <= L
             = -phi(2 L - lambda)                            L    <= lambda <= 2 L;   lambda is clamped to 0 ... 2 L

    A level below L, with phi > 0, lowers a unit's drive, and one above L raises it. As no error enters a hidden layer,
    the rule is direct random target projection with B_l = -phi(E Lambda_l), which a test compares to 1e-13. It
    reads the target as that rule does, and a sample whose error has vanished teaches the hidden layers nothing.

    In circuits with spiking neurons (`apical.neurons.LIF`, `ALIF`) each synapse of a hidden layer changes once a
    sequence of T moments, by what its neuron changes at the end:

        dW_l = -eta phi(lambda_l) ([v_T > threshold - width] - s_(T-1)) s_(l-1),T^T      moments="last"

    With moments="all" the signal teaches every moment that has an error, through the surrogate's derivative and the
    neuron's own potential, as an error would. Where the loss reaches the last spike alone, this is the form of the
    authors' experiments on forgetting.

    Args:
        distribution: of Lambda: "uniform" (0 to 1), "normal" (mean 0.5, standard deviation 1, clamped to 0 ... 1) or
            "beta" (both parameters 0.5).
        inversion: L, the level at which plasticity changes its sign. Far from 0.5 most units are pushed the same way.
        peak: theta, the largest |phi|, at least 1.
        scale: multiplies phi. The output's error shrinks as it is learned, and phi does not: under plain SGD hidden
            layers want a smaller one, under Adam it makes no difference.
        seed: of Lambda; each layer's depends on the seed and the layer's name alone.
        moments: of spiking circuits, "last" (the authors' form for shuffled data) or "all".
        width: how far below the threshold a potential counts as one that fires, in "last".

    Shapes: Lambda_l is a buffer (2 C, units of layer l ...), with one level for every unit and position of a feature
    map, made with the circuit if it has an example, and otherwise at the first forward pass. Levels have no unit.

    Needs: a loss over classes whose derivative is negative at the true class alone (cross-entropy), or the squared
    error to one-hot targets; outputs (batch, classes) for all classes that will ever come, since the code depends on
    their number and order; and neurons that saturate, since the push never vanishes. Raises: CircuitError for a loss
    whose target cannot be read, for a number of classes whose codes coincide (from some 230 on), and where the input is
    to be taught; ConfigError for unknown options. Warns: when it is built, of hidden layers that do not saturate.

    Departs from the authors' code: updates are a mean over the batch (there a sum); levels above 2 L are clamped (there
    the last parabola continues to large positive values); Lambda is in the `state_dict` (there a plain attribute, in
    the experiments on forgetting). The gate of those experiments is a module of its own, `ContextGate`, and off by
    default.

    Source: Zhang, Cheng, Zhang, Xu and Poo, Science Advances 9, eadi2947 (2023); the equations are those of
    the authors' code (github.com/thomasaimondy/NACA).

    Example:
        >>> import torch, apical
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        >>> circuit = apical.Circuit(model, apical.NACA(distribution="beta"))
    """

    through_time = "refused"
    name = "naca"
    title = "NACA"
    summary = "The label sets a modulator's level at every unit, and the level the sign and size of plasticity."
    paper = "Zhang et al. 2023"
    recommended: ClassVar[Mapping[str, float]] = MappingProxyType({"learning_rate_factor": 0.3})

    def __init__(
        self,
        *,
        distribution: str = "uniform",
        inversion: float = 0.5,
        peak: float = 1.2,
        scale: float = 1.0,
        seed: int = 0,
        moments: str = "last",
        width: float = 0.5,
    ) -> None:
        super().__init__(
            feedback=Modulatory(distribution=distribution, inversion=inversion, peak=peak, scale=scale, seed=seed)
        )
        self.distribution = distribution
        self.inversion = inversion
        self.peak = peak
        self.scale = scale
        self.seed = seed
        self.moments = moments
        self.width = width
        check_choice("NACA", "moments", moments, ("last", "all"))
        check_positive("NACA", width=width)

    def setup(self, wiring: Wiring) -> None:
        super().setup(wiring)
        if self.moments == "last":
            readouts = wiring.readouts()
            wiring.sequences.teach_at_end((node for node in wiring.nodes if node not in readouts), self.width)
