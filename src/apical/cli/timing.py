"""The verb `apical bench`."""

from typing import TYPE_CHECKING, Annotated

import typer

from apical.cli import options, terminal
from apical.errors import ConfigError

if TYPE_CHECKING:
    from apical.measure.benchmark import Cell, Row

ALL = "all"


def bench(
    networks: Annotated[
        str, typer.Option(metavar="NAMES", help="Of mlp, lenet, conv and resnet20. Example: --networks mlp,lenet")
    ] = "mlp,lenet",
    batches: Annotated[
        str, typer.Option(metavar="SIZES", help="Examples in a step. Example: --batches 8,32,128,512")
    ] = "8,128",
    rules: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="Learning rules, as for `apical compare`; every variant of every one if left out. "
            "Example: --rules backprop,sign_symmetry:magnitude=batchwise",
        ),
    ] = None,
    threads: Annotated[
        str, typer.Option(metavar="N", help="PyTorch's threads, or all. Example: --threads 1,all")
    ] = "1",
    seconds: Annotated[
        float, typer.Option(metavar="S", help="To time each network at each batch size. Example: --seconds 30")
    ] = 5.0,
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Measure memory, too. Example: --no-memory")
    ] = True,
    check_finite: Annotated[
        bool,
        typer.Option(
            "--check-finite/--no-check-finite",
            help="Look for NaN and infinity, as circuits do. Example: --no-check-finite",
        ),
    ] = True,
    json: options.Json = False,
) -> None:
    """Time whole training steps of every rule against plain PyTorch, in pairs; also their memory.

    The default takes some two minutes; rules that settle take much longer on the larger networks. benchmarks/steps.py
    runs every network, batch size and number of threads.

    Example: apical bench --networks mlp --batches 8,32,128,512 --seconds 20
    """
    from apical.measure import benchmark
    from apical.study import RuleConfig

    names = options.read_rules(rules)
    measured = []
    status = terminal.messages().status("")

    def announce(what: str) -> None:
        status.update(f"measuring {what}")
        status.start()

    try:
        for cell in benchmark.benchmark(
            _words(networks),
            _numbers(batches, "--batches"),
            RuleConfig.makers(benchmark.default_rules() if names is None else names),
            threads=read_threads(threads),
            seconds=seconds,
            memory=memory,
            check_finite=check_finite,
            announce=announce,
        ):
            status.stop()
            if json:
                measured.append(cell.to_dict())
            else:
                show(cell)
    finally:
        status.stop()
    if json:
        terminal.as_json(measured)
    else:
        terminal.paragraph(
            "Step: a whole training step as a multiple of plain PyTorch's; median, then the quartiles. Products: what "
            "counting the matrix products of the step predicts for it."
            + (
                " Memory: the most that a step holds beyond what is held between steps; own: the rule's feedback "
                "weights, held all the time."
                if memory
                else ""
            )
        )


def show(cell: "Cell") -> None:
    """Show a cell as a table."""
    from apical.measure.benchmark import network

    plain = f"plain PyTorch {cell.plain_milliseconds:.2f} ms"
    memory = cell.plain_bytes is not None
    if cell.plain_bytes is not None:
        plain += f", {terminal.megabytes(cell.plain_bytes)}"
    terminal.table(
        ["rule", "step", "quartiles", "products", *(["memory", "own"] if memory else [])],
        (_cells(row, memory=memory) for row in cell.rows),
        title=(
            f"{network(cell.network).title}, batch {cell.batch_size}, {terminal.count(cell.threads, 'thread')}: {plain}"
        ),
    )
    for row in cell.rows:
        if row.refusal:
            terminal.paragraph(f"{row.rule} refuses: {row.refusal}")


def _cells(row: "Row", *, memory: bool) -> list[str]:
    rule = row.rule.replace(":", "\n  ").replace(",", ",\n  ")
    if row.time is None or row.products is None:
        return [rule, "-", "-", "-", *(["-", "-"] if memory else [])]
    shown = [rule, f"{row.time.ratio:.3f}", f"{row.time.low:.3f}-{row.time.high:.3f}", f"{row.products:.3f}"]
    if row.step_bytes is not None and row.own_bytes is not None:
        shown += [terminal.megabytes(row.step_bytes), terminal.megabytes(row.own_bytes)]
    return shown


def read_threads(text: str) -> list[int]:
    """`1,all` as numbers of threads; "all" is as many as there are processors.

    Raises:
        ConfigError: it is neither a number nor "all".
    """
    from apical.study.executors.jobs import available_processors

    words = [str(available_processors()) if word == ALL else word for word in _words(text)]
    return list(dict.fromkeys(_numbers(",".join(words), "--threads")))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str, flag: str) -> list[int]:
    words = _words(text)
    if not words or not all(word.isdecimal() and int(word) > 0 for word in words):
        raise ConfigError(f"{flag} {text}: write whole numbers above 0, with commas between them")
    return [int(word) for word in words]
