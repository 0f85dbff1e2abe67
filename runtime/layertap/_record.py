"""Records: frozen dataclasses that are cheap to define.

`import dataclasses` imports `inspect` and `ast`, which takes as long as Python takes to start;
each dataclass adds half a millisecond. A command that only prints a table would spend most of its
time on that. `dataclasses.fields`, `replace` and `asdict` accept records as dataclasses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_):
        """Marks subclasses as dataclasses for type checkers."""
        return lambda cls: cls


R = TypeVar("R", bound="Record")


class _Fields:
    """The `__dataclass_fields__` of a record class, computed on first access."""

    def __get__(self, record: object, owner: type[Record]) -> dict[str, Any]:
        if owner is Record:
            raise AttributeError("only subclasses of Record are dataclasses")
        if "_fields" in vars(owner):  # not those of a base class
            return owner._fields
        from dataclasses import field, make_dataclass

        items: list[Any] = []
        for name in owner._names:
            default = getattr(owner, name, self)  # `self` marks a field without a default
            if default is self:
                items.append((name, owner.__annotations__[name]))
                continue
            default = field(default_factory=dict) if default == {} else field(default=default)
            items.append((name, owner.__annotations__[name], default))
        dataclass = make_dataclass(owner.__name__, items, frozen=True, kw_only=True)
        owner._fields = vars(dataclass)["__dataclass_fields__"]
        return owner._fields


@dataclass_transform(frozen_default=True)
class Record:
    """The base class of records. A subclass declares its fields as a dataclass does.

    A field with a default may be omitted; each record gets its own copy of a default `{}`. Records
    compare by their fields. The hash covers the fields that are not dicts.
    """

    _names: ClassVar[tuple[str, ...]] = ()
    """The names of the fields, in order."""
    _fields: ClassVar[dict[str, Any]]
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
                    raise TypeError(f"{type(self).__name__} requires the field {name!r}")
                default = getattr(type(self), name)
                values[name] = {} if default == {} else default
        repeated = named.keys() & names[: len(positional)]
        if repeated or len(values) > len(names) or len(positional) > len(names):
            raise TypeError(
                f"{type(self).__name__} has the fields {', '.join(names)}; "
                f"got {len(positional)} by position and {', '.join(named) or 'none'} by name"
            )
        self.__post_init__()

    @classmethod
    def trusted(cls: type[R], values: dict[str, Any]) -> R:
        """A record with a value for every field, without checks: five times faster."""
        record = object.__new__(cls)
        record.__dict__.update(values)
        return record

    def __post_init__(self) -> None:
        """A hook for subclasses that check their fields."""

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
        shown = [(name, x) for name, x in values if name not in defaults or x != defaults[name]]
        text = ", ".join(f"{name}={value!r}" for name, value in shown)
        return f"{type(self).__qualname__}({text})"


def as_json(record: Record) -> dict[str, Any]:
    """The fields by name, with tuples as lists."""
    return {name: _listed(getattr(record, name)) for name in record._names}


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value
