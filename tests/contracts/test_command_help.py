"""Every command has examples in its help, and `layertap help COMMAND` prints it."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from layertap import cli
from shell import layertap

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def commands() -> dict[str, cli.Command]:
    """The runtime's own commands, and those that the wheel adds."""
    found = {name: cli._own(name) for name in cli.OWN}
    text = PROJECT.read_text(encoding="utf-8")  # tomllib needs Python 3.11
    section = text.partition(f'[project.entry-points."{cli.GROUP}"]\n')[2].partition("\n[")[0]
    for name, module, attribute in re.findall(r'^(\w+) = "([\w.]+):(\w+)"$', section, re.M):
        found[name] = getattr(import_module(module), attribute)
    return found


ALL = commands()


def test_the_commands_of_the_other_packages_are_among_them() -> None:
    assert ALL.keys() > {*cli.OWN, "export", "verify", "models"}


@pytest.mark.parametrize("name", ALL)
def test_every_example_is_a_valid_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_commands", lambda _: {name: ALL[name]})
    assert ALL[name].examples
    for example in ALL[name].examples:
        program, *arguments = shlex.split(example)
        assert (program, arguments[0]) == ("layertap", name)
        assert cli._parse(arguments).run == ALL[name].run


@pytest.mark.parametrize("name", cli.OWN)
def test_help_shows_the_examples_and_has_another_form(name: str) -> None:
    done = layertap(name, "--help")
    assert (done.code, done.err) == (0, "")
    _, _, below = done.out.partition("\nexamples:\n")
    assert below == "".join(f"  {example}\n" for example in ALL[name].examples)
    assert layertap("help", name) == done


def test_help_alone_lists_the_commands() -> None:
    assert layertap("help") == layertap("--help")
    assert "`layertap help COMMAND` prints" in layertap("--help").out
    assert layertap("help", "cma").err == (
        "layertap: the command 'cma' is unknown. Did you mean 'cam', 'compare'? `layertap --help` "
        "lists the commands.\n"
    )
