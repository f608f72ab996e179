"""Signs of life for systemd (sd_notify(3)): ready, still working, stopping. Without systemd they go nowhere.

The frame loop calls `beat`; a loop that hangs does not, and systemd starts the program anew (WatchdogSec= in the unit).
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping

SOCKET, INTERVAL, PROCESS = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"


class Watchdog:
    """Tells systemd through the datagram socket $NOTIFY_SOCKET, where that is set; never fails."""

    def __init__(self, environ: Mapping[str, str] = os.environ, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        address = environ.get(SOCKET, "")
        self._address = "\0" + address[1:] if address.startswith("@") else address  # @ stands for the abstract namespace
        microseconds = environ.get(INTERVAL, "")
        watched = microseconds.isdecimal() and environ.get(PROCESS, str(os.getpid())) == str(os.getpid())
        self._every = int(microseconds) / 2e6 if watched else 0.0  # half of the limit, in seconds; 0: nobody watches
        self._last: float | None = None

    def ready(self) -> None:
        """The program has started and works."""
        self._tell("READY=1")

    def beat(self) -> None:
        """It still works: to be called as often as one likes, told at half of the watchdog's limit."""
        now = self._clock()
        if self._every and (self._last is None or now - self._last >= self._every):
            self._last = now
            self._tell("WATCHDOG=1")

    def stopping(self) -> None:
        """It ends of its own accord."""
        self._tell("STOPPING=1")

    def _tell(self, state: str) -> None:
        if self._address:
            # A manager that does not listen is no reason to stop recognising.
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
                notify.sendto(state.encode(), self._address)
