"""Completion in shells, by running the scripts in them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from generators import tiny
from layertap.cli import every_command
from layertap.cli.completion import options_of
from shell import layertap

posix = pytest.mark.skipif(os.name != "posix", reason="needs a shell")
NAMES = ["conv", "a b", "it's", "$(touch hacked)", "`touch hacked`", "x:0", "x:1", "b*", "\x1b[1m"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two files, of which `odd.onnx` has layers with odd names."""
    monkeypatch.chdir(tmp_path)
    tiny.save(tiny.image_classifier(), tmp_path / "m.onnx")
    made = tiny.model(
        [tiny.node("Relu", "x", "y")],
        [tiny.value("x", [1])],
        [tiny.value("y", [1])],
        card=tiny.card(
            [tiny.layer(i, name, "ReLU", (1,), exposed=False) for i, name in enumerate(NAMES)],
            {"x": (1,)},
            {"y": (1,)},
        ),
    )
    tiny.save(made, tmp_path / "odd.onnx")
    tiny.save(made, tmp_path / "two words.onnx")
    return tmp_path


@pytest.fixture(scope="module")
def scripts() -> Callable[[str], str]:
    made: dict[str, str] = {}

    def script(name: str) -> str:
        if name not in made:
            done = layertap("completion", name)
            assert (done.code, done.err) == (0, "")
            made[name] = done.out
        return made[name]

    return script


IN_BASH = """
layertap() { "$PYTHON" -m layertap "$@"; }
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_layertap
for one in "${COMPREPLY[@]}"; do printf '%s\\n' "$one"; done
"""
IN_ZSH = "emulate sh\nsetopt kshglob noshglob braceexpand\ncomplete() { :; }\n"


def run(shell: str, program: str, *words: str) -> list[str]:
    """The lines that a program prints in a shell."""
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    command = [path, "-c", program, shell, *words]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHON": sys.executable},
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.fixture(params=["bash", pytest.param("zsh")])
def complete(
    request: pytest.FixtureRequest, folder: Path, scripts: Callable[[str], str]
) -> Callable[..., list[str]]:
    """Completes the last of the words after `layertap`, as zsh's bashcompinit and bash do."""
    script = scripts("bash")
    before = IN_ZSH if request.param == "zsh" else ""
    return lambda *words: run(request.param, before + script + IN_BASH, "layertap", *words)


@posix
def test_commands_and_options(complete: Callable[..., list[str]]) -> None:
    assert complete("co") == ["compare", "completion"]
    assert complete("help", "fin") == ["finish"]
    assert complete("-v", "ver") == ["verify"]
    assert complete("run", "m.onnx", "--to") == ["--top"]
    assert complete("run", "--la") == ["--layers"]
    assert complete("completion", "") == ["bash", "zsh", "fish"]
    assert complete("run", "m.onnx", "") == []  # files, by the shell


@posix
def test_values_of_options(complete: Callable[..., list[str]]) -> None:
    assert complete("run", "--device", "c") == ["cpu", "cuda", "coreml"]
    assert complete("run", "--device", "=", "op") == ["openvino"]
    assert complete("run", "--preprocess", "resnet") == ["resnet", "resnet50", "resnet_v2"]
    assert complete("attribute", "--method", "sm") == ["smoothgrad"]
    assert complete("cam", "--method", "layer") == ["layercam"]
    assert complete("run", "--device", "cpu", "c") == []


@posix
def test_layers_of_the_file(complete: Callable[..., list[str]]) -> None:
    assert complete("run", "m.onnx", "--layers", "p") == ["pool", "probs"]
    assert complete("run", "--layers", "p") == []
    assert complete("run", "m.onnx", "--layers", "pool", "conv", "r") == ["relu"]
    assert complete("cam", "m.onnx", "--layer", "co") == ["conv"]
    assert complete("cam", "m.onnx", "--layer", "conv", "co") == []
    assert complete("run", r"two\ words.onnx", "--layers", "co") == ["conv"]
    assert complete("run", "'two words.onnx'", "--layers", "co") == ["conv"]


@posix
def test_names_are_quoted_and_never_run(complete: Callable[..., list[str]]) -> None:
    replies = complete("run", "odd.onnx", "--layers", "")
    assert len(replies) == len(NAMES)
    plain = run("bash", f"printf '%s\\n' {' '.join(replies)}")
    assert plain == [*NAMES[:-1], r"\x1b[1m"]
    assert not Path("hacked").exists()
    assert complete("run", "odd.onnx", "--layers", "'a") == ["a b"]
    assert complete("run", "odd.onnx", "--layers", '"') == ["conv", "a b", "x:0", "x:1", "b*"]


@posix
def test_colons_break_words_in_bash(folder: Path, scripts: Callable[[str], str]) -> None:
    program = scripts("bash") + IN_BASH
    words = ("layertap", "run", "odd.onnx", "--layers", "x", ":")
    assert run("bash", program, *words) == ["0", "1"]
    assert run("bash", program, *words, "1") == ["1"]


@posix
@pytest.mark.usefixtures("folder")
def test_fish(scripts: Callable[[str], str], tmp_path: Path) -> None:
    shim = tmp_path / "bin" / "layertap"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m layertap "$@"\n')
    shim.chmod(0o755)
    before = f"set -x PATH {shim.parent} $PATH\n{scripts('fish')}\ncomplete -C "

    def words(line: str) -> list[str]:
        return [one.partition("\t")[0] for one in run("fish", f"{before}'{line}'")]

    assert words("layertap comp") == ["compare", "completion"]
    assert words("layertap run m.onnx --to") == ["--top"]
    assert words("layertap run m.onnx --layers p") == ["pool", "probs"]
    assert words("layertap attribute --method sm") == ["smoothgrad"]
    assert len(words("layertap run odd.onnx --layers ")) == len(NAMES)
    assert not Path("hacked").exists()


def test_every_option_that_takes_layers_or_words_is_known() -> None:
    """A new option with such values is completed without a line here; these must not be lost."""
    found = {
        (name, option.names[-1])
        for name, command in every_command().items()
        for option in options_of(name, command)
        if option.layers or option.values
    }
    assert found >= {
        ("run", "--layers"), ("cam", "--layer"), ("cut", "--from"), ("cut", "--to"),
        ("export", "--gradients"), ("quantize", "--keep"), ("quantize", "--to"),
        ("stats", "--interpolation"), ("view", "--methods"), ("extract", "--cam-layer"),
    }  # fmt: skip


def test_names_of_layers(folder: Path) -> None:
    assert layertap("layers", "m.onnx", "--names").out.split() == [
        "image", "conv", "relu", "drop", "pool", "hidden", "probs",
    ]  # fmt: skip
    assert layertap("layers", "m.onnx", "--names", "--type", "Conv2D").out == "conv\n"
    done = layertap("layers", "m.onnx", "--names", "--json")
    assert (done.code, done.err) == (
        2,
        "layertap: --names prints nothing but names. Leave out the other options.\n",
    )


def test_names_are_printed_quickly(folder: Path) -> None:
    """Someone waits for them. The limit is for a busy machine; it takes 0.1 s on a quiet one."""
    command = [sys.executable, "-X", "importtime", "-m", "layertap", "layers", "m.onnx", "--names"]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert time.perf_counter() - began < 3
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "layertap.format.index" in loaded
    assert not loaded & {"numpy", "onnxruntime", "PIL", "logging", "layertap._model"}


def test_another_shell_is_refused() -> None:
    done = layertap("completion", "tcsh")
    assert done.code == 2
    assert "invalid choice: 'tcsh'" in done.err
