"""Calls between the process with the tests and the process with the program, as JSON lines.

The program's process is not trusted: what it answers is data. A value that is no plain data stays
there, and the tests hold a `Remote` of it, which equals nothing but itself.
"""

import builtins
import json
import operator
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from numbers import Integral, Rational, Real
from types import ModuleType
from typing import Any, TypeAlias

Json: TypeAlias = Any
Refer = Callable[[object], int]
_MAX_MESSAGE_BYTES = 64 << 20
_PIECE_BYTES = 64 << 10  # what a pipe holds
_SMALL = 1 << 63
_MUTABLE = (list, dict, set, bytearray)
# What the tests may do with a value of the program.
_ACTIONS: dict[str, Callable[..., Any]] = {
    "call": operator.call,
    "attribute": getattr,
    "items": list,
}


class ProgramEndedError(BaseException):
    """The program's process has ended, or answers nonsense; no test may catch this."""


class Channel:
    """Messages through a pair of pipes, given as descriptors."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self._incoming = incoming
        self._outgoing = outgoing

    def send(self, message: Json) -> None:
        """Send a message."""
        content = memoryview(json.dumps(message).encode() + b"\n")
        try:
            while content:
                content = content[os.write(self._outgoing, content) :]
        except OSError:
            raise ProgramEndedError from None

    def receive(self) -> Json:
        """Wait for a message."""
        pieces: list[bytes] = []
        size = 0
        while not pieces or not pieces[-1].endswith(b"\n"):
            try:
                pieces.append(os.read(self._incoming, _PIECE_BYTES))
            except OSError:
                raise ProgramEndedError from None
            size += len(pieces[-1])
            if not pieces[-1] or size > _MAX_MESSAGE_BYTES:
                raise ProgramEndedError
        try:
            return json.loads(b"".join(pieces))
        except (ValueError, RecursionError):
            raise ProgramEndedError from None


# What is no JSON is packed as {name: parts}. Name -> type, from a value to its parts, and back.
_KINDS: dict[str, tuple[type, Callable[[Any], Iterable[Any]], Callable[..., Any]]] = {
    # Python refuses to write very long integers as decimals.
    "int": (int, lambda value: [hex(int.__int__(value))], lambda text: int(text, 16)),
    "tuple": (tuple, iter, lambda *parts: parts),
    "dict": (dict, lambda value: map(list, value.items()), lambda *parts: dict(parts)),
    "set": (set, iter, lambda *parts: set(parts)),
    "frozenset": (frozenset, iter, lambda *parts: frozenset(parts)),
    "bytes": (bytes, lambda value: [value.hex()], bytes.fromhex),
    "bytearray": (bytearray, lambda value: [value.hex()], bytearray.fromhex),
    "complex": (complex, lambda value: [value.real, value.imag], complex),
    "range": (range, lambda value: [value.start, value.stop, value.step], range),
    "module": (ModuleType, lambda value: [value.__name__], sys.modules.__getitem__),
}


def pack(value: object, refer: Refer) -> Json:
    """Turn a value into JSON; what is no plain data becomes a number that `refer` gives."""
    match value:
        case None | bool():
            return value
        case str():
            return str.__str__(value)
        case int() if -_SMALL <= int.__int__(value) < _SMALL:
            return int.__int__(value)
        case float():
            return float.__float__(value)
        case list():
            return [pack(item, refer) for item in value]
    for name, (kind, to_parts, _) in _KINDS.items():
        if isinstance(value, kind):
            return {name: [pack(part, refer) for part in to_parts(value)]}
    match value:
        case Integral():  # such as numpy's
            return pack(int(value), refer)
        case Real() if not isinstance(value, Rational):
            return float(value)
    return {"remote": refer(value)}


def pack_safely(value: object, refer: Refer) -> Json:
    """Pack a value; one that contains itself is no plain data."""
    try:
        return pack(value, refer)
    except RecursionError:
        return {"remote": refer(value)}


def unpack(content: Json, find: Callable[[int], object]) -> Any:
    """Turn JSON back into the value; `find` returns the object with a given number."""
    if isinstance(content, list):
        return [unpack(item, find) for item in content]
    if not isinstance(content, dict):
        return content
    [(kind, parts)] = content.items()
    if kind == "remote":
        return find(parts)
    _, _, make = _KINDS[kind]
    return make(*[unpack(part, find) for part in parts])


class Remote:
    """A value of the program that is no plain data, such as a function or an object of a class."""

    def __init__(self, program: "Program", number: int) -> None:
        self.__program = program
        self.__number = number

    @property
    def _number_of_remote(self) -> int:
        return self.__number

    def __call__(self, *arguments: object, **named: object) -> Any:
        """Call it in the program's process."""
        return self.__program.ask("call", self.__number, arguments, named)

    def __getattr__(self, name: str) -> Any:
        """Get an attribute; those with double underscores are not the program's to define."""
        if name.startswith("__"):
            raise AttributeError(name)
        return self.__program.ask("attribute", self.__number, (name,), {})

    def __iter__(self) -> Iterator[Any]:
        """Read all items at once."""
        return iter(self.__program.ask("items", self.__number, (), {}))


