import os
import socket
import sys

import pytest

from device.watchdog import Watchdog

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="systemd's sockets are Unix's")


@pytest.fixture(params=["file", "abstract"])
def manager(request, tmp_path):
    """The socket that systemd listens on, and its address as $NOTIFY_SOCKET has it."""
    if request.param == "abstract" and sys.platform != "linux":
        pytest.skip("abstract sockets are Linux's")
    address = "\0omokage-test-" + tmp_path.name if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        listener.setblocking(False)
        yield listener, address.replace("\0", "@")


def heard(listener: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(listener.recv(100).decode())
        except BlockingIOError:
            return messages


def test_ready_beats_at_half_the_limit_and_stopping(manager):
    listener, address = manager
    now = [100.0]
    heart = Watchdog({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "4000000"}, lambda: now[0])
    heart.ready()
    for _ in range(100):  # ten seconds, ten calls in each
        heart.beat()
        now[0] += 0.1
    heart.stopping()
    assert heard(listener) == ["READY=1", *["WATCHDOG=1"] * 5, "STOPPING=1"]


@pytest.mark.parametrize("watched", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}])
def test_without_a_limit_for_this_process_there_is_no_beat(manager, watched):
    listener, address = manager
    heart = Watchdog({"NOTIFY_SOCKET": address, **watched})
    heart.ready()
    heart.beat()
    assert heard(listener) == ["READY=1"]


def test_a_limit_for_this_very_process_counts(manager):
    listener, address = manager
    Watchdog({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "9", "WATCHDOG_PID": str(os.getpid())}).beat()
    assert heard(listener) == ["WATCHDOG=1"]


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": "/nowhere/notify", "WATCHDOG_USEC": "9"}])
def test_where_nobody_listens_nothing_happens(environ):
    heart = Watchdog(environ)
    heart.ready()
    heart.beat()
    heart.stopping()
