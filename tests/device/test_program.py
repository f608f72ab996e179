import argparse
import os
import subprocess
import sys

import pytest

from device.program import InputError, MissingError, Parser, StoredError, replacing, run


def program(verbs: bool = False) -> Parser:
    parser = Parser("What it does.")
    parser.prog = "thing.py"
    if verbs:
        parser.add_subparsers(required=True, metavar="VERB").add_parser("do")
    else:
        parser.add_argument("--number", type=int)
    return parser


@pytest.mark.parametrize("error, status", [(InputError, 2), (MissingError, 3), (StoredError, 4)])
def test_an_error_is_one_line_and_a_status(error, status, capsys):
    def main(args: argparse.Namespace) -> int:
        raise error("it is\n  broken", "mend it")

    assert run(main, program(), []) == status
    assert capsys.readouterr() == ("", "thing: it is broken: mend it\n")


@pytest.mark.parametrize("verbs, argv", [(False, ["--debug"]), (True, ["--debug", "do"]), (True, ["do", "--debug"])])
def test_debug_shows_the_traceback_before_and_behind_the_verb(verbs, argv, capsys):
    def main(args: argparse.Namespace) -> int:
        raise InputError("it is broken", "mend it")

    assert run(main, program(verbs), argv) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error and error.endswith("thing: it is broken: mend it\n")


def test_the_status_is_what_the_program_says():
    assert run(lambda args: args.number, program(), ["--number", "1"]) == 1


def test_a_fault_of_ours_is_one_line_too(capsys):
    def main(args: argparse.Namespace) -> int:
        raise ZeroDivisionError("division\nby zero")

    assert run(main, program(), []) == 70
    error = capsys.readouterr().err
    assert error == "thing: a fault of Omokage itself (ZeroDivisionError division by zero): report it with what --debug shows\n"
    assert run(main, program(), ["--debug"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupted_program_says_so(capsys):
    def main(args: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    assert run(main, program(), []) == 130
    assert capsys.readouterr().err == "thing: interrupted\n"


@pytest.mark.parametrize("verbs, argv", [(False, ["--number", "x"]), (False, ["--none"]), (True, []), (True, ["do", "it"])])
def test_misuse_is_one_line_and_status_2(verbs, argv, capsys):
    with pytest.raises(SystemExit) as stop:
        run(lambda args: 0, program(verbs), argv)
    assert stop.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("thing: ") and output.err.count("\n") == 1 and "--help" in output.err


def test_a_reader_that_leaves_is_no_error():
    script = (
        "import sys; from device.program import Parser, run\n"
        "def main(args):\n    for number in range(100_000): print(number)\n    return 0\n"
        "sys.exit(run(main, Parser('x'), []))"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert (process.wait(20), process.stderr.read()) == (0, b"")


def test_a_file_is_replaced_when_all_went_well(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with replacing(target) as temporary:
        assert temporary.suffix == ".txt" and temporary.parent == target.parent
        temporary.write_text("first")
        assert not target.exists()
    with replacing(target) as temporary:
        temporary.write_text("second")
        assert target.read_text() == "first"
    assert target.read_text() == "second"
    assert list(target.parent.iterdir()) == [target]


def test_a_failure_leaves_what_was_there(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), replacing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_replaced_file_has_the_mode_that_the_user_asks_for(tmp_path):
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "file"):
            pass
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_a_target_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "file" / "below", tmp_path):
        with pytest.raises(InputError, match="cannot write"), replacing(target):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}-*"))
