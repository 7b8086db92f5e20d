"""Data-parallel training: two processes with half a batch each learn what one learns from the whole."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as distributed
import torch.multiprocessing as processes
from circuits import EXPLORES, NETWORKS, Row, assert_same, circuit_of, gradients, loss_on, rows
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import apical
from apical import neurons

ROWS = [row for row in rows() if row.name not in EXPLORES]  # processes draw other noise for each sample
WORLD = 2
STEPS = 2
IN_TIME = ("backprop", "feedback_alignment", "direct_feedback_alignment", "e_prop", "burst_ccn")
Found = list[dict[str, Tensor]]


def train(network: nn.Module, inner: nn.Module, part: slice) -> Found:
    """The gradients of every step; the optimizer moves the weights in between."""
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    found = []
    for step in range(STEPS):
        x, y = NETWORKS["branching"].batch(8, seed=50 + step)
        optimizer.zero_grad()
        loss_on(network, x[part], y[part]).backward()
        found.append(gradients(inner))
        optimizer.step()
    return found


def in_time(rule: str, part: slice, wrap: Callable[[nn.Module], nn.Module]) -> Found:
    """The gradients of a spiking circuit, for a constant input and for one that changes."""
    torch.manual_seed(0)
    recurrent = None if rule == "burst_ccn" else nn.Linear(20, 20, bias=False)
    hidden = nn.Sequential(nn.Linear(6, 20), neurons.LIF(0.8, 0.5, recurrent=recurrent))
    model = nn.Sequential(*hidden, nn.Linear(20, 15), neurons.ALIF(), nn.Linear(15, 3), neurons.LeakyReadout())
    x, y = 3 * torch.rand(5, 8, 6), torch.arange(8) % 3
    circuit = apical.Circuit(model, rule, example=x)
    network, found = wrap(circuit), []
    for shown in (x[:1].expand(5, 8, 6), x):
        circuit.zero_grad()
        nn.functional.cross_entropy(network(shown[:, part]), y[part]).backward()
        found.append(gradients(circuit))
    return found


def work(rank: int, folder: str, table: list[Row]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    try:
        found = {}
        for row in table:
            circuit = circuit_of("branching", row)
            found[str(row)] = train(DistributedDataParallel(circuit), circuit, slice(4 * rank, 4 * rank + 4))
        torch.save(found, f"{folder}/{rank}.pt")
        torch.save(compiled(rank), f"{folder}/compiled{rank}.pt")
        spiking = {rule: in_time(rule, slice(4 * rank, 4 * rank + 4), DistributedDataParallel) for rule in IN_TIME}
        torch.save(spiking, f"{folder}/spiking{rank}.pt")
    finally:
        distributed.destroy_process_group()


def compiled(rank: int) -> dict[str, Tensor]:
    """Direct feedback that a compiled circuit's first forward pass made, which each process runs on data of its own."""
    circuit = circuit_of("branching", "direct_feedback_alignment")
    torch.manual_seed(rank)
    x, y = NETWORKS["branching"].batch(4 + rank, seed=rank)
    loss_on(torch.compile(DistributedDataParallel(circuit), backend="eager"), x, y).backward()
    return dict(circuit.rule.named_buffers())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of what each process found: started once, since starting is what takes time."""
    folder = Path(tmp_path_factory.mktemp("distributed"))
    processes.spawn(work, (str(folder), ROWS), nprocs=WORLD)
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Found]]:
    """The gradients of each process, for every rule."""
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_two_processes_learn_what_one_learns(row, found):
    circuit = circuit_of("branching", row)
    whole = train(circuit, circuit, slice(None))
    for step in range(STEPS):
        parts = [one[str(row)][step] for one in found]
        assert_same(*parts)
        # Sizes drawn for a batch are the same in both processes: they start from one seed and draw as often.
        assert_same(parts[0], whole[step], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", IN_TIME)
def test_spiking_circuits_learn_in_two_processes_what_they_learn_in_one(rule, folder):
    one, two = (torch.load(folder / f"spiking{rank}.pt", weights_only=True)[rule] for rank in range(WORLD))
    for first, second, whole in zip(one, two, in_time(rule, slice(None), lambda circuit: circuit), strict=True):
        assert all(own.abs().max() > 0 for own in whole.values())
        assert_same(first, second)
        assert_same(first, whole, rtol=1e-4, atol=1e-6)


def test_compiled_processes_have_the_feedback_of_one(folder):
    circuit = circuit_of("branching", "direct_feedback_alignment")
    circuit(NETWORKS["branching"].batch(8)[0])
    truth = dict(circuit.rule.named_buffers())
    assert truth
    for rank in range(WORLD):
        assert_same(torch.load(folder / f"compiled{rank}.pt", weights_only=True), truth)
