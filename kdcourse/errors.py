"""Errors that name the argument at fault, and that a notebook shows in a few lines."""

import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType


class ExplainedError(Exception):
    """An error that names the argument at fault; a notebook shows it below the user's own line.

    IPython asks an exception how to render itself. Left out are the frames of this package and of
    what is installed, which the message makes needless; scripts and debuggers see all of them.

    Attributes:
        argument: The name of the argument; that of "the labels of train" is "train", and that of
            "the student's logits" is "student".
    """

    def __init__(self, argument: str, message: str):
        super().__init__(argument, message)
        self.argument = argument.partition("'s ")[0].split()[-1]

    def __str__(self) -> str:
        return self.args[1]

    def _render_traceback_(self) -> list[str]:
        shown: TracebackType | None = None
        causes = [] if self.__cause__ is None else _frames(self.__cause__.__traceback__)
        for frame in reversed([*_frames(self.__traceback__), *causes]):
            if not frame.tb_frame.f_code.co_filename.startswith(NOT_THE_USERS):
                shown = TracebackType(shown, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
        alone = type(self)(*self.args)  # without its cause, which its words tell
        shell = sys.modules["IPython"].get_ipython()  # which has asked for this
        render = shell.InteractiveTB.structured_traceback
        return render(type(self), alone, shown, tb_offset=0, context=3)


_FOLDERS = (str(Path(__file__).parent), *sysconfig.get_paths().values())
NOT_THE_USERS = (*(folder + os.sep for folder in _FOLDERS), "<string>")


def _frames(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


class ArgumentError(ExplainedError, ValueError):
    """An argument that cannot work, by itself or in combination with others."""


class ArgumentTypeError(ExplainedError, TypeError):
    """An argument of a type that cannot work."""


class NotFiniteError(ExplainedError, FloatingPointError):
    """A loss that is no longer finite; ``argument`` is what to blame."""