class Program:
    """The program, as the tests' process sees it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._remotes: dict[int, Remote] = {}

    def names(self, wanted: set[str]) -> dict[str, Any]:
        """Wait until the program is loaded, and get what it defines under these names.

        Names of built-in functions are not taken: a program could change what the tests compare.
        """
        taken = {name for name in wanted if not hasattr(builtins, name)}
        self._channel.send(sorted(taken))
        answer = self._answer(())
        if not isinstance(answer, dict):
            raise ProgramEndedError
        return {name: value for name, value in answer.items() if name in taken}

    def ask(
        self, action: str, number: int, arguments: tuple[object, ...], named: Mapping[str, object]
    ) -> Any:
        """Do something in the program's process, and get its value or raise its exception."""
        packed = [pack(one, _number_of) for one in arguments]
        packed_named = {name: pack(one, _number_of) for name, one in named.items()}
        self._channel.send([action, number, packed, packed_named])
        return self._answer(arguments)

    def _answer(self, arguments: tuple[object, ...]) -> Any:
        try:
            answer = self._channel.receive()
            kind, content, changed = answer
            if kind == "raised":
                error = _to_exception(*content)
            else:
                value = unpack(content, self._find)
            for position, after in changed:
                _update(arguments[position], unpack(after, self._find))
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, StopIteration):
            raise ProgramEndedError from None
        if kind == "raised":
            raise error
        return value

    def _find(self, number: int) -> Remote:
        return self._remotes.setdefault(int(number), Remote(self, int(number)))


def _number_of(value: object) -> int:
    if type(value) is not Remote:
        raise TypeError(f"{type(value).__name__} cannot be passed to the program's process")
    return value._number_of_remote


def _update(before: Any, after: Any) -> None:
    """Give an argument the content that it has after the call."""
    match before, after:
        case list(), list():
            if len(before) == len(after):
                for place, (old, new) in enumerate(zip(before, after, strict=True)):
                    if isinstance(old, _MUTABLE) and type(old) is type(new):
                        _update(old, new)
                    else:
                        before[place] = new
            else:
                before[:] = after
        case (dict(), dict()) | (set(), set()):
            before.clear()
            before.update(after)
        case bytearray(), bytearray():
            before[:] = after


def _to_exception(names: list[str], arguments: list[Json]) -> BaseException:
    """Make an exception of the same name, derived from the same built-in one."""
    known = (getattr(builtins, name, None) for name in names)
    kind: type[BaseException] = next(
        one for one in known if isinstance(one, type) and issubclass(one, BaseException)
    )
    if kind.__name__ != names[0]:
        kind = type(str(names[0]), (kind,), {})
    try:
        return kind(*arguments)
    except TypeError:
        return kind.__new__(kind)


def answer_calls(channel: Channel, namespace: dict[str, Any], load: Callable[[], None]) -> None:
    """Load the program, then do what the tests' process asks, until it ends."""
    values: list[object] = []
    numbers: dict[int, int] = {}

    def refer(value: object) -> int:
        if id(value) not in numbers:
            numbers[id(value)] = len(values)
            values.append(value)
        return numbers[id(value)]

    def names() -> Any:
        load()
        return {name: namespace[name] for name in wanted if name in namespace}

    wanted = channel.receive()
    channel.send([*_try(names, refer), []])
    while True:
        action, number, packed, packed_named = channel.receive()
        arguments = [unpack(one, values.__getitem__) for one in packed]
        named = {name: unpack(one, values.__getitem__) for name, one in packed_named.items()}
        answer = _try(partial(_ACTIONS[action], values[number], *arguments, **named), refer)
        changed = [
            [position, after]
            for position, (argument, before) in enumerate(zip(arguments, packed, strict=True))
            if isinstance(argument, (*_MUTABLE, tuple))
            and (after := pack_safely(argument, refer)) != before
        ]
        channel.send([*answer, changed])


def _try(act: Callable[[], Any], refer: Refer) -> list[Json]:
    try:
        return ["value", pack_safely(act(), refer)]
    except BaseException as error:  # a program may raise anything, SystemExit too
        names = [kind.__name__ for kind in type(error).__mro__]
        arguments = [one for one in error.args if isinstance(one, str | int | float)]
        return ["raised", [names, pack(arguments, refer)]]
