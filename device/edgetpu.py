"""The Edge TPU's worker: loads compiled models there and runs what device/supervisor.py asks for, which starts it."""

import sys

from device.runtime import Model
from device.worker import serve


def main(argv: list[str] | None = None) -> int:
    return serve(lambda path: Model(path, "edgetpu"), argv)


if __name__ == "__main__":
    sys.exit(main())
