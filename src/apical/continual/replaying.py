"""Protections that keep examples of the stream: replay, dark experience replay, and averaged gradient memory."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from apical.continual.refusals import check_strengths, require_free_error, require_loss, require_mean
from apical.continual.reservoir import Reservoir
from apical.errors import CheckpointError, ConfigError
from apical.layers.over_time import as_it_is, temporal_neurons
from apical.optim.consolidation import Assumptions, Protection
from apical.optim.consolidation.protection import Data, LossOfLabels, refuse_loss_scale
from apical.options import check_ranges


class Remembering(Protection):
    """What protections that keep examples share: a `Reservoir`, from which each step draws.

    Args:
        size: examples kept; 0 protects nothing.
        batch: examples drawn at a time, with replacement; None: as many as the current batch has.
        seed: of what is kept and drawn. The draws are the protection's own: they change no others.

    Raises:
        ConfigError: an option is out of range; when it is attached, the circuit takes (time, batch, ...).
    """

    def __init__(self, *, size: int = 500, batch: int | None = None, seed: int = 0) -> None:
        self.size = size
        self.batch = batch
        self.seed = seed
        right = isinstance(size, int) and size >= 0
        check_ranges(self.name, self, {"size": (right, "a whole number of at least 0")})
        right = batch is None or (isinstance(batch, int) and batch >= 1)
        check_ranges(self.name, self, {"batch": (right, "a whole number of at least 1, or None")})
        self.memory = Reservoir(size, seed)
        self._largest = 0  # of the batches since it was attached

    def attach(self, circuit: nn.Module, loss: LossOfLabels) -> None:
        require_mean(self.name, circuit)
        if temporal_neurons(circuit) and getattr(circuit, "encode", as_it_is) is as_it_is:
            raise ConfigError(
                f"{self.name}: the circuit takes (time, batch, ...), and examples are kept along the first axis. Build "
                "it of an apical.neurons.OverTime(model, encode), which takes (batch, ...)."
            )
        super().attach(circuit, loss)
        self.memory = Reservoir(self.size, self.seed)
        self._largest = 0

    @classmethod
    def bytes_of_example(cls, x: Tensor, outputs: int) -> int:
        """What one kept example takes: its input x, its label, and its output where that is kept."""
        return Reservoir.bytes_of_example(x, torch.tensor(0))

    def expect(self, current: int) -> None:
        """Batches of this size come: `assumptions` has the passes that their steps take."""
        self._largest = max(self._largest, current)

    def _draw(self, current: int) -> list[Tensor]:
        """The parts of some kept examples; an empty list where none is kept."""
        self.expect(current)
        return self.memory.draw(self.batch or current)

    def _draws(self) -> int:
        """How often a step draws."""
        return 1

    def assumptions(self) -> Assumptions:
        share = self.batch / self._largest if self.batch and self._largest else 1.0
        passes = 1 + share * self._draws() if self.size else 1
        return replace(super().assumptions(), samples=self.size, bytes=self.memory.bytes, passes=passes)

    def state_dict(self) -> dict[str, Any]:
        return {"memory": self.memory.state_dict(), "largest": self._largest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if set(state) != {"memory", "largest"}:
            raise CheckpointError(f"{self.name}: the state has {sorted(state)}, and must have 'memory' and 'largest'.")
        self.memory.load_state_dict(state["memory"], next(self.circuit.parameters()).device)
        self._largest = state["largest"]


class Replay(Remembering):
    """Experience replay: each step learns from the current batch joined with examples drawn from a memory.

        L = 1 / (B + M) (sum over the B current examples of l + sum over the M drawn ones of l)

    The two join in one forward pass, and the loss is the mean over all. So a drawn example counts as a new one does,
    and with M = B, the default, half of the loss is of the past. A batch norm in training mode normalises current and
    drawn examples by their common statistics, and its running statistics follow this mixture. The memory is a sample
    of all examples so far, those of the current task included: no boundary is needed. It is empty in the first step,
    which is a step without protection, as all are with size=0.

    With every rule: each example teaches by the rule itself, be it from an error, a reward or by Hebbian learning.

    Args:
        size: examples kept; 0 protects nothing.
        batch: examples drawn for each step, with replacement; None: as many as the current batch has.
        seed: of what is kept and drawn.

    Raises:
        ConfigError: an option is out of range.

    Source: A. Chaudhry et al. (2019), On Tiny Episodic Memories in Continual Learning, with reservoir sampling.

    Example:
        >>> import apical
        >>> apical.continual.Replay(size=200).assumptions().samples
        200
    """

    name = "replay"
    title = "Experience replay"
    summary = "Each step also learns from examples drawn from a memory, a uniform sample of the stream."
    paper = "Chaudhry et al. 2019"

    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        current = len(y)
        old = self._draw(current)
        joined, labels = (torch.cat([x, old[0]]), torch.cat([y, old[1]])) if old else (x, y)
        answer = self._answer(joined, labels)
        self.memory.add(x, y)
        return answer[:current] if old else answer, self._loss(answer, labels)

    def _answer(self, x: Tensor, y: Tensor) -> Tensor:
        """The output for current and drawn examples with their labels."""
        answer: Tensor = self.circuit(x)
        return answer


class DER(Remembering):
    """Dark experience replay: kept examples shall be answered as they were when they entered the memory.

        L = l(B) + alpha mean over M drawn examples of |h(x) - z|^2
        z, kept with x: the network's output (before any softmax) in the step in which x came

    Current and drawn examples pass the network one after the other, as in the paper, so that a rule with errors of an
    absolute scale (bursts) sees each at its own: a batch norm normalises each by its own statistics. The squared
    distance is the sum over all outputs; code that takes the mean over them has an alpha larger by their number.

    With rules that learn from any error. Refused: rules that learn from the reward of a choice, Hebbian rules, and
    rules that read the label off the error.

    Args:
        size: examples kept; 0 protects nothing.
        batch: examples of each draw, with replacement; None: as many as the current batch has.
        alpha: weight of the distance to earlier outputs; 0 protects nothing.
        seed: of what is kept and drawn.

    Raises:
        ConfigError: an option is out of range; when it is attached, the rule is one of those refused.

    Source: P. Buzzega et al. (2020), Dark Experience for General Continual Learning, NeurIPS.
    """

    name = "der"
    title = "Dark experience replay (DER)"
    summary = "Examples in a memory shall be answered as they were when they entered it."
    paper = "Buzzega et al. 2020"

    beta = 0.0

    @classmethod
    def bytes_of_example(cls, x: Tensor, outputs: int) -> int:
        return Reservoir.bytes_of_example(x, torch.tensor(0), x.new_zeros(outputs))

    def __init__(self, *, size: int = 500, batch: int | None = None, alpha: float = 0.05, seed: int = 0) -> None:
        super().__init__(size=size, batch=batch, seed=seed)
        self.alpha = alpha
        check_strengths(self.name, alpha=alpha)

    def attach(self, circuit: nn.Module, loss: LossOfLabels) -> None:
        require_free_error(self.name, circuit, "the distance to earlier outputs")
        super().attach(circuit, loss)

    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        answer = self.circuit(x)
        total = self._loss(answer, y)
        for strength, distance in self._terms():
            old = self._draw(len(y))
            if old:
                total = total + strength * distance(self.circuit(old[0]), *old[1:])
        self.memory.add(x, y, answer)
        return answer, total

    def _terms(self) -> Iterator[tuple[float, Callable[[Tensor, Tensor, Tensor], Tensor]]]:
        """The terms of drawn examples: a strength, and the loss of an answer, the labels and the earlier outputs."""
        if self.alpha:
            yield self.alpha, lambda answer, y, z: (answer - z).square().sum() / len(y)
        if self.beta:
            yield self.beta, lambda answer, y, z: self._loss(answer, y)

    def _draws(self) -> int:
        return len(list(self._terms()))


class DERpp(DER):
    """Dark experience replay with labels, DER++: drawn examples teach by their earlier outputs and by their labels.

        L = l(B) + alpha mean over M drawn examples of |h(x) - z|^2 + beta mean of l over M others
        z, kept with x: the network's output (before any softmax) in the step in which x came

    Two draws from one memory, and three forward passes, as in the paper; all else is as in `DER`.

    Args:
        size: examples kept; 0 protects nothing.
        batch: examples of each of the two draws, with replacement; None: as many as the current batch has.
        alpha: weight of the distance to earlier outputs.
        beta: weight of the loss of drawn examples.
        seed: of what is kept and drawn.

    Raises:
        ConfigError: an option is out of range; when it is attached, the rule is one that `DER` refuses.

    Source: P. Buzzega et al. (2020), Dark Experience for General Continual Learning, NeurIPS.
    """

    name = "derpp"
    title = "Dark experience replay with labels (DER++)"
    summary = "Examples in a memory teach by their labels and by what the network answered when they entered."

    def __init__(
        self, *, size: int = 500, batch: int | None = None, alpha: float = 0.05, beta: float = 0.5, seed: int = 0
    ) -> None:
        super().__init__(size=size, batch=batch, alpha=alpha, seed=seed)
        self.beta = beta
        check_strengths(self.name, beta=beta)


class AGEM(Remembering):
    """Averaged gradient episodic memory, A-GEM: no step may raise the loss of kept examples, to first order.

        g <- g - (g . r) / |r|^2 r   where g . r < 0,   else g <- g

    g is what the rule gives all parameters of the model for the current batch, r what it gives them for a batch drawn
    from the memory, which has examples of earlier tasks alone. Parameters of the rule (feedback weights that learn)
    have no part in the two products, and change in the same proportion, so that learned feedback follows the change
    that the forward weights make. Before the second task the memory is empty, and steps are those without protection.

    With every rule whose update follows a loss, from an error or from a reward; the more it departs from the gradient,
    the less the bound holds. Refused: Hebbian rules, since their updates lower no loss, and a scaled loss.

    Args:
        size: examples kept, a uniform sample of all that earlier tasks had (in the paper, as many of each task); 0
            protects nothing.
        batch: examples of each draw, with replacement; None: as many as the current batch has.
        seed: of what is kept and drawn.

    Raises:
        ConfigError: an option is out of range; when it is attached, the rule is Hebbian, or the circuit has a
            `loss_scale`.

    Source: A. Chaudhry et al. (2019), Efficient Lifelong Learning with A-GEM, ICLR.
    """

    name = "agem"
    title = "Averaged gradient episodic memory (A-GEM)"
    summary = "An update that would raise the loss of kept examples loses the part that does."
    paper = "Chaudhry et al. 2019"
    needs_boundaries = True
    _current = 0

    def attach(self, circuit: nn.Module, loss: LossOfLabels) -> None:
        refuse_loss_scale(circuit, self.name)
        require_loss(self.name, circuit, "a product of two updates below 0 does not show that a loss rises")
        super().attach(circuit, loss)

    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        self._current = len(y)
        return super().loss(x, y)

    def correct(self) -> None:
        old = self._draw(self._current)
        if not old:
            return
        learning = [own for own in self.circuit.parameters() if own.grad is not None]
        found = torch.autograd.grad(self._loss(self.circuit(old[0]), old[1]), learning, allow_unused=True)
        pairs = [(own, own.grad, ref) for own, ref in zip(learning, found, strict=True) if ref is not None]
        model = set(getattr(self.circuit, "model", self.circuit).parameters())
        both = [(grad.flatten(), ref.flatten()) for own, grad, ref in pairs if own in model and grad is not None]
        product = torch.stack([torch.dot(grad, ref) for grad, ref in both]).sum()
        square = torch.stack([torch.dot(ref, ref) for _, ref in both]).sum()
        # Without a decision on the CPU, which a GPU would have to wait for.
        factor = product.clamp(max=0) / square.clamp(min=torch.finfo(square.dtype).tiny)
        for _, grad, ref in pairs:
            assert grad is not None
            grad.sub_(factor * ref)

    def end_task(self, examples: Data) -> None:
        self.memory.add(examples.x, examples.y)
