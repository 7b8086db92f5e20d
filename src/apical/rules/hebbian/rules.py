"""Hebbian learning: synapses change by what they see before and after them, and no error travels."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from apical.errors import CircuitError, ConfigError
from apical.feedback.randomness import Randomness
from apical.layers import BackwardPlan, Credit, ForwardState, Layer, Node, NodeState
from apical.options import check_choice, check_positive
from apical.rules.reward.choices import reward_prediction_error
from apical.rules.rule import LearningRule
from apical.wiring import Wiring

_NEWEST = 0.1  # share of the newest batch in the running mean of the reward


class Hebbian(LearningRule):
    """What Hebbian rules share: hidden layers learn from their own state, and the read-out by the delta rule.

        dW_l = eta (post_l h_(l-1)^T - decay_l W_l),   post_l and decay_l = post_l u_l from the layer's own drive u_l

    The mean goes over the batch and, where weights are shared, over the positions that share them. A bias is the
    weight of a synapse whose input is always 1. What neurons and junctions above hidden layers learn by themselves
    (the gain of a norm, the slope of a PReLU) has no Hebbian rule: its `.grad` is zero. All layers learn at once.

    Attributes:
        readout: whether the layers that the answer is read from learn by the delta rule, dW = -eta (dL/du) h^T. If not,
            they learn by the Hebbian rule as all others do.
    """

    needs = "hidden layers (or readout=False)"
    saves_drives = True
    propagates = False

    def __init__(self, *, readout: bool = True) -> None:
        super().__init__()
        self.readout = readout

    def _readouts(self, wiring: Wiring) -> set[Node]:
        return wiring.readouts() if self.readout else set()

    def setup(self, wiring: Wiring) -> None:
        super().setup(wiring)
        if wiring.teach_input:
            raise CircuitError(
                f"{type(self).__name__}: teach_input=True, but Hebbian learning sends no error to the input. "
                "Leave the input untaught, or use a rule whose errors travel, such as FeedbackAlignment."
            )
        readouts = self._readouts(wiring)
        hidden = [layer for layer in wiring.layers if layer not in readouts]
        if not hidden:
            raise CircuitError(
                f"{type(self).__name__}: the answer is read from every layer of this network, so none is left for the "
                f"Hebbian rule. Say {type(self).__name__}(readout=False) to let the read-out learn by it too, or add a "
                "hidden layer."
            )
        for layer in hidden:
            self.check(layer)

    def check(self, layer: Layer) -> None:
        """Refuse a layer that the rule cannot teach."""

    def assign_credit(self, wiring: Wiring, state: ForwardState, error: Tensor) -> Iterator[Credit]:
        requires_grad = state.plan.requires_grad
        readouts = self._readouts(wiring)
        samples, batch = wiring.samples(state, error), wiring.batch_size(state, error)
        third = self.third_factor(state.rate(wiring.output), error * samples, state.batch_axis(wiring.output))
        walk = wiring.backward(state, error if self.readout else torch.zeros_like(error))
        for layer, own in walk:
            if layer in readouts:
                signal = walk.receive(layer)
                if signal is not None:
                    assert own.pre is not None
                    yield Credit(layer, own.pre, walk.somatic(layer, own, signal))
                continue
            synapses = layer.synapses
            if any(requires_grad[index] for index in (synapses.weight_index, synapses.bias_index) if index is not None):
                # A drive has its batch where the rate has it that arrives: steps that follow may move the axes.
                yield self._hebbian(layer, own, third, state.batch_axis(layer.sources[0]), batch, samples)
        yield from walk.credits()
        yield from self._zeros(wiring, state, readouts)

    def _hebbian(
        self, layer: Layer, own: NodeState, third: Tensor | None, batch_axis: int | None, batch: int, samples: float
    ) -> Credit:
        """A hidden layer's credit: the rule's own, averaged over batch and positions, with a gradient's sign."""
        assert own.drive is not None
        assert own.pre is not None
        # Under autocast the drive may be bfloat16, too coarse to decide a winner.
        drive = own.drive.to(layer.weight.dtype)
        axis = layer.synapses.unit_axis % drive.dim()
        if third is not None:
            if batch_axis is None:
                raise CircuitError(
                    f"{layer.name}: {type(self).__name__} brings one number for each of {batch} samples, and no axis "
                    f"of this layer's drive {tuple(drive.shape)} holds them. Keep the batch an axis of its own."
                )
            third = third.to(drive.dtype).view([-1 if other == batch_axis else 1 for other in range(drive.dim())])
        positions = drive.numel() / drive.shape[axis] / batch
        # Divided before the sum, which could overflow where the mean does not.
        post = self.change(layer, own.pre, drive, axis, third) / (positions * samples)
        return Credit(layer, own.pre, -post, decay=self.decay(layer, post, drive))

    def _zeros(self, wiring: Wiring, state: ForwardState, readouts: set[Node]) -> Iterator[Credit]:
        """Zero gradients for neuron parameters that Hebbian rules do not train; DDP expects one for every parameter."""
        for node, _ in state.plan.order:
            if node in readouts:
                continue
            found = {}
            for index in node.neuron_indices:
                module, name = wiring.parameters[index]
                parameter = module._parameters[name]
                if parameter is not None and state.plan.requires_grad[index]:
                    found[index] = torch.zeros_like(parameter)
            if found:
                yield Credit(node, derivatives=found)

    def third_factor(self, output: Tensor | None, error: Tensor, batch_axis: int | None) -> Tensor | None:
        """What all hidden synapses receive of a sample beside their own state: (batch,), or None for nothing.

        Args:
            output: (batch, outputs ...), of the circuit, if the rule saves rates.
            error: (batch, outputs ...), the derivative of each sample's own loss.
            batch_axis: of the output.
        """
        return None

    @abstractmethod
    def change(self, layer: Layer, pre: Tensor, drive: Tensor, axis: int, third: Tensor | None) -> Tensor:
        """What a synapse gains for each unit of its input.

        Args:
            layer: whose synapses learn.
            pre: (batch, fan-in ...), what arrives at them.
            drive: (batch, units ...), what they delivered.
            axis: of the units.
            third: (batch, 1 ...), or None.

        Returns:
            of the drive's shape
        """

    def decay(self, layer: Layer, post: Tensor, drive: Tensor) -> Tensor | None:
        """What a synapse loses, as `Credit.decay` has it: by default `post * drive` of its own strength."""
        return (post * drive).sum(layer.synapses.other_axes(drive))


