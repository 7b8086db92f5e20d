"""What a run is made of: digests of its data, network, rule and settings, and the versions that computed it.

They are kept in the run's folder, and compared wherever the run is used again.
"""

import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from apical import continual, data
from apical.errors import RunError
from apical.layers.over_time import as_it_is
from apical.rules import LearningRule
from apical.sources import split_name
from apical.study.configuration import Config
from apical.study.runs import environment
from apical.study.runs.folder import RunFolder

CHANGED = "is not what it was"
"""The beginning of a note about a run that is not."""

_of_data: WeakKeyDictionary[data.Task, tuple[list[int], str]] = WeakKeyDictionary()


def describe(
    config: Config,
    task: data.Task | continual.Stream,
    model: nn.Module,
    encode: Callable[[Tensor], Tensor],
    rule: LearningRule,
) -> dict[str, str]:
    """The fingerprint of a run, ready for JSON.

    Args:
        config: resolved.
        task: the data, before they are cut into a stream.
        model: the network before the first step; of an `apical.neurons.OverTime` the one inside.
        encode: how its input becomes a sequence.
        rule: as the configuration makes it.
    """
    return {
        "data": of_data(task),
        "network": _of_network(config, model, encode),
        "initial weights": _of_tensors(model.state_dict().values()),
        "rule": _of_classes([type(rule), type(rule._modules.get("pathway"))], split_name(config.rule.name)),
        "settings": of_settings(config),
        **environment.versions(),
    }


def changes(then: Mapping[str, str], now: Mapping[str, str], *, sizes: str = "") -> str:
    """What differs, in words: "its rule changed; torch 2.12 then, 2.13 now"; empty where nothing does.

    Args:
        then: the fingerprint that the run keeps; empty for one of before fingerprints were kept.
        now: to compare with it; what it lacks is not compared.
        sizes: what is known of a change of the data.
    """
    if not then:
        return "it keeps no fingerprint, as it is of an earlier apical: what it was made of is unknown"
    said, versions = [], environment.versions()
    for key in (key for key in now if then.get(key) != now[key]):
        said.append(f"{key} {then.get(key)} then, {now[key]} now" if key in versions else f"its {key} changed")
        said[-1] += f" ({sizes})" if key == "data" and sizes else ""
    return "; ".join(said)


def allow(run: RunFolder, found: str, *, changed: bool, remedy: str) -> str:
    """Refuse a run that is not what it was, or the note that its result then needs; "" where nothing was found.

    Args:
        run: its folder.
        found: as `changes` says it.
        changed: go on all the same.
        remedy: what else can be done.

    Raises:
        RunError: something was found, and it was not said to go on.
    """
    if found and not changed:
        raise RunError(
            f"{run.path} {CHANGED}: {found}. {remedy}, or pass --changed (from Python changed=True) to go on, "
            "with a note in the result."
        )
    return found and f"{CHANGED}: {found}"


def of_settings(config: Config) -> str:
    """A digest of all settings."""
    return hashlib.sha256(config.to_toml().encode()).hexdigest()


def of_data(task: data.Task | continual.Stream) -> str:
    """A digest of all inputs and labels, and of what standardised them; each task in memory is read once."""
    if isinstance(task, continual.Stream):
        own = [(each.classes, each.labels, each.outputs) for each in task]
        parts = (part for each in task for part in (each.train, each.validation, each.test) if part is not None)
        return _of_examples(str((task.outputs, task.scenario, own)), parts)
    # What changes a tensor in place raises its version.
    versions = [tensor._version for part in (task.train, task.test) for tensor in (part.x, part.y)]
    if task not in _of_data or _of_data[task][0] != versions:
        scaling = task.scaling and (task.scaling.mean.tolist(), task.scaling.std.tolist())
        _of_data[task] = versions, _of_examples(str((task.classes, scaling)), (task.train, task.test))
    return _of_data[task][1]


def _of_examples(about: str, parts: Iterable[data.Examples]) -> str:
    tensors = _of_tensors(tensor for part in parts for tensor in (part.x, part.y))
    return hashlib.sha256(f"{about} {tensors}".encode()).hexdigest()


def _of_tensors(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _of_network(config: Config, model: nn.Module, encode: Callable[[Tensor], Tensor]) -> str:
    """Of its layers and its encoder, of the source of the layers' classes, and of the user's file."""
    encoder = "" if encode is as_it_is else repr(encode)
    layers = re.sub(r" at 0x[0-9a-f]+", "", f"{model!r}{encoder}")
    kinds = _of_classes((type(module) for module in model.modules()), split_name(config.model))
    return hashlib.sha256(f"{layers} {kinds}".encode()).hexdigest()


def _of_classes(kinds: Iterable[type], own: tuple[Path, str] | None) -> str:
    """Of the source files of classes and their bases, torch's and Python's left out; and of a file that made them."""
    modules: dict[str, type] = {base.__module__: base for kind in kinds for base in kind.__mro__}
    digest = hashlib.sha256()
    for name in sorted(modules):
        if name.partition(".")[0] in {"torch", "builtins", "abc", "typing"}:
            continue
        digest.update(name.encode() + _source(name, modules[name]))
    if own is not None:
        digest.update(own[0].read_bytes())
    return digest.hexdigest()


def _source(module: str, kind: type) -> bytes:
    """Of a module; of a class alone in a notebook or at a prompt, where Python has it."""
    try:
        return Path(str(sys.modules[module].__file__)).read_bytes()
    except (KeyError, AttributeError, OSError):
        try:
            return inspect.getsource(kind).encode()
        except (OSError, TypeError):
            return b""
