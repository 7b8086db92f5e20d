"""Tensors of a rule or a pathway, one a layer."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from apical.layers import Layer, Node, Synapses


class PerLayer(nn.Module):
    """Tensors of a rule or a pathway, one a layer: buffers, or parameters where an optimizer moves them.

    Args:
        grows: accept tensors of a state_dict for layers that have none yet.
    """

    grows = False

    def __init__(self, *, grows: bool = False) -> None:
        super().__init__()
        self.grows = grows
        self._keys: dict[str, str] = {}
        self._synapses: dict[str, Synapses] = {}

    def _key(self, layer: Node) -> str:
        known = self._keys.get(layer.name)
        if known is not None:
            return known
        key = layer.name.replace(".", "/")
        # A layer may have the name of an attribute of this module.
        return f"/{key}" if hasattr(PerLayer, key) or key in ("_keys", "_synapses", "grows") else key

    def hold(self, layer: Node, tensor: Tensor, *, learned: bool = False, bias: Tensor | None = None) -> None:
        """Keep a tensor for a layer, and, if it is learned, perhaps a bias."""
        key = self._keys[layer.name] = self._key(layer)
        if not learned:
            self.register_buffer(key, tensor)
            return
        self.register_parameter(key, nn.Parameter(tensor))
        if bias is not None:
            self.register_parameter(f"{key}/bias", nn.Parameter(bias))
        if isinstance(layer, Layer):
            self._synapses[layer.name] = layer.synapses.like(self, key, None if bias is None else f"{key}/bias")

    def __contains__(self, layer: Node) -> bool:
        key = self._key(layer)
        return key in self._buffers or key in self._parameters

    def __getitem__(self, layer: Node) -> Tensor:
        key = self._key(layer)
        tensor = self._buffers.get(key)
        if tensor is None:
            tensor = self._parameters[key]
        assert tensor is not None
        return tensor

    def learns(self, layer: Node) -> bool:
        """Whether the layer's tensor is a parameter."""
        return self._key(layer) in self._parameters

    def synapses(self, layer: Layer) -> Synapses:
        """The layer's learned weights as synapses that connect in the same way as the layer's own."""
        return self._synapses[layer.name]

    def find(self, layer: Layer) -> Synapses | None:
        """The same, or None where the layer has no learned weights."""
        return self._synapses.get(layer.name)

    def index_parameters(self, places: Mapping[str, int]) -> None:
        """Give the learned synapses the indices of their parameters in the circuit, by the names here."""
        for synapses in self._synapses.values():
            synapses.weight_index = places.get(synapses.weight_name)
            synapses.bias_index = None if synapses.bias_name is None else places.get(synapses.bias_name)

    def __len__(self) -> int:
        return len(self._buffers) + len(self._parameters)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if self.grows:
            for key, tensor in state_dict.items():
                own = key.removeprefix(prefix)
                if key.startswith(prefix) and own not in self._buffers:
                    self.register_buffer(own, torch.empty_like(tensor))
        super()._load_from_state_dict(state_dict, prefix, *args)
