"""A gate of hidden units by context, as in the code of NACA's authors; each context's leak is named."""

import math

import torch
from torch import Tensor, nn

from apical.errors import CircuitError, ConfigError, DataError
from apical.feedback.randomness import uniform
from apical.layers.steps import ParameterFree, Saved, closed_form
from apical.layers.traits import Traits
from apical.options import check_choice, check_positive, check_ranges

MODES = ("none", "batch", "sample", "projection", "oracle")


class Context(nn.Module):
    """Reads the context of a forward pass for the gates of hidden layers, and returns its input as it is.

    Where the gates of a network get their context decides whether its accuracy means anything:

        "none"        no context: gates are open (the default)
        "batch"       the mean of the batch, in training and in evaluation. It leaks: the output for a sample depends on
                      the other samples of a test batch, and a batch of one class shows which one it is
        "sample"      the sample itself. It cannot leak
        "projection"  a fixed random projection of the sample itself, whose winners are open. It cannot leak
        "oracle"      the label (or the task), given by `tell`. It leaks the label itself: a bound, and not a result

    Args:
        mode: one of the five.
        contexts: of "oracle", how many labels there are.
        share: of "projection", the share of a layer's units that are open for a sample; at least one unit is.
        seed: of the projection, which depends on it and on the numbers of inputs and units alone.

    Shapes: inputs (batch, ...). Raises: ConfigError for an unknown mode, a share out of range, or an oracle without
    contexts. DataError for labels outside 0 ... contexts - 1. CircuitError for an oracle that has no labels, or those
    of another batch.

    Source: "batch": the authors' code for Zhang et al., Science Advances 9, eadi2947 (2023); "oracle": as context
        signals in Masse, Grant and Freedman, PNAS 115, E10467 (2018).

    Example:
        >>> import torch, apical
        >>> context = apical.Context("sample")
        >>> model = torch.nn.Sequential(
        ...     context, torch.nn.Linear(9, 20), torch.nn.Tanh(), apical.ContextGate(context), torch.nn.Linear(20, 3)
        ... )
        >>> model(torch.rand(4, 9)).shape
        torch.Size([4, 3])
    """

    def __init__(self, mode: str = "none", *, contexts: int | None = None, share: float = 0.1, seed: int = 0) -> None:
        super().__init__()
        check_choice("Context", "mode", mode, MODES)
        self.share = share
        self.seed = seed
        check_ranges("Context", self, {"share": (0 < share <= 1, "above 0 and at most 1")})
        if (mode == "oracle") != (contexts is not None) or (contexts is not None and contexts < 1):
            raise ConfigError(
                f"Context: contexts={contexts!r} with mode={mode!r}. Pass contexts, the number of labels, with "
                "mode='oracle', and with no other mode."
            )
        self.mode = mode
        self.contexts = contexts
        self._projections: dict[int, Tensor] = {}  # (inputs, units), by the number of units
        self._read: Tensor | None = None  # (1 or batch, inputs) of an image, or (1 or batch,) of labels

    def tell(self, labels: Tensor | int) -> None:
        """Give the oracle its context, which holds until the next call.

        Args:
            labels: (batch,) of integers, or one for all samples.

        Raises:
            ConfigError: the mode is not "oracle".
            DataError: a label is not an integer from 0 to contexts - 1.
        """
        if self.contexts is None:
            raise ConfigError(f"Context: mode={self.mode!r} reads its context from the input. Use mode='oracle'.")
        given = torch.as_tensor(labels).reshape(-1)
        if given.is_floating_point() or (len(given) and not 0 <= int(given.min()) <= int(given.max()) < self.contexts):
            raise DataError(f"Context: labels must be integers from 0 to {self.contexts - 1}.")
        self._read = given

    def forward(self, x: Tensor) -> Tensor:
        self.read(x)
        return x

    def read(self, x: Tensor) -> None:
        """Read the context off an input (batch, ...)."""
        if self.mode in ("batch", "sample", "projection"):
            image = x.detach().flatten(1) if x.dim() > 1 else x.detach()[:, None]
            self._read = image.mean(0, keepdim=True) if self.mode == "batch" else image
        elif self.mode == "oracle" and (self._read is None or len(self._read) not in (1, len(x))):
            given = "no labels" if self._read is None else f"{len(self._read)} labels"
            raise CircuitError(f"Context: the oracle has {given} for {len(x)} samples. Call tell(labels) before.")

    def openness(self, units: int, margin: float, sharpness: float) -> Tensor | None:
        """How far each unit's gate is open, (1 or batch, units), from 0 to 1; None where all are open.

        Args:
            units: of a sample.
            margin: as for `ContextGate`.
            sharpness: as for `ContextGate`.

        Raises:
            CircuitError: nothing has been read.
        """
        if self.mode == "none":
            return None
        read = self._read
        if read is None:
            raise CircuitError("ContextGate: its context has read no input. Put the Context before the first layer.")
        if self.mode == "projection":
            drives = read @ self._projection(read, units)
            losers = units - max(1, round(self.share * units))
            return drives >= drives.kthvalue(losers + 1, dim=1, keepdim=True).values
        places = torch.arange(units, device=read.device)
        if self.contexts is not None:
            return places % self.contexts == read[:, None]
        image = read[:, places * read.shape[1] // units]
        return torch.sigmoid(sharpness * (image - (image.amax(1, keepdim=True) - margin)))

    def _projection(self, read: Tensor, units: int) -> Tensor:
        """R^T, (inputs, units)."""
        known = self._projections.get(units)
        wanted = (read.shape[1], read.dtype, read.device)
        if known is None or (len(known), known.dtype, known.device) != wanted:
            like = torch.zeros(read.shape[1], units)
            drawn = uniform(like, 1.0, self.seed, f"{read.shape[1]} to {units}/projection")
            known = self._projections[units] = (drawn - drawn.mean(0)).to(read)
        return known

    def extra_repr(self) -> str:
        if self.mode == "projection":
            return f"'projection', share={self.share}, seed={self.seed}"
        return repr(self.mode) + ("" if self.contexts is None else f", contexts={self.contexts}")


class ContextGate(nn.Module):
    """Lets only those units of a hidden layer pass that belong to the context.

        g_j = sigmoid(1000 (m_j - (max_k m_k - margin))),   h <- h * g
        m_j = the context's image at floor(j D / H),   D inputs, H units            "batch", "sample"
        g_j = 1 for the share * H units with the largest (R x)_j, else 0            "projection"
        g_j = 1 where j mod contexts is the label, else 0                           "oracle"

    Place it after the neurons of any layer of any network, with a `Context` before the first layer; several gates may
    share one. A gated layer of any rule learns through its gate, as `dW_l = -eta (delta_l * g) h_(l-1)^T`. The image is
    read by position, which has a meaning where the layer's units lie as the inputs do, and works as a code of the
    input elsewhere. R (units, inputs) is fixed and random, and the weights of each unit add up to 0, so that none is
    open for brightness alone; layers of as many units share R, and so their gates.

    Args:
        context: the network's context, whose mode says what the gate leaks.
        margin: how far below the brightest place a unit's place may be (0.2 for MNIST, 0.1 for CIFAR-10 in the
            authors' code, for inputs of mean 0 and variance 1).
        sharpness: of the sigmoid.

    Shapes: rates (batch, ...), of which the units are all axes but the first.

    Source: the authors' code for Zhang et al., Science Advances 9, eadi2947 (2023). Their gate is on in training and
        in evaluation, and reads the mean of the batch. See `docs/naca.md`.

    Example:
        >>> import torch, apical
        >>> context = apical.Context("batch")
        >>> gate = apical.ContextGate(context, margin=0.3)
    """

    def __init__(self, context: Context, *, margin: float = 0.2, sharpness: float = 1000.0) -> None:
        super().__init__()
        check_positive("ContextGate", margin=margin, sharpness=sharpness)
        self.context = context
        self.margin = margin
        self.sharpness = sharpness

    def factor(self, h: Tensor) -> Tensor | None:
        """What multiplies the rates, broadcast over them; None where all pass."""
        found = self.context.openness(math.prod(h.shape[1:]), self.margin, self.sharpness)
        return None if found is None else found.view(-1, *h.shape[1:]).to(h)

    def forward(self, h: Tensor) -> Tensor:
        factor = self.factor(h)
        return h if factor is None else h * factor

    def extra_repr(self) -> str:
        return f"margin={self.margin}, sharpness={self.sharpness}"


class RandomGate(nn.Module):
    """Lets a random share of a hidden layer's units pass, another one for each context of an oracle.

        h <- h * m_c,   m_c fixed, (1 - gated) H of the H units at 1 and the others at 0

    Place it as a `ContextGate`; the oracle's labels are given by `Context.tell`, and no module at the input is needed.
    The masks depend on the seed, the name and the numbers of contexts and units alone.

    Args:
        context: an oracle, which may be shared.
        gated: the share of units that are closed, rounded to units, of which at least one is open.
        seed: of the masks.
        name: of the layer, by which gates of one seed differ.

    Shapes: rates (batch, ...), of which the units are all axes but the first.

    Raises: ConfigError for a context of another mode than "oracle", or a share out of range.

    Source: Masse, Grant and Freedman, PNAS 115, E10467 (2018).
    """

    def __init__(self, context: Context, *, gated: float = 0.8, seed: int = 0, name: str = "") -> None:
        super().__init__()
        check_choice("RandomGate", "context.mode", context.mode, ("oracle",))
        self.context = context
        self.gated = gated
        self.seed = seed
        self.name = name
        check_ranges("RandomGate", self, {"gated": (0 <= gated < 1, "at least 0 and below 1")})
        self._masks = torch.zeros(0, 0)

    def factor(self, h: Tensor) -> Tensor:
        """What multiplies the rates, broadcast over them."""
        self.context.read(h)
        read = self.context._read
        assert read is not None
        units = math.prod(h.shape[1:])
        if (self._masks.shape[1], self._masks.dtype, self._masks.device) != (units, h.dtype, h.device):
            self._masks = self._drawn(units).to(h)
        return self._masks.index_select(0, read.to(h.device)).view(-1, *h.shape[1:])

    def forward(self, h: Tensor) -> Tensor:
        return h * self.factor(h)

    def _drawn(self, units: int) -> Tensor:
        """The masks of all contexts, (contexts, units)."""
        contexts = self.context.contexts
        assert contexts is not None
        ranks = uniform(torch.zeros(contexts, units), 1.0, self.seed, f"{self.name}/gate").argsort(1).argsort(1)
        return ranks < max(1, round((1 - self.gated) * units))

    def extra_repr(self) -> str:
        return f"gated={self.gated}, seed={self.seed}, name={self.name!r}"


@closed_form(Context)
class _Read(ParameterFree):
    """The context's step at the input."""

    traits = Traits(keeps_shape=True, moves=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        self.module.read(x)
        return x, ()

    def derivative(self, grad: Tensor, *saved: Tensor) -> Tensor:
        return grad


@closed_form(ContextGate, RandomGate)
class _Gated(ParameterFree):
    """A gate's step; its factor is kept, so that a rule that settles uses the one of the first pass."""

    traits = Traits(keeps_shape=True, masks=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        factor = self.module.factor(x)
        return (x, ()) if factor is None else (x * factor, (factor,))

    def derivative(self, grad: Tensor, *saved: Tensor) -> Tensor:
        return grad * saved[0] if saved else grad

    def refire(self, x: Tensor, saved: Saved, *, anchored: bool) -> tuple[Tensor, Saved]:
        return (x * saved[0] if saved else x), saved
