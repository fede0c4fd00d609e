"""Lets the course's files import packages that are not here; whoever uses one of them is told.

A bare machine with a GPU has no Jupyter. Files that need it for a part of what they do can still be
imported there, and the rest of them runs. Loaded by pytest (``-p``), it skips the tests that need
what is absent.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from types import ModuleType
from typing import Any

from kdcourse.places import COURSE


class _Use(type):
    """A class of an absent package: it can be named, but not used."""

    package: str

    def __call__(cls, *_: Any, **__: Any) -> Any:
        raise ModuleNotFoundError(f"No module named {cls.package!r}", name=cls.package)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ModuleNotFoundError(f"No module named {cls.package!r}", name=cls.package)


class _Absent(ModuleType):
    """Stands for a module of an absent package."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Use(name, (), {"package": self.__name__.partition(".")[0]})


# What others ask of a module that they find imported: Matplotlib, whether it draws in IPython.
ANSWERS: dict[str, dict[str, Any]] = {
    "IPython": {"get_ipython": lambda: None, "version_info": (99, 0)}
}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds what nobody else has found, for the files of the course only."""

    def find_spec(
        self, name: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        inside = isinstance(sys.modules.get(name.rpartition(".")[0]), _Absent)
        own = name.partition(".")[0] == "kdcourse"
        if own or not (inside or _is_ours(_importer())):
            return None
        return importlib.util.spec_from_loader(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Absent(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Answer what others ask, too, who have found the module imported."""
        vars(module).update(ANSWERS.get(module.__name__, {}))


def _is_ours(file: str) -> bool:
    """Whether a file is the course's own, and not in an environment that lies in its folder."""
    return file.startswith(f"{COURSE}{os.sep}") and "site-packages" not in file


def _importer() -> str:
    """Return the file that has asked for the module."""
    frame: Any = sys._getframe(2)
    while frame and ("importlib" in frame.f_code.co_filename or frame.f_globals is globals()):
        frame = frame.f_back
    return frame.f_code.co_filename if frame else ""


def allow() -> None:
    """Let the course's files import what is absent, from now on."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def package(error: BaseException) -> str | None:
    """Return the absent package that an error is about, if there is one."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    return name if isinstance(sys.modules.get(name or ""), _Absent) else None
