"""Which modules each node of a file from PyTorch belongs to.

The exporter that `torch.onnx.export(dynamo=True)` uses writes it into the metadata of the nodes:
`pkg.torch.onnx.name_scopes` is a list of paths, `['', 'layer1', 'layer1.0', 'conv2d']`, with the
whole model first and the operator last, and `pkg.torch.onnx.class_hierarchy` the classes of the
same. The older exporter, `dynamo=False`, names the nodes `/layer1/layer1.0/conv1/Conv`. Files of
other tools have neither.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from .graph import Graph, Node
from .wire import LEN, Buffer, fields, find_text


class Scope(NamedTuple):
    """One module around a node."""

    path: str
    """As `named_modules()` has it: `layer1.0.conv1`."""
    type: str = ""
    """The full name of its class; empty if the file does not say it."""
    call: str = ""
    """What tells this call of the module from its other calls, where the file says it."""
    doubt: str = ""
    """If the file has one name for two things, which these are."""


class Placed(NamedTuple):
    """Where a node is."""

    scopes: tuple[Scope, ...] = ()
    """The modules around it, the outermost first, without the whole model."""
    merged: bool = False
    """Whether the exporter made it of several operators."""
    known: bool = True
    """Whether the file says anything: a tool may have added the node later."""
    takes: frozenset[str] | None = None
    """The tensors that it took before the exporter merged operators, where the file says it."""


Places: TypeAlias = "Sequence[Placed]"

Parts: TypeAlias = "Sequence[tuple[str, ...] | None]"
"""For each node, what `_components` finds in its name."""

SCOPES = b"pkg.torch.onnx.name_scopes"
CLASSES = "pkg.torch.onnx.class_hierarchy"
FX = "pkg.torch.onnx.fx_node"
RULE = "pkg.onnxscript.rewriter.rule_name"

MOST_SCOPES = 64
"""Most modules around a node that are read; a node with more is taken as one of the whole model."""

LONGEST = 1 << 16
"""Bytes of the longest node whose metadata are looked at."""


def read_scopes(buffer: Buffer, graph: Graph) -> Places | None:
    """Where each node of the graph is; `None` if the file does not say it.

    Raises:
        WireError: the bytes are damaged.
    """
    if any(_has_metadata(buffer, node) for node in graph.nodes):
        return [_stated(buffer, node) for node in graph.nodes]
    parts = [_components(node) for node in graph.nodes]
    return _Names(graph, parts).places() if _are_scopes(graph, parts) else None


# --- Metadata ------------------------------------------------------------------------------------


def _has_metadata(buffer: Buffer, node: Node) -> bool:
    start, end = node.span
    return end - start <= LONGEST and buffer.find(SCOPES, start, end) >= 0


def _stated(buffer: Buffer, node: Node) -> Placed:
    if not _has_metadata(buffer, node):
        return Placed(known=False)
    entries: dict[str, str] = {}
    ((_, _, _, first, last),) = fields(buffer, *node.span)
    for number, wire, _, start, end in fields(buffer, first, last):
        if number == 9 and wire == LEN:
            key = find_text(buffer, start, end, 1)
            if key in (SCOPES.decode(), CLASSES, FX, RULE):
                entries[key] = find_text(buffer, start, end, 2)
    paths, classes = _listed(entries.get(SCOPES.decode(), "")), _listed(entries.get(CLASSES, ""))
    merged = RULE in entries
    # Such as `%relu_1 : [num_users=1] = call_function[target=...](args = (%getitem,), kwargs = {})`
    call = entries.get(FX, "").partition("](args = ")[2]
    takes = frozenset(_TAKEN.findall(call)) if call else None
    if len(paths) < 2 or paths[0] or len(paths) > MOST_SCOPES:
        return Placed(known=False)
    if len(classes) != len(paths):
        classes = [""] * len(paths)
    inner = zip(paths[1:-1], classes[1:-1], strict=True)
    return Placed(tuple(Scope(path, kind) for path, kind in inner if path), merged, takes=takes)


def _listed(text: str) -> list[str]:
    """The items of a list of strings, as Python or JSON writes it."""
    return [re.sub(r"\\(.)", r"\1", one or other) for one, other in _ITEM.findall(text)]


_ITEM = re.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)\"""")

_TAKEN = re.compile(r"%(\w+)")


# --- Names ---------------------------------------------------------------------------------------


def _are_scopes(graph: Graph, parts: Parts) -> bool:
    """Whether most nodes have names such as `/layer1/conv1/Conv_2`, with their operator last."""
    named = sum(one is not None for one in parts)
    others = sum(node.op_type not in ("Constant", "Identity") for node in graph.nodes)
    return any(parts) and 2 * named >= others


