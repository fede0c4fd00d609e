"""The command line, a file for each command of ``python -m kdcourse``, found by its name.

A file's docstring is its help text: the first line in the list of commands, the rest beside the
command's options. ``add_options(parser)`` says what it takes, and may say with
``parser.set_defaults(...)``

- ``extra``: the optional dependencies that it needs;
- ``resumes=True``: interrupted, it goes on where it stopped when it is given again;
- ``passes_on=True``: options that it does not know are read by another program, the help as well
  if the file says ``ADD_HELP = False``.

``run(options)`` carries it out and returns the exit status; without one, it went well. A command
imports what it needs when it is run, so that ``--help`` answers at once.
"""

import sys

from kdcourse import files

WRONGLY_CALLED = 2  # the status that argparse gives, too


def told(error: Exception) -> str:
    """Return an error's text, and the system's errors without their numbers."""
    return files.sentence(error) if isinstance(error, OSError) else str(error)


def refused(error: Exception) -> int:
    """Say in a line why a command was not carried out, and return its status."""
    print(f"kdcourse: {told(error)}", file=sys.stderr)
    return WRONGLY_CALLED


def show_results() -> None:
    """Say where your results are, without a clone, which keeps them."""
    from kdcourse.course.claims.results import RESULTS
    from kdcourse.places import own_folder

    if (folder := own_folder(RESULTS)) != RESULTS and folder.is_dir():
        print(f"results: {folder}")
