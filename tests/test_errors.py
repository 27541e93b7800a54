"""How programs end: one line and an exit code for what is not our fault, a traceback for what is."""
from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from common.errors import InputError, NonFinite, Preempted, exit_codes


@pytest.mark.parametrize("error, code, line", [
    (InputError("a.png: broken,\n  expected a picture"), 2, "error: a.png: broken, expected a picture\n"),
    (NonFinite("loss fit is not finite at step 3"), 3, "stopped: loss fit is not finite at step 3\n"),
    (Preempted("SIGTERM at step 4"), 75, "preempted: SIGTERM at step 4\n"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "some/data"), 2, "error: some/data: No such file or directory\n"),
    (OSError(errno.ENOSPC, "No space left on device", "run/a.pt"), 2, "error: run/a.pt: No space left on device\n"),
    (KeyboardInterrupt(), 130, "interrupted\n"),
    (OSError(errno.ENOSPC, "No space left on device"), 2, "error: file: No space left on device\n"),
])
def test_one_line_and_a_code(error, code, line, capsys):
    with pytest.raises(SystemExit) as leaving, exit_codes():
        raise error
    assert leaving.value.code == code and capsys.readouterr() == ("", line)


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("x"), AssertionError(), RuntimeError("CUDA error"), OSError(errno.EIO, "I/O error"),
                                   OSError(errno.EBADF, "a bug")])
def test_bugs_keep_their_traceback(error, capsys):
    with pytest.raises(type(error)) as raised, exit_codes():
        raise error
    assert raised.value is error and capsys.readouterr().err == ""


def test_a_reader_that_has_read_enough_is_no_bug():
    lines = "from common.errors import exit_codes\nwith exit_codes():\n    while True: print('x' * 1000)"
    writer = subprocess.Popen([sys.executable, "-c", lines], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert writer.stdout.readline() and not writer.stdout.close()
    assert writer.stderr.read() == b"" and writer.wait() == 130


def test_what_goes_well_goes_on():
    with exit_codes():
        value = 3
    assert value == 3


def test_a_user_error_is_a_value_error():
    assert issubclass(InputError, ValueError) and not issubclass(NonFinite, ValueError) and not issubclass(Preempted, InputError)
