"""The verbs that say what there is: `apical rules`, `apical data`."""

import inspect
from typing import Annotated, Any

import typer

from apical.cli import options, terminal

data = typer.Typer()


def rules(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One rule: its equations and options. Example: backprop")
    ] = None,
    json: options.Json = False,
) -> None:
    """List the learning rules with their papers and what they need, or explain one.

    Example: apical rules feedback_alignment
    """
    from apical import rules as registry

    chosen = registry.names() if name is None else [registry.get(name).name]
    described = {each: _describe(registry.get(each)) for each in chosen}
    if json:
        terminal.as_json(list(described.values()) if name is None else described[chosen[0]])
    elif name is None:
        terminal.table(
            ["rule", "what it does"],
            (
                (rule, f"{about['summary']}\n{about['paper']}. Needs {about['needs']}.{_equal(about)}")
                for rule, about in described.items()
            ),
            words=[1],
        )
        terminal.paragraph("`apical rules NAME` shows a rule's equations and options.")
    else:
        _explain(chosen[0], described[chosen[0]])


def _equal(about: dict[str, Any]) -> str:
    return f" Equals backpropagation {about['equals_backprop']}." if about["equals_backprop"] else ""


def _describe(rule: Any) -> dict[str, Any]:
    parameters = inspect.signature(rule).parameters
    return {
        "name": rule.name,
        "title": rule.title,
        "summary": rule.summary,
        "paper": rule.paper,
        "needs": rule.needs,
        "equals_backprop": rule().equals_backprop,
        "learns_from": rule.learns_from,
        "recommended": dict(rule().recommends()),
        "options": {option: parameters[option].default for option in rule.option_names()},
        "description": inspect.getdoc(rule) or "",
    }


_WANTED = {"rectified_rate_factor": "with rectified networks, learning rate x"}


def _explain(name: str, about: dict[str, Any]) -> None:
    terminal.line(f"{name}: {about['title']}")
    terminal.line(f"paper: {about['paper']}")
    terminal.line(f"needs: {about['needs']}")
    terminal.line(f"equals backpropagation: {about['equals_backprop'] or 'no'}, with the defaults below")
    if about["learns_from"] != "error":
        terminal.line(f"loss:  {about['learns_from']}, of a scalar reward; a run that is given no loss takes it")
    terminal.line()
    terminal.text(about["description"])
    terminal.line()
    if about["options"]:
        terminal.table(["option", "default"], ((key, str(value)) for key, value in about["options"].items()))
        key, value = next(iter(about["options"].items()))
        terminal.line(f"Example: apical train --rule {name}:{key}={value}")
    for setting, value in about["recommended"].items():
        terminal.line(f"Known to want: {_WANTED.get(setting, setting.replace('_', ' '))} {value:g}")


@data.callback(invoke_without_command=True)
def tasks(context: typer.Context, json: options.Json = False) -> None:
    """Say which data are on this machine, and which can be fetched.

    Example: apical data fetch mnist
    """
    if context.invoked_subcommand is not None:
        return
    from dataclasses import asdict

    from apical import data as tasks

    status = tasks.status()
    if json:
        terminal.as_json([asdict(each) for each in status])
        return
    for each in status:
        state = f"here, {each.found}" if each.found else f"{terminal.megabytes(each.fetch_bytes)} to fetch"
        terminal.line(f"{each.name:<14} {state}")
        terminal.text(f"{'':<15}licence: {each.licence}")
    terminal.line()
    terminal.paragraph("Your own arrays are a task too: npz:PATH. A missing task is fetched when it is first used.")


@data.command()
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The task whose files to fetch. Example: mnist")],
) -> None:
    """Download the files of a task, checked, if they are not here yet.

    Example: apical data fetch fashion-mnist
    """
    from apical import data as tasks

    terminal.line(f"{name}  {tasks.fetch(name)}")
