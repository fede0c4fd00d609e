"""The command line: ``python -m kdcourse COMMAND``. The commands are in ``kdcourse.commands``."""

import argparse
import inspect
import os
import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module

from kdcourse import commands

ENDED_BY_READER = 141  # the status of a program whose output is no longer read


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the course's commands and return its exit status."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if options.passes_on:
        options.arguments = rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        status = options.run(options) or 0
        print(end="", flush=True)  # as long as it can be told that nobody gets it
        return status
    except ModuleNotFoundError as error:
        extra = f"'kdcourse[{options.extra}]'" if options.extra else "kdcourse"
        print(f"kdcourse: {error}; pip install {extra} brings it", file=sys.stderr)
        return 1
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        _let_go_of_output()
        if isinstance(error, BrokenPipeError):  # whoever reads has seen enough, as `head`
            return ENDED_BY_READER
        print(f"kdcourse: {commands.told(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        hint = "; the same command goes on where it stopped" * options.resumes
        print(f"kdcourse: interrupted{hint}", file=sys.stderr)
        return 130


def _let_go_of_output() -> None:
    """Forget output that cannot be written, about which Python would complain at its end."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kdcourse", description="Knowledge distillation, taught and measured."
    )
    choices = parser.add_subparsers(required=True, metavar="COMMAND")
    for _, name, _ in pkgutil.iter_modules(commands.__path__):
        command = import_module(f"{commands.__name__}.{name}")
        title, _, more = (inspect.getdoc(command) or "").partition("\n\n")
        added = choices.add_parser(
            name,
            help=title[0].lower() + title[1:].rstrip("."),
            description=more or title,
            add_help=getattr(command, "ADD_HELP", True),
        )
        run = getattr(command, "run", None)  # none, where its steps have one each
        added.set_defaults(run=run, extra="", resumes=False, passes_on=False)
        command.add_options(added)
    return parser


if __name__ == "__main__":
    sys.exit(main())
