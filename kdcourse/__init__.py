"""Knowledge distillation, taught and measured.

>>> from kdcourse import fit, CrossEntropy, LogitKD

Every public class and function of the library can be imported from here. It is looked up where it
is defined, and only then: importing the package itself loads nothing, and a new method is found
without being listed anywhere.
"""

import importlib
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

APPARATUS = ("commands", "course", "homework", "train")  # what runs the course


def public_names() -> dict[str, str]:
    """Return the module of every public class and function of the library, by its name.

    The source is read for it, not run. Where two modules define one name, the first by the order of
    the alphabet counts; the other is reached through its module.
    """
    return _public_names(tuple(__path__))


@cache  # imports ask for one name after the other
def _public_names(roots: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for root in map(Path, roots):
        for file in sorted([*root.glob("[a-z]*.py"), *root.glob("[a-z]*/[a-z]*.py")]):
            parts = file.relative_to(root).with_suffix("").parts
            if parts[0] not in APPARATUS:
                for name in re.findall(
                    r"^(?:class|def) ([A-Za-z]\w*)", file.read_text("utf-8"), re.M
                ):
                    found.setdefault(name, ".".join([__name__, *parts]))
    return found


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return sorted(public_names())
    for package in (__name__, f"{__name__}.course"):
        if not name.startswith("_") and importlib.util.find_spec(f"{package}.{name}"):
            return importlib.import_module(f"{package}.{name}")
    module = public_names().get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *public_names()])
