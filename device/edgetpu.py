"""The Edge TPU's worker: loads a compiled encoder there and embeds what device/embed.py asks for, which starts it."""

import sys

from device.embed import Encoder
from device.worker import serve


def main(argv: list[str] | None = None) -> int:
    return serve(lambda model: Encoder(model, "edgetpu"), argv)


if __name__ == "__main__":
    sys.exit(main())
