from pathlib import Path

import pytest
from clock import Clock
from hypothesis import given
from hypothesis import strategies as st

from device.program import InputError
from device.web import auth
from device.web.auth import Password, Sessions, Throttle, read_token


def private(path: Path, content: str) -> Path:
    path.write_text(content)
    path.chmod(0o600)
    return path


def test_a_password_in_plain_text(tmp_path: Path):
    password = Password(private(tmp_path / "p", "correct horse\n"))
    assert password.chosen and password.fits("correct horse")
    assert not any(map(password.fits, ("", "correct", "correct horse ", "x" * 10_000)))


def test_a_password_that_is_chosen_is_stored_as_a_hash(tmp_path: Path):
    path = tmp_path / "sub" / "password"
    password = Password(path)
    assert not password.chosen and not password.fits("")
    password.choose("correct horse")
    assert path.stat().st_mode & 0o777 == 0o600 and "horse" not in path.read_text()
    assert Password(path).fits("correct horse") and not Password(path).fits("wrong horse")
    for again in (password, Password(path)):
        with pytest.raises(InputError, match="set already"):
            again.choose("another one")


def test_two_who_choose_at_once(tmp_path: Path):
    first, second = Password(tmp_path / "p"), Password(tmp_path / "p")
    first.choose("the first one")
    with pytest.raises(InputError, match="set already"):
        second.choose("the second one")


@pytest.mark.parametrize(("content", "wrong"), [("short", "has 5 characters"), ("", "has 0"), ("scrypt:00", "damaged")])
def test_password_files_of_no_use(tmp_path: Path, content: str, wrong: str):
    with pytest.raises(InputError, match=wrong):
        Password(private(tmp_path / "p", content))


def test_files_that_others_may_read(tmp_path: Path):
    for read in (Password, read_token):
        path = private(tmp_path / "p", "x" * 40)
        path.chmod(0o644)
        with pytest.raises(InputError, match="chmod 600"):
            read(path)


def test_tokens(tmp_path: Path):
    assert read_token(private(tmp_path / "t", "a" * 64 + "\n")) == "a" * 64
    for content in ("short", "", "ä" * 40):
        with pytest.raises(InputError):
            read_token(private(tmp_path / "t", content))
    with pytest.raises(InputError, match="openssl rand"):
        read_token(tmp_path / "nothing")


def test_sessions_end_when_they_are_not_used(monkeypatch):
    clock = Clock()
    sessions = Sessions(clock)
    word = sessions.open()
    for _ in range(3):
        clock.now += auth.SESSION - 1
        assert sessions.is_open(word)
    clock.now += auth.SESSION + 1
    assert not sessions.is_open(word) and not sessions.is_open("")


def test_sessions_that_are_closed_or_too_many():
    sessions = Sessions()
    words = [sessions.open() for _ in range(auth.SESSIONS + 1)]
    assert len(set(words)) == len(words) and not sessions.is_open(words[0]) and sessions.is_open(words[-1])
    sessions.close(words[-1])
    assert not sessions.is_open(words[-1])


@given(st.text(max_size=80))
def test_no_other_token_is_a_sessions_own(token: str):
    sessions = Sessions()
    word = sessions.new()
    assert not sessions.is_own(word, token) and sessions.is_own(word, sessions.csrf(word))
    assert not sessions.is_own(sessions.new(), sessions.csrf(word)) and not Sessions().is_own(word, sessions.csrf(word))


def test_guessing_gets_slower_and_slower():
    clock = Clock()
    throttle = Throttle(clock)
    waits = []
    for _ in range(14):
        throttle.failed("here")
        waits.append(throttle.wait("here"))
        clock.now += waits[-1]
        assert throttle.wait("here") == 0
    assert waits[: auth.FREE] == [0.0] * auth.FREE
    assert waits[auth.FREE : auth.FREE + 4] == [2, 4, 8, 16] and waits[-1] == auth.LONGEST_WAIT
    assert throttle.wait("there") == 0
    throttle.succeeded("here")
    throttle.failed("here")
    assert throttle.wait("here") == 0


def test_one_network_is_one_who_guesses():
    throttle = Throttle()
    for number in range(6):
        throttle.failed(f"2001:db8:0:7::{number:x}")
    assert throttle.wait("2001:db8:0:7:ffff::1") > 0 and throttle.wait("2001:db8:0:8::1") == 0
    assert throttle.wait("not an address") == 0


def test_many_addresses_take_no_more_memory():
    throttle = Throttle()
    for number in range(auth.ADDRESSES + 50):
        throttle.failed(str(number))
    assert len(throttle._failed) == auth.ADDRESSES