class Oja(Hebbian):
    """Oja's rule: Hebbian synapses that forget, so that a unit finds the first principal component of its input.

        dw_j = eta / P y_j (x - y_j w_j),   y_j = w_j x,   P = |x|^2                   units="independent" (1982)
        dw_j = eta / P y_j (x - sum_k y_k w_k)                                         units="symmetric" (1989)
        dw_j = eta / P y_j (x - sum_(k <= j) y_k w_k)                                  units="sanger" (1989)

    The weights of one unit come to length 1 along the eigenvector of <x x^T> with the largest eigenvalue. Units that
    do not know of each other all find this same component. In the other two forms a unit learns from what the others
    leave of the input: symmetric units come to span the first components, in any rotation, and Sanger's units find
    one component each, in the order of their eigenvalues.

    Args:
        units: see above. In a layer of one unit the three are the same.
        readout: whether the layers that the answer is read from learn by the delta rule instead.

    Shapes: y is the drive, (batch, units ...), whatever neurons follow. A unit with a bias finds the component of the
    input with a constant 1 appended. P is the power that arrives at a unit (in a convolution, its mean over a sample's
    positions). It makes the rate independent of the input's size: below about 1, weights do not grow without bound.
    The components are those of inputs scaled to length 1, which are the input's own for a normal distribution.

    Needs: hidden layers (or readout=False); inputs with mean zero, if the component should be the covariance's. Uses
    nothing of the loss in hidden layers. What multiplies a loss (a weight, a GradScaler) multiplies the read-out's
    update alone. Locality: with "symmetric" and "sanger" a synapse needs the weights of other units, or what these
    predict of its own input, carried back to it. Raises: CircuitError where no layer is hidden, or the input is
    to be taught.

    Departs from the papers: the mean over the batch, and over the positions that share weights, in place of one sample;
    the division by P.

    Source: Oja, Journal of Mathematical Biology 15, 267-273 (1982); symmetric: Oja, International Journal of Neural
    Systems 1, 61-68 (1989); Sanger, Neural Networks 2, 459-473 (1989).
    """

    name = "oja"
    title = "Oja's rule"
    summary = "Hebbian synapses that forget: the units of a layer find the principal components of their input."
    paper = "Oja 1982, 1989; Sanger 1989"

    def __init__(self, *, units: str = "symmetric", readout: bool = True) -> None:
        super().__init__(readout=readout)
        check_choice("Oja", "units", units, ("independent", "symmetric", "sanger"))
        self.units = units

    def change(self, layer: Layer, pre: Tensor, drive: Tensor, axis: int, third: Tensor | None) -> Tensor:
        synapses = layer.synapses
        sample = tuple(range(-synapses.sample_axes, 0))
        power = pre.to(drive.dtype).square().mean(sample, keepdim=True) * synapses.fan_in + (synapses.bias is not None)
        return drive / power.clamp(min=torch.finfo(drive.dtype).tiny) + 0 * power  # an overflow has to be noticed

    def decay(self, layer: Layer, post: Tensor, drive: Tensor) -> Tensor | None:
        if self.units == "independent":
            return super().decay(layer, post, drive)
        others = layer.synapses.other_axes(drive)
        shared: Tensor = torch.tensordot(post, drive, (others, others))
        groups = getattr(layer.synapses, "groups", 1)
        if groups > 1:
            group = torch.arange(len(shared), device=shared.device) * groups // len(shared)
            shared = shared * (group == group[:, None])
        return shared.tril() if self.units == "sanger" else shared


