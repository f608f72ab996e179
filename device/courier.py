"""The thread that carries events from the outbox to one receiver, in their order, however often that one goes away."""

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Protocol

from device.outbox import Letter, Outbox

FIRST, LONGEST = 1.0, 30.0  # seconds before the first attempt to go on after a loss, and between later ones: doubled each time
STEADY = 10.0  # seconds after which a receiver counts as back for good


class Lost(Exception):
    """The receiver cannot be reached or does not take events now: to be tried again later. Says why."""


class Refused(Exception):
    """The receiver will never take this event. Says why."""


class Carrier(Protocol):
    """How a receiver is reached. All is called in the courier's thread; whatever waits, waits for seconds at most and raises Lost."""

    name: str  # of the receiver in the outbox and in notices: a word
    address: str  # for people, without secrets

    def open(self) -> None: ...

    def deliver(self, letter: Letter) -> None:
        """Returns when the receiver has it. Raises Lost or Refused."""
        ...

    def tend(self) -> float:
        """Do what else is due; for how many seconds nothing will be. Raises Lost."""
        ...

    def close(self) -> None: ...


class Courier:
    """Delivers what is in `outbox` for `carrier` until it is to `end`.

    `notify` gets a code, a message and a level: of a receiver that is lost or back.
    """

    def __init__(self, carrier: Carrier, outbox: Outbox, notify: Callable[[str, str, str], None]):
        self.carrier = carrier
        self.connected = False
        self.delivered = 0
        self._outbox, self._notify = outbox, notify
        self._wake, self._ending = threading.Event(), threading.Event()
        self._until = self._since = float("inf")
        self._lost: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"omokage-{carrier.name}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is something new to do."""
        self._wake.set()

    def end(self, grace: float) -> None:
        """Have it end within `grace` seconds, before that once all is delivered or the receiver is not there."""
        self._until = time.monotonic() + grace
        self._ending.set()
        self.wake()

    def join(self) -> None:
        """Wait for the end that `end` asked for."""
        self._thread.join(max(self._until - time.monotonic(), 0.0) + 1.0)

    def _run(self) -> None:
        pause, last = FIRST, False
        while not last:
            last = self._ending.is_set()  # once more, in case the receiver has come back during the pause
            self._since = float("inf")
            try:
                with contextlib.closing(self.carrier):
                    self.carrier.open()
                    self._serve()
                    return
            except Lost as lost:
                self._tell_lost(str(lost))
            except Exception as error:  # a client library may raise anything; deliveries go on all the same
                self._tell_lost(" ".join(f"{type(error).__name__} {error}".split()))
            finally:
                self.connected = False
            self._outbox.settle()
            pause = FIRST if time.monotonic() - self._since > STEADY else pause
            self._ending.wait(pause * random.uniform(0.5, 1.0))  # many who lost one broker do not come back all at once
            pause = min(2 * pause, LONGEST)

    def _serve(self) -> None:
        """Deliver until it is time to end. Raises Lost."""
        while not (self._ending.is_set() and time.monotonic() > self._until):
            self._wake.clear()
            idle = self.carrier.tend()
            letter = self._outbox.first(self.carrier.name)
            if letter is not None:
                self._deliver(letter)
            if not self.connected:
                self._tell_back()
            if letter is not None:
                continue
            if self._ending.is_set():
                return
            self._outbox.settle()
            self._wake.wait(idle)

    def _deliver(self, letter: Letter) -> None:
        try:
            self.carrier.deliver(letter)
            self.delivered += 1
        except Refused as refused:
            # In the log alone: a notice would be an event, and be refused as well.
            logging.getLogger("omokage").error(f"{self.carrier.address} refuses event {letter.id}, which is given up: {refused}")
        self._outbox.done(letter)

    def _tell_lost(self, why: str) -> None:
        """Once for each reason, not for every attempt."""
        if why != self._lost and not self._ending.is_set():
            waiting = f"events wait in {self._outbox.path} and are sent when it is back"
            self._notify(f"{self.carrier.name}-lost", f"{self.carrier.address} is lost ({why}): {waiting}", "warning")
        self._lost = why

    def _tell_back(self) -> None:
        self.connected, self._since = True, time.monotonic()
        if self._lost:
            count = self._outbox.waiting(self.carrier.name)
            self._notify(f"{self.carrier.name}-back", f"{self.carrier.address} is back, events that still wait: {count}", "info")
        else:
            logging.getLogger("omokage").info(f"events go to {self.carrier.address}")
        self._lost = None
