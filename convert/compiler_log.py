"""Reads what edgetpu_compiler prints and logs, versions 1.0 to 16.0, and explains why it failed.

The words alone never prove success: a compiler may say "successfully" and leave a stub. compile.py looks at the file as well.
"""

import re
from dataclasses import dataclass

from convert import rules
from device.program import HOLDS_NOT, MissingError, OmokageError

MAPPED = "Mapped to Edge TPU"
SIZES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

VERSION = re.compile(r"Edge TPU Compiler version (\S+)")
MODEL = re.compile(r"^Input(?: model)?: ", re.MULTILINE)  # with "model" on stdout, without in a log; one for each model or segment
ROW = re.compile(r"^([A-Z][A-Z0-9_]*) +(\d{1,18}) +(\S.*?) *$", re.MULTILINE)
SUCCEEDED = "compiled successfully"
FAILED = re.compile(r"Compilation failed|Compilation timeout|Internal compiler error|Segmentation fault|uncaught exception")


class CompileError(OmokageError):
    """The compiler made no usable file of a model that can be read."""

    status = HOLDS_NOT


@dataclass(frozen=True)
class Failure:
    """Why the compiler failed, and how to mend it; a `flaky` failure may be gone when the same command is run again."""

    wrong: str
    mend: str
    flaky: bool = False
    error: type[OmokageError] = CompileError


SMALLER = "make its largest layers or its input smaller, or leave operations out from the end until it compiles"
AGAIN = "run it again: it may succeed after several attempts; if not, simplify the model from its end"
EMULATE = "it runs on x86-64 Linux: use --docker on a machine that emulates it, or --ci"
NOTHING = Failure("the compiler mapped nothing", "see what check.py says of the model")

# What the compiler prints when it fails -> why. The first that is found counts: a general complaint follows the special one.
FAILURES = (
    (r"Model not quantized", Failure("the model is not quantised", rules.QUANTISE)),
    (
        r"Didn't find op for builtin opcode '(\w+)' version '(\d+)'",
        Failure(
            r"the compiler does not read \1 version \2",
            "convert with an older TensorFlow (2.8 or before), or write the layer with simpler operations",
        ),
    ),
    (
        r"Op builtin_code out of range: (\d+)",
        Failure(r"the compiler does not know builtin operation \1", "use operations of Coral's table"),
    ),
    (
        r"unresolved custom op: (\w+)",
        Failure(r"the compiler does not know the custom operation \1", "build the model from TFLite's builtin operations"),
    ),
    (r"static-sized tensors", Failure("a shape of the model is not static", rules.STATIC)),
    (
        r"large activation tensors",
        Failure("the activations of the model are too large", "use a smaller input, or fewer channels in the first layers"),
    ),
    (r"Model failed in Tflite interpreter", Failure("TFLite itself cannot run the model", "try it with tf.lite.Interpreter first")),
    (
        r"Compilation timeout",
        Failure("the compiler ran into its own time limit", f"raise --timeout; large activations are the usual cause: {SMALLER}"),
    ),
    (r"(?i)exec format error|cannot execute binary", Failure("edgetpu_compiler cannot run here", EMULATE, error=MissingError)),
    (r"Edge TPU subgraphs: 0\b", NOTHING),
    (r"Segmentation fault", Failure("the compiler crashed", SMALLER)),
    (r"out_of_range: vector", Failure("the compiler stumbled over the model's graph", SMALLER)),
    (r"Internal compiler error", Failure("the compiler gave up without a reason", AGAIN, flaky=True)),
    (r"", Failure("the compiler gave up without a reason", SMALLER)),
)
# What only the exit status tells (a shell adds 128 to the number of the signal).
STATUSES = {
    126: "exec format error",
    139: "Segmentation fault",
    -11: "Segmentation fault",
}
KILLED = (137, -9)


@dataclass(frozen=True)
class Row:
    """`count` operations of one kind that share a `status`. One kind may have several rows."""

    operation: str
    count: int
    status: str

    @property
    def mapped(self) -> bool:
        return self.status == MAPPED


@dataclass(frozen=True)
class Entry:
    """What the compiler says of one model or segment. Bytes are as it rounds them; None where it does not say."""

    source: str
    output: str
    cached: int | None
    remaining: int | None
    streamed: int | None
    subgraphs: int | None
    tpu: int  # operations
    cpu: int
    rows: tuple[Row, ...]  # a log has them, stdout only with --show_operations

    @property
    def maps(self) -> str:
        """all, part or none, as in the report of check.py."""
        if self.subgraphs == 0 or not self.tpu:
            return "none"
        return "part" if self.cpu else "all"


@dataclass(frozen=True)
class Report:
    """What one run printed, or one log holds. `failure` is None where it ended well: see each entry how much it mapped."""

    version: str | None
    entries: tuple[Entry, ...]
    failure: Failure | None


def parse(text: str, status: int = 0) -> Report:
    """What `text` says, the stdout and stderr of edgetpu_compiler or one of its logs; `status` is its exit status.

    A search for a delegate (-d) and a retry print failures before the success: what comes after the last model counts.
    """
    versions = VERSION.findall(text)
    parts = MODEL.split(text)
    entries = tuple(_entry(part) for part in parts[1:])
    failed = not (entries or SUCCEEDED in text) or status != 0 or FAILED.search(parts[-1])
    return Report(versions[-1] if versions else None, entries, explain(parts[-1], status) if failed else None)


def explain(text: str, status: int = 0) -> Failure:
    """Why a run that printed `text` and ended with `status` failed."""
    if status in KILLED:
        return Failure("the compiler was killed, for want of memory most likely", "give the machine (or Docker) more memory")
    text += "\n" + STATUSES.get(status, "")
    match, known = next((match, known) for pattern, known in FAILURES if (match := re.search(pattern, text)))
    return Failure(match.expand(known.wrong), known.mend, known.flaky, known.error)


def _entry(text: str) -> Entry:
    """`text` begins behind "Input model: " and ends before the next one."""
    rows = tuple(Row(name, int(count), status) for name, count, status in ROW.findall(text))
    mapped = sum(row.count for row in rows if row.mapped)
    total = _integer(text, "Total number of operations") or sum(row.count for row in rows)
    told = _integer(text, "Number of operations that will run on Edge TPU")  # only where some will not
    tpu = told if told is not None else mapped if rows else total
    cached, available = _bytes(text, "On-chip memory used"), _bytes(text, "On-chip memory available")
    remaining = _bytes(text, "On-chip memory remaining")
    if available is not None:  # up to 2.0, which prints what was there before
        remaining = available - (cached or 0)
    return Entry(
        source=text.split("\n", 1)[0].strip(),
        output=_value(text, r"Output(?: model)?") or "",
        cached=cached,
        remaining=remaining,
        streamed=_bytes(text, "Off-chip memory used"),
        subgraphs=_integer(text, "Number of Edge TPU subgraphs"),
        tpu=tpu,
        cpu=total - tpu,
        rows=rows,
    )


def _value(text: str, label: str) -> str | None:
    match = re.search(rf"^{label}[^:\n]*: *(.*?) *$", text, re.MULTILINE)
    return match and match[1]


def _integer(text: str, label: str) -> int | None:
    match = re.fullmatch(r"\d{1,18}", _value(text, label) or "")
    return int(match[0]) if match else None


def _bytes(text: str, label: str) -> int | None:
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,18})?) *([KMG]?i?B)", _value(text, label) or "")
    return round(float(match[1]) * SIZES[match[2]]) if match and match[2] in SIZES else None