class SoftHebb(Hebbian):
    """SoftHebb: units compete by a softmax, the winner learns its input, and the losers unlearn it.

        y     = softmax(u / temperature) over the units,   u = W x
        s_j   = +1 for the unit with the largest u, -1 for all others (or +1, without `anti_hebbian`)
        dw_j  = eta |r_j - 1|^norm_power s_j y_j (x - u_j w_j),   r_j the length of w_j

    In a convolution the channels compete at each position. The competition is for learning alone: the layer answers by
    whatever neurons follow. Weights come to length 1, and there the factor |r - 1|^norm_power ends learning by itself.

    Args:
        temperature: of the softmax, in units of the drive. Small: the winner takes all. Large: the losers' shares
            outweigh the winner's, and all units flee from the inputs' mean.
        anti_hebbian: let losers unlearn. Without it, this is the rule of 2022.
        norm_power: of a unit's distance from length 1, which scales its learning rate; 0 for one rate for all.
        readout: whether the layers that the answer is read from learn by the delta rule instead.

    Shapes: y and u are (batch, units ...). r_j counts the bias, if there is one.

    Needs: hidden layers (or readout=False) of at least two units. Uses nothing of the loss in hidden layers. What
    multiplies a loss (a weight, a GradScaler) multiplies the read-out's update alone. The published networks
    normalise each layer's input (`BatchNorm2d(affine=False)`), have no bias, and rectify what exceeds the units'
    mean, to a power. Raises: CircuitError for a hidden layer of one unit, where no layer is hidden, or the input is
    to be taught.

    Departs from the papers: the mean over batch and positions, where the published code divides the batch's sum by
    its largest entry, which no synapse could know; so learning rates are not the published ones. A bias is a synapse
    whose input is always 1; the paper of 2022 has a rule for biases of its own, the paper of 2023 has none. All
    layers learn at once; the paper of 2023 trains them one after the other, and its code's documentation says that at
    once is as good.

    Source: Moraitis, Toichkin, Journe, Chua and Guo, Neuromorphic Computing and Engineering 2, 044017 (2022): the
    soft winner-take-all and its plasticity; Journe, Rodriguez, Guo and Moraitis, ICLR 2023: anti-Hebbian losers, the
    learning rate by length, many layers.
    """

    name = "soft_hebb"
    title = "SoftHebb"
    summary = "Units compete by a softmax; the winner learns its input, the losers unlearn it."
    paper = "Moraitis et al. 2022; Journé et al. 2023"
    needs = "hidden layers (or readout=False) of two units or more"

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        anti_hebbian: bool = True,
        norm_power: float = 0.5,
        readout: bool = True,
    ) -> None:
        super().__init__(readout=readout)
        check_positive(type(self).__name__, temperature=temperature)
        if not (math.isfinite(norm_power) and norm_power >= 0):
            raise ConfigError(f"SoftHebb: norm_power={norm_power!r} must be a number of at least 0.")
        self.temperature = temperature
        self.anti_hebbian = anti_hebbian
        self.norm_power = norm_power

    def check(self, layer: Layer) -> None:
        if layer.synapses.units < 2:
            raise CircuitError(
                f"{layer.name}: SoftHebb lets the units of a layer compete, and this layer has one. Give it more, or "
                "use Oja, whose units are each on their own."
            )

    def change(self, layer: Layer, pre: Tensor, drive: Tensor, axis: int, third: Tensor | None) -> Tensor:
        y = torch.softmax(drive / self.temperature, axis)
        if self.anti_hebbian:
            winner = drive.argmax(axis, keepdim=True)
            y = torch.scatter(-y, axis, winner, y.gather(axis, winner))
        if self.norm_power:
            rate = (layer.synapses.lengths() - 1).abs().pow(self.norm_power)
            y = y * rate.view(-1, *[1] * (drive.dim() - 1 - axis))
        return y


