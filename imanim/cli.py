"""What every launcher shares: the argument form ``--config FILE key=value ...`` and one-line errors with exit code 2."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from imanim import distributed
from imanim.errors import ConfigError, InputError, from_os_error

EXIT_BAD_INPUT = InputError.exit_code
EXIT_INTERRUPTED = 130
EXIT_REQUEUE = 75
"""Stopped by a signal with everything saved: the same command, started again, goes on (sysexits' "try again later")."""


def run(main: Callable[[list[str]], int | None]) -> NoReturn:
    """Runs a launcher's ``main(argv)`` and leaves with its exit code.

    Bad input and a refusing operating system (full disk, missing file) print one line and exit with 2; anything else is a
    defect of ours and keeps its traceback.
    """
    try:
        code = main(sys.argv[1:]) or 0
    except ConfigError as error:
        if len(error.problems) == 1:
            _complain(str(error))
        else:
            _complain(f"{len(error.problems)} problems in the configuration:")
            for problem in error.problems:
                print(f"  - {problem}", file=sys.stderr)
        code = error.exit_code
    except InputError as error:
        _complain(str(error))
        code = error.exit_code
    except BrokenPipeError:
        # The reader of our output (head, less) went away: nothing to report, and nothing more may be printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        _complain(str(from_os_error(error)))
        code = EXIT_BAD_INPUT
    except KeyboardInterrupt:
        _complain("interrupted; what was finished is kept")
        code = EXIT_INTERRUPTED
    finally:
        distributed.settle()  # also a rank that fails leaves with its own exit code
    sys.exit(code)


def _complain(line: str) -> None:
    print(f"error: {line}", file=sys.stderr, flush=True)


def parser(description: str, *, config: bool = True, epilog: str | None = None) -> argparse.ArgumentParser:
    """A launcher's argument parser.

    With ``config``: ``--config FILE``, ``--dry-run``, ``--local_rank`` (what the ``deepspeed`` launcher inserts; the
    environment has the same number) and any number of ``key=value`` overrides.
    """
    p = argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if config:
        p.add_argument("--config", metavar="FILE", help="YAML configuration (may `extends:` another)")
        p.add_argument("--dry-run", action="store_true", help="print what would be done, touch nothing")
        p.add_argument("--local_rank", type=int, default=None, help=argparse.SUPPRESS)
        p.add_argument(
            "overrides", nargs="*", metavar="key=value", help="settings that replace the file's, e.g. seed=1"
        )
    return p


def parse(p: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Parses ``argv`` with options and overrides in any order."""
    return p.parse_intermixed_args(list(argv))
