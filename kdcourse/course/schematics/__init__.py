"""Schematics: pictures of the lecture's ideas, drawn by code, in one style.

A schematic is a public function without arguments that returns a figure. Its name is the name of
its file in ``notebooks/figures``, and its docstring is the alternative text.
"""

import inspect
from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules

from matplotlib.figure import Figure

from kdcourse import files
from kdcourse.course.schematics.paper import svg
from kdcourse.places import COURSE

FOLDER = COURSE / "notebooks/figures"


def every() -> dict[str, Callable[[], Figure]]:
    """Return the schematics by the names of their files, in the order of their modules."""
    modules = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)]
    return {
        name.replace("_", "-"): member
        for module in modules
        for name, member in vars(module).items()
        if inspect.isfunction(member)
        and member.__module__ == module.__name__
        and not name.startswith("_")
        and inspect.signature(member) == inspect.Signature(return_annotation=Figure)
    }


def about(draw: Callable[[], Figure]) -> str:
    """Return the alternative text of a schematic."""
    return " ".join((draw.__doc__ or "").split())


def write() -> None:
    """Write every schematic into the folder of the notebooks' figures."""
    for name, draw in every().items():
        files.write(FOLDER / f"{name}.svg", svg(draw()))