class ThreeFactor(Hebbian):
    """Three-factor learning (R-max): units explore by noise, and one number a sample tells all whether that was better.

        u_j  = w_j x + noise xi_j,   xi_j of mean 0 and variance 1                      while the circuit trains
        e_j  = (u_j - w_j x) x                                                          eligibility
        dw_j = eta M e_j,   M = r - <r>                                                 third factor

    A synapse is eligible where its unit did other than its input asked for. The third factor, a neuromodulator,
    reaches all synapses alike: by how much the reward r of the chosen action exceeded its running mean <r> over
    backward passes. That makes the mean of M zero, without which learning is much noisier (Fremaux et al. 2010). To
    first order in the noise, the mean of the update is noise^2 times the gradient of the mean reward. A single update
    is mostly noise, the more units there are: `BrainProp`'s attention says which unit it was. The read-out learns the
    value q of the actions by the delta rule.

    Args:
        noise: standard deviation of the exploration, in units of the drive. Evaluation has none.
        readout: whether the layers that the answer is read from learn by the delta rule instead.
        seed: of the noise.

    Shapes: M is (batch,), u the drive, (batch, units ...). Where weights are shared, the mean over positions.

    Needs: hidden layers (or readout=False) whose drives have a batch axis; answers (batch, actions); a loss
    that says what one choice was worth (`apical.losses.reward_prediction`); small learning rates (see `recommended`).
    Raises: CircuitError where no layer is hidden, where the input is to be taught, or when it is taught by a loss whose
    derivative lives on more than one unit of a sample, such as cross-entropy. (Inside `torch.compile` only the shape is
    looked at.)

    Departs from the paper: rates with uniform noise where the paper has Poisson spikes, whose eligibility is spikes
    less their rate; one sample is one trial, so that no eligibility has to last. The reward is read off the output and
    the loss' derivative, r = q_s + delta; a sample of delta = 0 teaches nothing.

    Source: Fremaux, Sprekeler and Gerstner, Journal of Neuroscience 30, 13326 (2010): R-max; Fremaux and Gerstner,
    Frontiers in Neural Circuits 9, 85 (2016): the family.
    """

    name = "three_factor"
    title = "Three-factor learning"
    summary = "Units explore by noise; one number a sample, broadcast to all, says whether that was better than usual."
    paper = "Frémaux et al. 2010; Frémaux & Gerstner 2016"
    needs = "hidden layers (or readout=False); answers (batch, actions); a loss that says what one choice was worth"
    learns_from = "reward_prediction"
    saves_rates = True
    has_absolute_scale = True
    recommended: ClassVar[Mapping[str, float]] = MappingProxyType({"learning_rate_factor": 0.3})
    mean_reward: Tensor

    def __init__(self, *, noise: float = 0.05, readout: bool = True, seed: int = 0) -> None:
        super().__init__(readout=readout)
        check_positive("ThreeFactor", noise=noise)
        self.noise = noise
        self.seed = seed
        self.randomness = Randomness(seed)
        self.register_buffer("mean_reward", torch.zeros(()))

    def setup(self, wiring: Wiring) -> None:
        super().setup(wiring)
        self.mean_reward = wiring.layers[0].weight.new_zeros(())

    def forward(self, wiring: Wiring, x: Tensor, plan: BackwardPlan) -> tuple[Tensor, ForwardState]:
        readouts, explored = self._readouts(wiring), {}

        def explore(layer: Layer, drive: Tensor) -> Tensor:
            if layer in readouts or not drive.numel():
                return drive
            unit = self.randomness.noise(drive.shape, drive) if self.training else torch.zeros_like(drive)
            explored[layer] = unit * self.noise
            return drive + explored[layer]

        y, state = wiring.forward(x, plan, save_drives=True, save_rates=True, perturb=explore)
        for layer, noise in explored.items():
            own = state.nodes[layer.index]
            if own is not None:
                own.drive = noise  # all that a synapse needs of its unit's drive
        return y, state

    def third_factor(self, output: Tensor | None, error: Tensor, batch_axis: int | None) -> Tensor | None:
        assert output is not None
        delta = reward_prediction_error(self, error, batch_axis)
        value = torch.where(error != 0, output.to(error.dtype), 0).sum(1)
        third = torch.where(delta != 0, value + delta - self.mean_reward, 0)
        if self.training and len(third):
            self.mean_reward.add_(third.mean().to(self.mean_reward), alpha=_NEWEST)
        return third

    def change(self, layer: Layer, pre: Tensor, drive: Tensor, axis: int, third: Tensor | None) -> Tensor:
        assert third is not None
        return third * drive

    def decay(self, layer: Layer, post: Tensor, drive: Tensor) -> Tensor | None:
        return None
