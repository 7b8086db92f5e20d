"""The order in which the layers of a nudged circuit move."""

from collections.abc import Mapping

from apical.layers import BackwardPlan, Layer, Node


class UpdateSchedule:
    """Which layers of a circuit move in which turn.

    Args:
        plan: what can learn; the nodes below all of it do not move.
        output: the value that is the circuit's output.
        turns: 2 (layers at an even distance from the output, then those at an odd one) or 1 (all at once).

    Attributes:
        layers: those that move, by turn.
        needs_signal: for every turn and value, whether signals are wanted there.
        depth: turns that a signal takes from the output to the lowest layer, over the longest way.
    """

    def __init__(self, plan: BackwardPlan, output: int, turns: int) -> None:
        movers = [node for node, is_layer in plan.order if is_layer and isinstance(node, Layer)]
        feeders: dict[int, frozenset[Node]] = {}
        for node, is_layer in reversed(plan.order):
            below = [feeders.get(source, frozenset()) for source in node.sources]
            feeders[node.index + 1] = frozenset([node]) if is_layer else frozenset().union(*below)
        level = dict.fromkeys(feeders.get(output, ()), 0)
        for layer in movers:
            for feeder in feeders.get(layer.sources[0], ()):
                level[feeder] = max(level.get(feeder, 0), level.get(layer, 0) + 1)
        self.layers: list[list[Layer]] = [
            [layer for layer in movers if level.get(layer, 0) % turns == turn] for turn in range(turns)
        ]
        self.needs_signal = [
            [not feeders.get(value, frozenset()).isdisjoint(movers) for value in range(len(plan.needs_signal))]
            for movers in self.layers
        ]
        self.depth = self._turns_to_reach(movers, feeders)

    def _turns_to_reach(self, movers: list[Layer], feeders: Mapping[int, frozenset[Node]]) -> int:
        drives: dict[Node, list[Layer]] = {layer: [] for layer in movers}
        for layer in movers:
            for feeder in feeders.get(layer.sources[0], ()):
                drives[feeder].append(layer)
        reached: set[Node] = set()
        turn = 0
        while len(reached) < len(movers):
            reached |= {layer for layer in self.layers[turn % len(self.layers)] if reached.issuperset(drives[layer])}
            turn += 1
        return turn
