"""Records: frozen dataclasses that cost nothing to define.

`import dataclasses` brings `inspect` and `ast`, and alone takes as long as Python takes to start;
each class that it makes takes half a millisecond more. A command that prints a table would spend
most of its time there. To `dataclasses.fields`, `replace` and `asdict` a record is a dataclass.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, TypeVar

    from typing_extensions import dataclass_transform

    R = TypeVar("R", bound="Record")
else:

    def dataclass_transform(**_):
        """Tells type checkers that subclasses are dataclasses."""
        return lambda cls: cls


class _Fields:
    """The `__dataclass_fields__` of a record class, made when somebody asks for them."""

    def __get__(self, record: object, kind: type[Record]) -> dict[str, Any]:
        if kind is Record:
            raise AttributeError("only its subclasses are dataclasses")
        from dataclasses import field, make_dataclass

        items: list[Any] = []
        for name in kind._names:
            default = getattr(kind, name, self)  # anything that is no default
            if default is self:
                items.append((name, kind.__annotations__[name]))
                continue
            default = field(default_factory=dict) if default == {} else field(default=default)
            items.append((name, kind.__annotations__[name], default))
        made = make_dataclass(kind.__name__, items, frozen=True, kw_only=True)
        found: dict[str, Any] = vars(made)["__dataclass_fields__"]
        return found


@dataclass_transform(frozen_default=True)
class Record:
    """The base of records. A subclass lists its fields as a dataclass does.

    A field that has a default may be left out; a default that is a dict is copied. Records are
    compared by their fields, and hashed by those that are no dict.
    """

    _names: ClassVar[tuple[str, ...]] = ()
    """The names of the fields, in order."""
    __dataclass_fields__: ClassVar[dict[str, Any]] = _Fields()  # type: ignore[assignment]

    def __init_subclass__(cls) -> None:
        cls._names = tuple(cls.__annotations__)

    def __init__(self, *positional: Any, **named: Any) -> None:
        names, values = self._names, self.__dict__
        values.update(zip(names, positional))  # noqa: B905 - checked below
        values.update(named)
        for name in names:
            if name not in values:
                if not hasattr(type(self), name):
                    raise TypeError(f"{type(self).__name__} is made without {name!r}")
                default = getattr(type(self), name)
                values[name] = {} if default == {} else default
        twice = named.keys() & names[: len(positional)]
        if twice or len(values) > len(names) or len(positional) > len(names):
            given = f"{len(positional)} values and {', '.join(named) or 'no names'}"
            raise TypeError(f"{type(self).__name__} has {', '.join(names)}; given were {given}")
        self.__post_init__()

    @classmethod
    def trusted(cls: type[R], values: dict[str, Any]) -> R:
        """A record of a value for every field, unchecked: five times faster."""
        made = object.__new__(cls)
        made.__dict__.update(values)
        return made

    def __post_init__(self) -> None:
        """For subclasses: check the fields."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name!r} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name!r} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        values = map(self.__dict__.__getitem__, self._names)
        return hash(tuple(value for value in values if not isinstance(value, dict)))

    def __repr__(self) -> str:
        defaults = vars(type(self))
        values = ((name, self.__dict__[name]) for name in self._names)
        stated = [(name, x) for name, x in values if name not in defaults or x != defaults[name]]
        text = ", ".join(f"{name}={value!r}" for name, value in stated)
        return f"{type(self).__qualname__}({text})"
