"""Closed forms of batch, layer and group norm. Their affine parameters learn by their local derivative."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from apical.layers.steps import Saved, Step, closed_form
from apical.layers.traits import Traits

aten = torch.ops.aten


class Norm(Step):
    """What the norms share: an affine part, of which a module may lack either half."""

    traits = Traits(keeps_shape=True)

    def __init__(self, module: nn.Module) -> None:
        self.module: Any = module
        self.parameters = tuple(name for name, _ in module.named_parameters(recurse=False))

    def _spread(
        self, learns: Sequence[bool], below: Tensor, *found: Tensor | None
    ) -> tuple[Tensor, list[Tensor | None]]:
        # PyTorch's kernels return weight and bias in this order; a module may lack either.
        by_name = dict(zip(("weight", "bias"), found, strict=True))
        return below, [by_name[name] if wanted else None for name, wanted in zip(self.parameters, learns, strict=True)]

    def _mask(self, learns: Sequence[bool]) -> list[bool]:
        wanted = dict(zip(self.parameters, learns, strict=True))
        return [True, wanted.get("weight", False), wanted.get("bias", False)]

    def sample_derivatives(self, grad: Tensor, saved: Saved, learns: Sequence[bool]) -> list[Tensor | None]:
        parts = {"weight": lambda: grad * self._normalised(saved), "bias": lambda: grad}
        return [
            self._per_parameter(parts[name]()) if wanted else None
            for name, wanted in zip(self.parameters, learns, strict=True)
        ]

    @abstractmethod
    def _normalised(self, saved: Saved) -> Tensor:
        """The answer before the affine part."""

    def _per_parameter(self, values: Tensor) -> Tensor:
        """Values of an answer, summed over the positions that share a parameter: (batch, channels)."""
        return values.flatten(2).sum(2) if values.dim() > 2 else values

    def _affine(self) -> tuple[Tensor | None, Tensor | None]:
        own = self.module._parameters
        return own.get("weight"), own.get("bias")


@closed_form(nn.BatchNorm1d, nn.BatchNorm2d)
class BatchNorm(Norm):
    """Batch normalisation with its running statistics."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.traits = Traits(keeps_shape=True, memory=self.module.track_running_stats, replays=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        if not x.numel():
            return self.module(x), ()  # as plain PyTorch; no backward pass follows
        self.module._check_input_dim(x)
        return self._normalise(x)

    def _normalise(self, x: Tensor) -> tuple[Tensor, Saved]:
        module = self.module
        weight, bias = self._affine()
        mean, variance = module.running_mean, module.running_var
        from_batch = module.training or mean is None
        momentum = module.momentum
        if module.training and module.track_running_stats and module.num_batches_tracked is not None:
            module.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1.0 / float(module.num_batches_tracked)
        if from_batch and x.numel() == x.shape[1]:
            raise ValueError(f"batch norm in training needs more than one value per channel, got {tuple(x.shape)}")
        updated = module.training and module.track_running_stats
        y, batch_mean, batch_scale = aten.native_batch_norm.default(
            x,
            weight,
            bias,
            mean if updated or not from_batch else None,
            variance if updated or not from_batch else None,
            from_batch,
            0.0 if momentum is None else momentum,
            module.eps,
        )
        moving = (None, None) if from_batch else (mean, variance)
        return y, (x, *moving, batch_mean, batch_scale, from_batch, self._versions(from_batch))

    def _versions(self, from_batch: bool) -> tuple[int, int] | None:
        """What tells if the running statistics that answered were overwritten since."""
        if from_batch or torch.compiler.is_compiling():  # a compiler has autograd notice it
            return None
        return self.module.running_mean._version, self.module.running_var._version

    def backward(self, grad: Tensor, saved: Saved, learns: Sequence[bool]) -> tuple[Tensor, Sequence[Tensor | None]]:
        x, mean, variance, batch_mean, batch_scale, from_batch, versions = saved
        module = self.module
        if versions is not None and versions != self._versions(from_batch):
            raise RuntimeError(
                "the running statistics of a batch norm have been modified by an inplace operation between the answer "
                "and loss.backward(). Answer again."
            )
        found = aten.native_batch_norm_backward.default(
            grad,
            x,
            self._affine()[0],
            mean,
            variance,
            batch_mean,
            batch_scale,
            from_batch,
            module.eps,
            self._mask(learns),
        )
        return self._spread(learns, *found)

    def _normalised(self, saved: Saved) -> Tensor:
        x, mean, variance, batch_mean, batch_scale, from_batch, _ = saved
        scale = batch_scale if from_batch else (variance + self.module.eps).rsqrt()
        shape = [1, -1] + [1] * (x.dim() - 2)
        normalised: Tensor = (x - (batch_mean if from_batch else mean).view(shape)) * scale.view(shape)
        return normalised

    def refire(self, x: Tensor, saved: Saved, *, anchored: bool) -> tuple[Tensor, Saved]:
        _, mean, variance, batch_mean, batch_scale, from_batch, _ = saved
        if from_batch:
            mean, variance = batch_mean, batch_scale.pow(-2).sub_(self.module.eps)
        y = aten.native_batch_norm.default(x, *self._affine(), mean, variance, False, 0.0, self.module.eps)[0]
        return y, (saved[0].to(x.dtype) if anchored and from_batch else x, *saved[1:])