def _components(node: Node) -> tuple[str, ...] | None:
    """The parts of the name of a node without its operator; `None` if it is not such a name."""
    if not node.name.startswith("/"):
        return None
    *parts, last = node.name[1:].split("/")
    operator, _, number = last.partition("_")
    is_own = operator == node.op_type and (not number or number.isdecimal())
    return tuple(parts) if is_own and len(parts) <= MOST_SCOPES and all(parts) else None


class _Names:
    """Paths of modules, from the names that the older exporter gives to nodes.

    A part of a name is the module's name within the module that called it, and the children of a
    Sequential have its name in front: `/layer1/layer1.0/conv1`. A module's own nodes in its second
    call have `_1` behind its name: `/layer1/layer1.0/relu_1`.
    """

    def __init__(self, graph: Graph, named: Parts) -> None:
        """
        Args:
            named: the parts of the name of each node.
        """
        self.named = named
        self.operators: dict[tuple[str, ...], list[str]] = {}
        """The operators of each scope itself, in order."""
        self.owners: dict[tuple[str, ...], set[str]] = {}
        """The modules whose weights are read within each scope, by the names of the weights."""
        self.inside: dict[tuple[str, ...], set[str]] = {}
        """The names of the scopes directly within each scope that has some."""
        for node, found in zip(graph.nodes, named, strict=True):
            parts = found or ()
            own = self.operators.setdefault(parts, [])
            if node.op_type != "Constant":
                own.append(node.op_type)
            weights = (name for name in node.reads if name in graph.initializers)
            owners = {owner for owner in map(owner_of, weights) if owner}
            for depth in range(1, len(parts) + 1):
                self.owners.setdefault(parts[:depth], set()).update(owners)
            for depth in range(1, len(parts)):
                self.inside.setdefault(parts[:depth], set()).add(parts[depth])
        self.known: dict[tuple[str, ...], Scope] = {}
        self.before: dict[str, str] = {}
        """What the names of weights have in front of the path of an outermost module: modules
        that are never called themselves, such as the holder of a list."""
        for parts in self.operators:
            path = self.scope(parts).path if parts else ""
            for owner in self.owners.get(parts, ()):
                if path and owner.endswith(f".{path}"):
                    self.before.setdefault(parts[0], owner[: -len(path)])

    def places(self) -> Places:
        """Where each node of the graph is."""
        return [
            Placed(known=False) if parts is None else Placed(self._around(parts))
            for parts in self.named
        ]

    def _around(self, parts: tuple[str, ...]) -> tuple[Scope, ...]:
        return tuple(self._whole(parts[:depth]) for depth in range(1, len(parts) + 1))

    def _whole(self, parts: tuple[str, ...]) -> Scope:
        scope = self.scope(parts)
        return scope._replace(path=self.before.get(parts[0], "") + scope.path)

    def scope(self, parts: tuple[str, ...]) -> Scope:
        """The module of a scope, without what the names of its weights have in front."""
        if parts not in self.known:
            self.known[parts] = self._again(parts) or self._first(parts)
        return self.known[parts]

    def _first(self, parts: tuple[str, ...]) -> Scope:
        outer, name = parts[:-1], parts[-1]
        path = self._path(outer, name)
        inside = self.inside.get(parts, ())
        is_sequential = bool(inside) and all(one.startswith(f"{name}.") for one in inside)
        return Scope(path, SEQUENTIAL if is_sequential else "")

    def _again(self, parts: tuple[str, ...]) -> Scope | None:
        """The module of a scope whose name is that of another one with `_1`, `_2` and so on."""
        outer, name = parts[:-1], parts[-1]
        base, _, number = name.rpartition("_")
        own, first = self.operators.get(parts, []), self.operators.get((*outer, base), [])
        if not number.isdecimal() or not first or own[: len(first)] != first:
            return None
        # With weights of its own, it is another module, whatever its name looks like.
        if any(f".{name}." in f".{owner}." for owner in self.owners[parts]):
            return None
        path = self._path(outer, base)
        if own != first:
            return Scope(self._path(outer, name), doubt=f"a later call of {path!r} and a module")
        return Scope(path, call="" if (*outer, base) in self.inside else number)

    def _path(self, outer: tuple[str, ...], name: str) -> str:
        if not outer:
            return name
        path, last = self.scope(outer).path, outer[-1]
        plain = f"{path}.{name}"
        if not name.startswith(f"{last}."):
            return plain
        # A list in a module of the same name: only the weights tell it from a Sequential.
        owners = self.owners.get((*outer, name), ())
        if any(f"{owner}.".startswith(f"{plain}.") for owner in owners):
            return plain
        return path + name[len(last) :]


SEQUENTIAL = "torch.nn.modules.container.Sequential"


def owner_of(weights: str) -> str:
    """The path of the module that a parameter belongs to, from its name in the file: `fc.weight`
    belongs to `fc`. Empty for names that the exporter made up, and for the whole model's."""
    return "" if ":" in weights else weights.rpartition(".")[0]
