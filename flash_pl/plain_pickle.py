"""Pickles of strangers: plain values, and nothing but the functions that the caller names.

Python's own unpickler builds whatever a pickle asks for. A few bytes can name any function, ask for a table of
references with billions of rows, or nest tuples so deep, or share them so often, that a hash of the outermost one never
ends. This reader knows only the opcodes that describe plain values. It knows the size and the depth of every value
before anything looks into it.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any

from flash_pl.errors import in_one_line

MAX_DEPTH = 100  # lists in lists
# A pickle stores once what occurs several times. With repetition it may have so many values for each of its bytes.
REPETITION = 8
MAX_INTEGER = 2**256  # generators of random numbers have states of 128 bits

_LEAVES = frozenset(
    "BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 "
    "BYTEARRAY8 BINSTRING SHORT_BINSTRING".split()
)
_CONSTANTS: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_CONTAINERS: Mapping[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def load_pickle(
    data: bytes,
    functions: Mapping[str, Any],
    persistent: Callable[[Any], Any] | None = None,
    build: Callable[[Any, Any], None] | None = None,
    max_bytes: int | None = None,
) -> Any:
    """Return the value in a pickle.

    Args:
        data: the pickle, of protocol 2 or later. Strings of Python 2 are read as Latin-1.
        functions: what the pickle may name, by ``"module name"``. Functions are called with arguments from the pickle
            and must check them.
        persistent: returns the object behind a persistent id.
        build: sets the state of an object that one of the ``functions`` has returned.
        max_bytes: the largest sum of the bytes of what the functions return, each time that they return it; an object
            in a value counts each time it occurs. By default 8 for each byte of the pickle.

    >>> import pickle
    >>> load_pickle(pickle.dumps({"a": [1, 2.5, ("x", None)]}), {})
    {'a': [1, 2.5, ('x', None)]}
    >>> load_pickle(pickle.dumps(print), {})
    Traceback (most recent call last):
    ValueError: it names 'builtins print'

    Raises:
        ValueError: the pickle is damaged, names something else, or is not a tree of plain values.
    """
    limit = 1000 + REPETITION * len(data)
    machine = _Machine(functions, persistent, build, limit, limit if max_bytes is None else max_bytes)
    try:
        return machine.run(data)
    except ValueError:
        raise
    except Exception as error:  # a function may get any arguments, and opcodes may come in any order
        raise ValueError(f"it is damaged ({type(error).__name__}: {in_one_line(error)})") from error


class _Node:
    """A value on the stack.

    Attributes:
        value: itself.
        size: number of values in it, with repetition.
        nbytes: of the objects in it, with repetition.
        depth: of the values in it.
        origin: "global" for what the pickle names, "call" for what a function returned, else "".
        inside: whether another value contains it, so that it must not grow any more.
    """

    __slots__ = ("depth", "inside", "nbytes", "origin", "size", "value")

    def __init__(self, value: Any, origin: str = "") -> None:
        self.value, self.size, self.depth, self.origin, self.inside = value, 1, 1, origin, False
        self.nbytes = _nbytes(value) if origin == "call" else 0


def _nbytes(value: Any) -> int:
    return len(value) if isinstance(value, bytes | bytearray) else int(getattr(value, "nbytes", 0))


class _Machine:
    """The stack and the memo of a pickle that is being read."""

    def __init__(
        self,
        functions: Mapping[str, Any],
        persistent: Callable[[Any], Any] | None,
        build: Callable[[Any, Any], None] | None,
        max_values: int,
        max_bytes: int,
    ) -> None:
        self.functions, self.persistent, self.build = functions, persistent, build
        self.max_values, self.max_bytes = max_values, max_bytes
        self.stack: list[_Node] = []
        self.marks: list[int] = []  # lengths of the stack
        self.memo: dict[int, _Node] = {}
        self.hashed = 0  # values in all keys and arguments, with repetition
        self.made = 0  # bytes of all that functions have returned, also of what is dropped again

    def run(self, data: bytes) -> Any:
        """The value in a pickle."""
        argument: Any
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            if name in _LEAVES:
                if isinstance(argument, int) and abs(argument) >= MAX_INTEGER:
                    raise ValueError("an integer has more than 256 bits")
                self.stack.append(_Node(argument))
            elif name in _CONSTANTS:
                self.stack.append(_Node(_CONSTANTS[name]))
            elif name in _CONTAINERS:
                self.stack.append(_Node(_CONTAINERS[name]()))
            elif name in ("BINPUT", "LONG_BINPUT"):
                self.memo[argument] = self.top()
            elif name == "MEMOIZE":
                self.memo[len(self.memo)] = self.top()
            elif name in ("BINGET", "LONG_BINGET"):
                self.stack.append(self.memo[argument])
            elif name == "MARK":
                self.marks.append(len(self.stack))
            elif name == "TUPLE" or name in _TUPLES:
                children = self.since_mark() if name == "TUPLE" else self.pop(_TUPLES[name])
                self.push(tuple(child.value for child in children), children)
            elif name in ("APPEND", "APPENDS"):
                children = self.since_mark() if name == "APPENDS" else self.pop(1)
                self.fill(list, children).extend(child.value for child in children)
            elif name == "ADDITEMS":
                children = self.since_mark()
                self.count_hashed(children)
                self.fill(set, children).update(child.value for child in children)
            elif name in ("SETITEM", "SETITEMS"):
                children = self.since_mark() if name == "SETITEMS" else self.pop(2)
                self.count_hashed(children[::2])
                values = [child.value for child in children]
                self.fill(dict, children).update(zip(values[::2], values[1::2], strict=True))
            elif name in ("GLOBAL", "STACK_GLOBAL"):
                path = argument if name == "GLOBAL" else " ".join(child.value for child in self.pop(2))
                if path not in self.functions:
                    raise ValueError(f"it names {path[:100]!r}")
                self.stack.append(_Node(self.functions[path], "global"))
            elif name == "REDUCE":
                function, arguments = self.pop(2)
                if function.origin != "global" or not isinstance(arguments.value, tuple):
                    raise ValueError("it calls what is not a function")
                self.count_hashed([arguments])
                self.push(function.value(*arguments.value), [arguments], "call")
                self.made += _nbytes(self.top().value)
                if self.made > self.max_bytes:
                    raise ValueError("its values occur too often for its length")
            elif name == "BUILD":
                (state,) = self.pop(1)
                if self.build is None or self.top().origin != "call":
                    raise ValueError("it sets the state of a plain value")
                self.take(self.top(), [state])
                self.build(self.top().value, state.value)
            elif name == "BINPERSID" and self.persistent is not None:
                (reference,) = self.pop(1)
                self.push(self.persistent(reference.value), [reference])
            elif name == "STOP":
                if len(self.stack) != 1 or self.marks:
                    raise ValueError("it is damaged (it has several values)")
                return self.stack[0].value
            elif name not in ("PROTO", "FRAME"):
                raise ValueError(f"it has the opcode {name}, which no plain value needs")
        raise ValueError("it has no end")

    def top(self) -> _Node:
        """The last value."""
        (node,) = self.pop(1)
        self.stack.append(node)
        return node

    def pop(self, count: int) -> list[_Node]:
        """Take the last ``count`` values from the stack."""
        place = len(self.stack) - count
        if place < (self.marks[-1] if self.marks else 0):
            raise ValueError("it is damaged (a value is missing)")
        nodes = self.stack[place:]
        del self.stack[place:]
        return nodes

    def since_mark(self) -> list[_Node]:
        """Take all values since the last mark from the stack."""
        if not self.marks:
            raise ValueError("it is damaged (a mark is missing)")
        nodes = self.pop(len(self.stack) - self.marks[-1])
        self.marks.pop()
        return nodes

    def push(self, value: Any, children: list[_Node], origin: str = "") -> None:
        """Put a value that is made of ``children`` on the stack."""
        node = _Node(value, origin)
        self.take(node, children)
        self.stack.append(node)

    def fill(self, kind: type, children: list[_Node]) -> Any:
        """The container on top of the stack, into which ``children`` go."""
        node = self.top()
        if not isinstance(node.value, kind):
            raise ValueError(f"it puts values into what is not a {kind.__name__}")
        self.take(node, children)
        return node.value

    def take(self, node: _Node, children: list[_Node]) -> None:
        """Count ``children`` that become a part of ``node``."""
        for child in children:
            child.inside = True
            node.size += child.size
            node.nbytes += child.nbytes
            node.depth = max(node.depth, child.depth + 1)
        if node.inside:  # also in itself
            raise ValueError("a value changes after another one contains it")
        if node.depth > MAX_DEPTH:
            raise ValueError(f"its values are nested more than {MAX_DEPTH} deep")
        if node.size > self.max_values or node.nbytes > self.max_bytes:
            raise ValueError("its values occur too often for its length")

    def count_hashed(self, nodes: list[_Node]) -> None:
        """Count values before they are hashed: the hash of a tuple takes as long as it has values."""
        self.hashed += sum(node.size for node in nodes)
        if self.hashed > self.max_values:
            raise ValueError("its values occur too often for its length")