@closed_form(nn.LayerNorm)
class LayerNorm(Norm):
    """Normalisation over the last axes of each sample."""

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        weight, bias = self._affine()
        dtype = x.dtype
        if weight is not None and weight.dtype != dtype:
            x = x.to(weight.dtype)
        shape = list(self.module.normalized_shape)
        y, mean, scale = aten.native_layer_norm.default(x, shape, weight, bias, self.module.eps)
        return y, (x, mean, scale, dtype)

    def backward(self, grad: Tensor, saved: Saved, learns: Sequence[bool]) -> tuple[Tensor, Sequence[Tensor | None]]:
        x, mean, scale, dtype = saved
        weight, bias = self._affine()
        below, *found = aten.native_layer_norm_backward.default(
            grad.to(x.dtype),
            x,
            list(self.module.normalized_shape),
            mean,
            scale,
            weight,
            bias,
            self._mask(learns),
        )
        return self._spread(learns, below.to(dtype), *found)

    def _normalised(self, saved: Saved) -> Tensor:
        x, mean, scale, _ = saved
        normalised: Tensor = (x - mean) * scale
        return normalised

    def _per_parameter(self, values: Tensor) -> Tensor:
        shared = tuple(range(1, values.dim() - len(self.module.normalized_shape)))
        return values.sum(shared) if shared else values


@closed_form(nn.GroupNorm)
class GroupNorm(Norm):
    """Normalisation over groups of channels of each sample."""

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        weight, bias = self._affine()
        dtype = x.dtype
        # Under autocast PyTorch takes a group norm in the weights' type, except on the CPU.
        if weight is not None and x.device.type != "cpu":
            x = x.to(weight.dtype)
        x = x.contiguous()
        batch, channels = x.shape[0], x.shape[1]
        sizes = (batch, channels, math.prod(x.shape[2:]), self.module.num_groups)
        y, mean, scale = aten.native_group_norm.default(x, weight, bias, *sizes, self.module.eps)
        return y, (x, mean, scale, sizes, dtype)

    def backward(self, grad: Tensor, saved: Saved, learns: Sequence[bool]) -> tuple[Tensor, Sequence[Tensor | None]]:
        x, mean, scale, sizes, dtype = saved
        below, *found = aten.native_group_norm_backward.default(
            grad.to(x.dtype).contiguous(), x, mean, scale, self._affine()[0], *sizes, self._mask(learns)
        )
        return self._spread(learns, below.to(dtype), *found)

    def _normalised(self, saved: Saved) -> Tensor:
        x, mean, scale, sizes, _ = saved
        groups = x.view(sizes[0], sizes[3], -1)
        normalised: Tensor = ((groups - mean[..., None]) * scale[..., None]).view_as(x)
        return normalised
