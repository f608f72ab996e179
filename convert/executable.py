"""Reads what edgetpu_compiler put into an edgetpu-custom-op: the package of executables that libedgetpu loads.

The operation's custom options are a flexbuffer map, whose key "4" holds a flatbuffer `DWN1` (schema: google-coral/libedgetpu,
executable/executable.fbs; fields are read by their number there). The bytes are not trusted: what is wrong with them is a
ValueError, and the work is bounded.
"""

from dataclasses import dataclass

from flatbuffers import encode, flexbuffers, number_types
from flatbuffers.table import Table

PACKAGE = "4"  # key of the package in the map
IDENTIFIER = b"DWN1"
TABLES = 4096  # read of one package at most; real ones hold fewer than 200 executables, layers and chunks of instructions
TEXT = 1000  # characters of a name that are kept

PARAMETER_CACHING, EXECUTION_ONLY = "PARAMETER_CACHING", "EXECUTION_ONLY"
KINDS = ("STAND_ALONE", PARAMETER_CACHING, EXECUTION_ONLY)

INT16, INT32, UINT32, UINT64 = (getattr(number_types, f"{name}Flags") for name in ("Int16", "Int32", "Uint32", "Uint64"))


@dataclass(frozen=True)
class Layer:
    """An input or output: `size` in bytes, padded; `shape` is (height, width, channels)."""

    name: str
    size: int
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class Executable:
    """`parameters`, `instructions` and `scratch` in bytes. Executables of one `token` share the cache of parameters."""

    kind: str
    name: str
    batch: int
    parameters: int
    instructions: int
    scratch: int
    narrow_memory: int  # bytes of activations per tile, at most
    token: int
    chip: str
    inputs: tuple[Layer, ...]
    outputs: tuple[Layer, ...]


@dataclass(frozen=True)
class Package:
    """`size` in bytes; a runtime older than `runtime` refuses the package; `build` is the compiler's own mark ("cl/...")."""

    size: int
    runtime: int
    build: str
    executables: tuple[Executable, ...]


def package_of(options: bytes) -> Package:
    """The package in the custom options of an edgetpu-custom-op. Raises ValueError where none can be read."""
    try:
        entry = flexbuffers.GetRoot(options).AsMap[PACKAGE]
        return _package(entry.AsStringBytes if entry.IsString else entry.AsBlob)
    except Exception as error:  # the accessors raise whatever struct and bytes raise on offsets that lead nowhere
        raise ValueError(f"its Edge TPU package cannot be read ({type(error).__name__}: {error})") from error


def _package(data: bytes) -> Package:
    if data[4:8] != IDENTIFIER:
        raise ValueError("not a DWN1 package")
    reader = _Reader()
    package = reader.root(data)
    programs = reader.root(package.blob(1)).strings(0)
    return Package(
        size=len(data),
        runtime=package.integer(0, INT32),
        build=package.text(4),
        executables=tuple(_executable(reader.root(program)) for program in programs),
    )


def _executable(table: "_Table") -> Executable:
    kind = table.integer(13, INT16)
    if not 0 <= kind < len(KINDS):
        raise ValueError(f"an executable is of the unknown kind {kind}")
    return Executable(
        kind=KINDS[kind],
        name=table.text(1),
        batch=table.integer(3, INT32),
        parameters=len(table.blob(6)),
        instructions=sum(len(chunk.blob(0)) for chunk in table.tables(5)),
        scratch=table.integer(4, INT32),
        narrow_memory=table.integer(12, INT32),
        token=table.integer(14, UINT64),
        chip=table.text(10),
        inputs=tuple(_layer(layer) for layer in table.tables(8)),
        outputs=tuple(_layer(layer) for layer in table.tables(9)),
    )


def _layer(table: "_Table") -> Layer:
    size, height, width, channels = (table.integer(field, INT32) for field in (1, 2, 3, 4))
    return Layer(table.text(0), size, (height, width, channels))


class _Reader:
    """Counts the tables that are read: offsets may share or loop, and lengths may lie."""

    def __init__(self) -> None:
        self.left = TABLES

    def root(self, data: bytes) -> "_Table":
        return self.table(data, encode.Get(UINT32.packer_type, data, 0))

    def table(self, data: bytes, place: int) -> "_Table":
        self.left -= 1
        if self.left < 0:
            raise ValueError("it holds more than any package does")
        return _Table(self, Table(data, place))


class _Table:
    """A flatbuffer table; fields by number, those that the file leaves out are 0 or empty."""

    def __init__(self, reader: _Reader, table: Table):
        self.reader = reader
        self.table = table

    def integer(self, field: int, flags: type) -> int:
        place = self._place(field)
        return self.table.Get(flags, place) if place else 0

    def blob(self, field: int) -> bytes:
        place = self._place(field)
        return self._string(place) if place else b""

    def text(self, field: int) -> str:
        characters = self.blob(field)[: 4 * TEXT].decode("utf-8", "replace")[:TEXT]
        return "".join(c if c.isprintable() else "\ufffd" for c in characters)

    def strings(self, field: int) -> list[bytes]:
        return [self._string(place) for place in self._elements(field)]

    def tables(self, field: int) -> list["_Table"]:
        return [self.reader.table(self.table.Bytes, self.table.Indirect(place)) for place in self._elements(field)]

    def _place(self, field: int) -> int:
        offset = self.table.Offset(4 + 2 * field)
        return offset and self.table.Pos + offset

    def _elements(self, field: int) -> range:
        place = self._place(field)
        start, length = self._vector(place) if place else (0, 0)
        if length > self.reader.left:
            raise ValueError("a list is longer than any package has")
        return range(start, start + 4 * length, 4)

    def _string(self, place: int) -> bytes:
        start, length = self._vector(place)
        if start + length > len(self.table.Bytes):
            raise ValueError("a length leads beyond the end")
        return self.table.Bytes[start : start + length]

    def _vector(self, place: int) -> tuple[int, int]:
        """(first element, number of elements) of the vector or string that the offset at `place` leads to."""
        place = self.table.Indirect(place)
        return place + 4, self.table.Get(UINT32, place)
