"""Importance of parameters: powers of each sample's update, averaged, in one batched pass over closed forms."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from apical.circuit import Circuit
from apical.errors import CircuitError, ConfigError, DataError, NonFiniteError
from apical.finiteness import check_input
from apical.layers import Credit, ForwardState, Layer, Synapses
from apical.layers.over_time import refuse_time
from apical.layers.samples import per_sample, pieces, raised
from apical.options import check_choice, check_positive
from apical.rules import Backprop

KINDS = ("exact", "sampled", "empirical")

Importance = dict[str, Tensor]
"""For each parameter of a model that requires a gradient, by its name, how much each entry matters."""

_ENTRIES = 1 << 25  # that arrive at all layers, unfolded

Errors = Callable[[Tensor, slice], Iterable[tuple[Tensor, Tensor | None]]]
"""For an output and the place of its samples: derivatives of it, each with a weight for every sample."""


def fisher(
    network: nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    *,
    kind: str = "exact",
    outputs: Sequence[int] | None = None,
    by_rule: bool = False,
    batch_size: int | None = None,
    seed: int = 0,
) -> Importance:
    r"""The diagonal of the Fisher information of a network's parameters.

    With p(c|x), the softmax over the outputs that compete, and the mean over samples x:

        "exact"      F = mean_x Σ_c p(c|x) (d log p(c|x) / dθ)²     a forward pass, and a backward pass for each c
        "sampled"    F = mean_x (d log p(c|x) / dθ)²                c drawn from p(c|x)
        "empirical"  F = mean_x (d log p(y|x) / dθ)²                the sample's own label y

    "exact" and "sampled" estimate the same quantity; "empirical" does not, and vanishes where the network fits its
    labels. The squares are those of single samples. A batch is passed at once, and closed forms give the sum of its
    squares: of a linear layer, the product of the squared signals.

    The network is in evaluation mode meanwhile. Nothing of it changes: mode, buffers, gradients and random states.

    Args:
        network: a circuit, or a module that a circuit can be made of.
        x: (n, ...), examples.
        y: (n,), int64, their labels; "empirical" needs them.
        kind: as above.
        outputs: those that compete; None: all.
        by_rule: take the updates of the circuit's own rule in place of the gradient. The result is not a Fisher
            information, and has the locality of the rule.
        batch_size: samples that are passed at once; None: as many as fit the memory, 256 at most.
        seed: of the labels that are drawn.

    Returns:
        for each parameter of the model that requires a gradient, by its name, a tensor of its shape. A circuit's rule
        has feedback weights of its own, which are left out.

    Raises:
        CircuitError: no circuit can be made of the network, a rate has no batch axis or has it in another place, the
            output for a sample depends on the other samples, or the updates of a rule have no part for each sample.
        ConfigError: an option that cannot be.
        DataError: no examples, an output that is not (n, outputs), or labels that do not compete.
        NonFiniteError: NaN or infinity in the input or in the result.

    Source: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks" (PNAS 2017); the kinds are named
    after van de Ven, "On the computation of the Fisher information in continual learning" (2025).

    Example:
        >>> import torch
        >>> from apical import measure
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3))
        >>> measure.fisher(model, torch.randn(8, 4))["0.weight"].shape
        torch.Size([3, 4])
    """
    check_choice("fisher", "kind", kind, KINDS)
    if kind == "empirical" and (y is None or len(y) != len(x)):
        raise DataError(f"fisher: kind='empirical' needs a label for each of the {len(x)} examples. Pass y.")
    generator = torch.Generator().manual_seed(seed)

    def errors(answer: Tensor, place: slice) -> Iterator[tuple[Tensor, Tensor | None]]:
        among = _competing(answer, outputs)
        p = answer[:, among].softmax(1)
        labels: list[int | Tensor] = list(range(len(among)))
        if kind == "sampled":
            labels = [torch.multinomial(p.cpu(), 1, generator=generator)[:, 0].to(p.device)]
        elif kind == "empirical":
            assert y is not None
            labels = [_places(y[place].to(p.device), among)]
        rows = torch.arange(len(p), device=p.device)
        for label in labels:
            error = p.clone()
            error[rows, label] -= 1
            spread = torch.zeros_like(answer).index_copy_(1, among, error)
            yield spread, p[:, label] if kind == "exact" else None

    return _mean_powers(network, x, errors, 2, by_rule, batch_size)


def sensitivity(
    network: nn.Module,
    x: Tensor,
    *,
    outputs: Sequence[int] | None = None,
    by_rule: bool = False,
    batch_size: int | None = None,
) -> Importance:
    """How much the size of a network's output depends on each parameter: mean_x |d ||f(x)||² / dθ|.

    It needs no labels. Arguments, returns and errors are those of `fisher`.

    Source: Aljundi et al., "Memory aware synapses: learning what (not) to forget" (ECCV 2018).

    Example:
        >>> import torch
        >>> from apical import measure
        >>> measure.sensitivity(torch.nn.Linear(4, 3), torch.randn(8, 4))["bias"].shape
        torch.Size([3])
    """

    def errors(answer: Tensor, place: slice) -> Iterator[tuple[Tensor, None]]:
        among = _competing(answer, outputs)
        yield torch.zeros_like(answer).index_copy_(1, among, 2 * answer[:, among]), None

    return _mean_powers(network, x, errors, 1, by_rule, batch_size)


def inputs(network: nn.Module, x: Tensor, batch_size: int = 256) -> Iterator[list[tuple[Synapses, str, Tensor]]]:
    """What arrives at each layer in evaluation mode, batch by batch: synapses, their path, and (batch, fan-in ...)."""
    twin = _Twin(network, x, by_rule=False)
    for place in _batches(x, batch_size):
        _, state = twin.forward(x[place])
        layers = [node for node, is_layer in state.plan.order if is_layer]
        yield [(layer.synapses, layer.name, state[layer].pre) for layer in layers]  # type: ignore[attr-defined, misc]


def _competing(answer: Tensor, outputs: Sequence[int] | None) -> Tensor:
    if answer.dim() != 2:
        raise DataError(f"importance: the output is {tuple(answer.shape)}. Return (batch, outputs).")
    among = range(answer.shape[1]) if outputs is None else outputs
    if not among or min(among) < 0 or max(among) >= answer.shape[1] or len(set(among)) != len(among):
        raise ConfigError(f"importance: outputs={outputs!r}, and the network has outputs 0 to {answer.shape[1] - 1}.")
    return torch.tensor(list(among), device=answer.device)


def _places(y: Tensor, among: Tensor) -> Tensor:
    """The place of each label among the outputs that compete."""
    equal = y[:, None] == among
    if not equal.any(1).all():
        raise DataError(f"fisher: y has labels that do not compete. Pass labels of the outputs {among.tolist()}.")
    return equal.long().argmax(1)


def _batches(x: Tensor, batch_size: int) -> Iterator[slice]:
    for start in range(0, len(x), batch_size):
        yield slice(start, start + batch_size)


class _Part(NamedTuple):
    """What some samples' updates of a parameter are made of: two signals, `pre` unfolded, or the updates themselves."""

    post: Tensor
    pre: Tensor | None = None
    synapses: Synapses | None = None
    is_bias: bool = False

    def updates(self, samples: slice) -> Tensor:
        """The update of each of these samples."""
        if self.synapses is None or self.pre is None:
            return self.post[samples]
        found = self.synapses.sample_updates(self.pre[samples], self.post[samples], not self.is_bias, self.is_bias)[
            self.is_bias
        ]
        assert found is not None
        return found

    def power(self, power: int) -> Tensor:
        """The sum over all samples."""
        if self.synapses is None or self.pre is None:
            return raised(self.post, power).sum(0)
        found = self.synapses.powers(self.pre, self.post, power, not self.is_bias, self.is_bias)[self.is_bias]
        assert found is not None
        return found


