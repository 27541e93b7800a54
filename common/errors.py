"""How a program ends other than well: whose fault it is decides the exit code.

A user's mistake is one clear line and exit code 2, non-finite training 3, a preempted run 75 (a Slurm script requeues it);
Ctrl-C 130; any other exception is a bug and keeps its traceback.
"""
from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

BAD_INPUT, NON_FINITE, PREEMPTED, INTERRUPTED = 2, 3, 75, 130
_ENVIRONMENT = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EEXIST,
    errno.ENAMETOOLONG, errno.EMFILE,
}


class InputError(ValueError):
    """What a user gave is wrong: one line that names the file, flag or tensor and what was expected."""


class NonFinite(ArithmeticError):
    """A loss or gradient is NaN or infinite: names the term and the step; the update was refused."""


class Preempted(Exception):
    """A signal asked the run to stop; its state is saved."""


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn the errors above, and what the file system refuses, into one line on stderr and their exit code."""
    try:
        yield
    except InputError as error:
        _leave(f"error: {error}", BAD_INPUT)
    except NonFinite as error:
        _leave(f"stopped: {error}", NON_FINITE)
    except Preempted as error:
        _leave(f"preempted: {error}", PREEMPTED)
    except KeyboardInterrupt:
        _leave("interrupted", INTERRUPTED)
    except BrokenPipeError:                                     # whoever read our output has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(INTERRUPTED)
    except OSError as error:
        if error.errno not in _ENVIRONMENT:
            raise
        _leave(f"error: {error.filename or 'file'}: {error.strerror}", BAD_INPUT)


def _leave(line: str, code: int) -> None:
    print(" ".join(line.split()), file=sys.stderr, flush=True)
    sys.exit(code)
