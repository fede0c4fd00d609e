"""Is everything there that the course needs? If not, what is to be done? The start page asks."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement

from kdcourse.places import INSTALLED, RESTORE


@dataclass(frozen=True)
class Finding:
    """What one check found, in words, and what to do about it: nothing, if all is well."""

    name: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{'✗' if self.remedy else '✓'} {self.name:<13} {self.found}"
        return f"{line}\n  {'':<13} → {self.remedy}" if self.remedy else line


def report() -> str:
    """Run every check and return a line for each, then one for all of them."""
    findings = [check(name) for name in CHECKS]
    wrong = sum(bool(finding.remedy) for finding in findings)
    end = f"{wrong} of {len(findings)} checks failed: follow the arrows." if wrong else "Ready."
    return "\n".join([*map(str, findings), end])


def check(name: str) -> Finding:
    """Run one check by its name; whatever it raises becomes the finding."""
    examine, remedy = CHECKS[name]
    try:
        return Finding(name, examine())
    except Exception as error:  # a broken installation fails in ways that nobody can list
        return Finding(name, f"{type(error).__name__}: {error}", remedy)


def installation() -> str:
    """Say which Python and PyTorch these are.

    Raises:
        RuntimeError: A package is missing, or has a version that the course does not work with.
    """
    problems = []
    for requirement in map(Requirement, metadata.requires("kdcourse") or ()):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            problems.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            problems.append(f"{requirement.name} is {version}, not {requirement.specifier}")
    if problems:
        raise RuntimeError("; ".join(problems))
    import torch

    return f"Python {sys.version.split()[0]}, PyTorch {torch.__version__}"


def device() -> str:
    """Train for a few steps on the device that ``fit`` chooses; say which, and how long it took."""
    import torch

    from kdcourse import models
    from kdcourse.data import Images, replay
    from kdcourse.training import fit
    from kdcourse.training.device import choose_device

    place = choose_device()
    pixels = torch.randint(256, (512, 1, 28, 28), generator=replay(0)).byte()
    images = Images(pixels, torch.arange(512) % 10, tuple("0123456789"), (0.5,), (0.25,))
    history = fit(models.by_name("plain4", seed=0), images, epochs=1, progress=False)
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else place.type.upper()
    return f"{name}; 512 images learned in {history['seconds'][0]:.1f} s"


def images() -> str:
    """Load Fashion-MNIST, which compares its checksums, and count its images."""
    from kdcourse import data

    splits = data.fashion_mnist()
    sizes = (len(part) for part in (splits.train, splits.validation, splits.test))
    return "Fashion-MNIST, {:,} + {:,} + {:,} images".format(*sizes)


def pretrained() -> str:
    """Load every teacher that ships with the course, which compares its checksum."""
    from kdcourse.teachers import shipped

    for name in shipped.RECIPES:
        shipped.pretrained(name)
    return ", ".join(shipped.RECIPES)


CHECKS: dict[str, tuple[Callable[[], str], str]] = {
    "installation": (
        installation,
        "In the course's folder: make install; without a clone: pip install --upgrade kdcourse. "
        "Then Kernel → Restart.",
    ),
    "device": (
        device,
        "Use the CPU: start JupyterLab with CUDA_VISIBLE_DEVICES= in front, or fit(device='cpu').",
    ),
    "images": (
        images,
        "Run kdcourse.data.fashion_mnist(download=True), which checks what it fetched"
        + ("." if INSTALLED else f"; {RESTORE}, also does it."),
    ),
    "teachers": (
        pretrained,
        f"Restore them: {RESTORE}."
        + " Or train them again: python -m kdcourse teachers" * (not INSTALLED),
    ),
}