class _Twin:
    """A copy of a network in evaluation mode, that keeps samples apart."""

    def __init__(self, network: nn.Module, x: Tensor, *, by_rule: bool) -> None:
        if not len(x):
            raise DataError("importance: no examples were given.")
        twin = copy.deepcopy(network)
        if by_rule and not isinstance(twin, Circuit):
            raise ConfigError(f"importance: by_rule=True, and {type(network).__name__} is not a circuit with a rule.")
        circuit = twin if isinstance(twin, Circuit) else Circuit(twin, Backprop())
        if not by_rule:
            circuit.set_rule(Backprop())
        elif circuit.rule.learns_from != "error":
            raise CircuitError(
                f"{type(circuit.rule).__name__} learns from the reward of a choice, and no update follows from a "
                "derivative. Pass by_rule=False."
            )
        self.circuit, self.wiring, self.rule = circuit.eval(), circuit.wiring, circuit.rule
        refuse_time(network, "importance")
        self.wiring.reduction = "sum"
        for node in self.wiring.nodes:
            node.separate_samples()
        if self.wiring.batch_axis != 0:
            raise CircuitError(
                "importance: the batch is not the input's first axis. Build a circuit with batch_axis=0."
            )
        self._names = {id(own): name for name, own in circuit.model.named_parameters()}
        self._leaves = {name: own for name, own in circuit.model.named_parameters() if own.requires_grad}
        self._prepare(x)

    def _prepare(self, x: Tensor) -> None:
        """Refuse networks that mix samples, or lose them."""
        check_input(x)
        few = x[:8]
        self.circuit.initialize(few)
        with torch.no_grad():
            answer, alone = self.circuit.model(few), self.circuit.model(few[: (len(few) + 1) // 2])
        tolerance = torch.finfo(answer.dtype).eps ** 0.5
        same = answer[: len(alone)]
        if same.shape != alone.shape or not torch.allclose(
            same, alone, rtol=tolerance, atol=tolerance * float(answer.abs().max()), equal_nan=True
        ):
            raise CircuitError(
                f"{type(self.circuit.model).__name__}: in evaluation mode its output for a sample depends on the other "
                "samples of the batch, or is random, so no sample has an update of its own. Give batch norms running "
                "statistics (track_running_stats=True)."
            )
        axes = self.wiring.batch_axes[few.dim()]
        for node in self.wiring.nodes:
            wrong = {axes[value] for value in (*node.sources, node.index + 1)} - {0}
            if wrong and node.reachable and (isinstance(node, Layer) or node.own_indices):
                raise CircuitError(
                    f"{node.name}: the batch is axis {wrong.pop()} of a rate, and samples are separated along axis 0. "
                    "Keep the batch first inside the model."
                )

    def most_samples(self, x: Tensor) -> int:
        """How many samples are passed at once, so that what arrives at all layers fits the memory."""
        _, state = self.forward(x[:1])
        layers = [node for node, is_layer in state.plan.order if is_layer]
        arrives: list[int] = [layer.synapses.unfold(state[layer].pre).numel() for layer in layers]  # type: ignore[attr-defined]
        return max(1, min(256, _ENTRIES // max(1, sum(arrives))))

    def forward(self, x: Tensor) -> tuple[Tensor, ForwardState]:
        """The output, and the state of the nodes."""
        check_input(x)
        wiring = self.wiring
        with torch.enable_grad():
            wiring.compute_weights()
        own = [module._parameters[name] for module, name in wiring.parameters]
        learns = [parameter is not None and parameter.requires_grad for parameter in own]
        self._used = own
        self._arrived: dict[int, tuple[Tensor, Tensor]] = {}
        with torch.no_grad():
            plan = wiring.plan((*learns, *(False for _ in self.rule.parameters())), False)
            y, state = self.rule.forward(wiring, x, plan)
        state.batch_axes = wiring.batch_axes_of(x, state)
        return y, state

    def add_powers(
        self, totals: Importance, state: ForwardState, error: Tensor, weight: Tensor | None, power: int
    ) -> None:
        """Add the sums over samples of |update| to a power."""
        root = None if weight is None else weight.pow(1 / power)
        parts: dict[int, list[_Part]] = {}
        for credit in self.rule.assign_credit(self.wiring, state.copy(), error):
            for index, part in self._parts(credit, state.plan.requires_grad):
                scaled = part if root is None else part._replace(post=part.post * per_sample(root, part.post))
                parts.setdefault(index, []).append(scaled)
        behind = self._behind(parts)
        several: dict[str, list[int]] = {}
        for index, own in parts.items():
            name = self._names.get(id(self._used[index]))
            if name is not None and name not in behind and len(own) == 1:
                totals[name] += own[0].power(power)
            elif name is not None:
                several.setdefault(name, []).append(index)
        if several or behind:
            self._add_separately(totals, parts, {*several, *behind}, len(error), power)

    def _parts(self, credit: Credit, learns: Sequence[bool]) -> Iterator[tuple[int, _Part]]:
        if credit.derivatives is not None:
            yield from ((index, _Part(values)) for index, values in credit.derivatives.items())
            return
        if credit.synapses is not None:  # of the rule's own
            return
        if credit.decay is not None or credit.pre is None or credit.post is None:
            raise CircuitError(
                f"{credit.layer.name}: {type(self.rule).__name__} lets synapses decay by their own strength, which "
                "belongs to no single sample. Pass by_rule=False."
            )
        assert isinstance(credit.layer, Layer)
        synapses = credit.layer.synapses
        post = credit.post if credit.modulator is None else credit.post * credit.modulator
        for index, is_bias in ((synapses.weight_index, False), (synapses.bias_index, True)):
            if index is not None and learns[index]:
                yield index, _Part(post, self._unfolded(credit.layer, credit.pre), synapses, is_bias)

    def _unfolded(self, layer: Layer, pre: Tensor) -> Tensor:
        """What arrives at a layer, unfolded once for all backward passes over a batch."""
        known = self._arrived.get(layer.index)
        if known is None or known[0] is not pre:
            known = self._arrived[layer.index] = (pre, layer.synapses.unfold(pre))
        return known[1]

    def _computed(self, index: int) -> Tensor | None:
        """A weight that the model computes from its parameters."""
        used = self._used[index]
        return used if used is not None and id(used) not in self._names else None

    def _behind(self, parts: Iterable[int]) -> set[str]:
        """The parameters from which weights are computed."""
        found: set[str] = set()
        for index in parts:
            weight = self._computed(index)
            if weight is not None:
                found.update(self._derivatives(weight, torch.zeros_like(weight)))
        return found

    def _derivatives(self, weight: Tensor, update: Tensor) -> Importance:
        found = torch.autograd.grad(weight, list(self._leaves.values()), update, retain_graph=True, allow_unused=True)
        return {name: own for name, own in zip(self._leaves, found, strict=True) if own is not None}

    def _add_separately(
        self, totals: Importance, parts: dict[int, list[_Part]], names: set[str], samples: int, power: int
    ) -> None:
        """The same where several updates of a sample add up in a parameter, or pass through a computation."""
        most = max(self._leaves[name].numel() for name in names)
        for piece in pieces(samples, most):
            sums: Importance = {}
            for index, own in parts.items():
                weight, name = self._computed(index), self._names.get(id(self._used[index]))
                if weight is None and name not in names:
                    continue
                updates = torch.stack([part.updates(piece) for part in own]).sum(0)
                if weight is None:
                    found = {str(name): updates}
                else:  # one sample after the other: autograd takes an update through the computation
                    each = [self._derivatives(weight, update) for update in updates]
                    found = {key: torch.stack([one[key] for one in each]) for key in each[0]}
                for key, values in found.items():
                    sums[key] = sums[key] + values if key in sums else values
            for key, values in sums.items():
                totals[key] += raised(values, power).sum(0)

    def zeros(self) -> Importance:
        """Nothing matters."""
        return {name: torch.zeros_like(own, requires_grad=False) for name, own in self._leaves.items()}


def _mean_powers(
    network: nn.Module, x: Tensor, errors: Errors, power: int, by_rule: bool, batch_size: int | None
) -> Importance:
    if batch_size is not None:
        check_positive("importance", batch_size=batch_size)
    devices = [x.device.index or 0] if x.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        twin = _Twin(network, x, by_rule=by_rule)
        totals = twin.zeros()
        for place in _batches(x, batch_size or twin.most_samples(x)):
            y, state = twin.forward(x[place])
            with torch.no_grad():
                for error, weight in errors(y, place):
                    twin.add_powers(totals, state, error, weight, power)
    for name, total in totals.items():
        total.div_(len(x))
        if not total.isfinite().all():
            raise NonFiniteError(
                f"{name}: its importance holds NaN or infinity. Lower the learning rate, or check the data.", layer=name
            )
    return totals
