"""The levels of a circuit's layers, as predictive coding counts them."""

from apical.layers import BackwardPlan
from apical.wiring import Wiring


class Hierarchy:
    """Which layers hold a value, how far they are from the output, and where signals have to go.

    Attributes:
        levels: of the layers that hold a value, by their index: the number of errors on the way from the output to
            their own.
        hidden: these layers, in the order of the forward pass. The others that learn are readouts.
        levelled: whether a layer's level is the same on every way from the output.
        depth: the highest level.
        needs_signal: for every value of the circuit, whether signals are wanted there.
    """

    def __init__(self, wiring: Wiring, plan: BackwardPlan) -> None:
        feeds: set[int] = set()
        found: dict[int, int] = {wiring.output: 0}
        self.levels: dict[int, int] = {}
        self.levelled = True
        for node, is_layer in plan.order:
            value = node.index + 1
            level = found.get(value, 0)
            if is_layer and value in feeds:
                level += 1
                self.levels[node.index] = level
            if is_layer or value in feeds:
                feeds.update(node.sources)
            for source in node.sources:
                known = found.setdefault(source, level)
                if known != level and plan.needs_signal[source]:
                    self.levelled = False
                    found[source] = max(level, known)
        self.hidden = [node for node in wiring.layers if node.index in self.levels]
        self.depth = max([0, *self.levels.values()])
        self.needs_signal = [False] * (len(wiring.nodes) + 1)
        for node, _ in reversed(plan.order):
            below = any(self.needs_signal[source] for source in node.sources)
            self.needs_signal[node.index + 1] = below or node.index in self.levels
