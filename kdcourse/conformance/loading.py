"""A loss by where it stands: ``module:function`` or ``file.py:function``."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from kdcourse.errors import ArgumentError
from kdcourse.signatures import checked


@checked
def loss_from(place: str) -> tuple[Any, str]:
    """Return a loss, and the line of a program that brings it.

    Args:
        place: ``my_module:my_loss``, as it could be imported in the current folder, or
            ``my_file.py:my_loss``.

    Raises:
        ArgumentError: There is none.
    """
    where, colon, name = place.rpartition(":")
    if not colon or not where or not name:
        raise ArgumentError(
            "place", f"place must be MODULE:FUNCTION or FILE.py:FUNCTION, got {place!r}"
        )
    try:
        module = _from_file(Path(where)) if where.endswith(".py") else _from_module(where)
    except (Exception, SystemExit) as error:  # whatever a module raises
        why = "it is a program, which ends" if isinstance(error, SystemExit) else error
        raise ArgumentError(
            "place",
            f"place must be of a module that can be imported, which {where} cannot: {why}",
        ) from error
    if not hasattr(module, name):
        there = (
            ", ".join(
                key for key, value in vars(module).items() if callable(value) and key[0] != "_"
            )
            or "nothing"
        )
        raise ArgumentError("place", f"place must be of a loss in {where}, which has {there}")
    return getattr(module, name), f"from {module.__name__} import {name}"


def _from_module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    return importlib.import_module(name)


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError("there is no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent.absolute()))  # as for a program, for the files beside it
    spec.loader.exec_module(module)
    return module
