"""The trained teachers that ship with the course, each with a card that says how it was made.

``python -m kdcourse teachers NAME`` trains one again.
"""

import hashlib
import json
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from safetensors.torch import load_file, save
from torch import nn

from kdcourse import metrics, models
from kdcourse.augmentation import crop_flip, pad_crop_flip
from kdcourse.data import Images, fashion_mnist
from kdcourse.errors import ArgumentError
from kdcourse.files import check_writable, write
from kdcourse.language import Definitions, OnPolicy, nats_per_token, wordnet
from kdcourse.logit import CrossEntropy
from kdcourse.places import COURSE, INSTALLED, RESTORE, intact, own_folder
from kdcourse.signatures import checked
from kdcourse.teachers.self_supervised import self_distill, with_head
from kdcourse.training import fit
from kdcourse.training.schedules import one_cycle

TEACHERS = COURSE / "data" / "teachers"
Set = TypeVar("Set")


@dataclass(frozen=True)
class AnyRecipe(Generic[Set]):
    """How a teacher is trained and judged, on a set of its kind.

    Attributes:
        data: What it learns from, in words.
        judged: By what it is judged; a name in its card.
    """

    data: ClassVar[str]
    judged: ClassVar[str]

    def splits(self) -> tuple[Set, Set, Set]:
        """Return what it learns from, what settings are chosen by, and what it is tested with."""
        raise NotImplementedError

    def untrained(self) -> nn.Module:
        """Return the model before training."""
        raise NotImplementedError

    def train(self, known: Set, *, progress: bool) -> nn.Module:
        """Return a trained model."""
        raise NotImplementedError

    def score(self, model: nn.Module, judged: Set, known: Set) -> float:
        """Return how good a model is, that knows what it learned from."""
        raise NotImplementedError

    def made(self, *, progress: bool) -> tuple[nn.Module, dict[str, float]]:
        """Return a trained model, and how good it is on validation and test data."""
        known, validation, test = self.splits()
        model = self.train(known, progress=progress)
        judged = {"validation": validation, "test": test}
        scores = {name: self.score(model, split, known) for name, split in judged.items()}
        return model, {f"{name}_{self.judged}": round(s, 3) for name, s in scores.items()}


@dataclass(frozen=True)
class Recipe(AnyRecipe[Images]):
    """How a teacher of images is trained, on labels alone or without any.

    Attributes:
        model: Short name of the architecture (:func:`kdcourse.models.by_name`).
        images: How many of Fashion-MNIST's training images it sees, from the first.
        epochs: The number of passes through them.
        augmented: Whether they are cropped and flipped at random.
        labelled: Whether it learns from labels; otherwise by self-distillation, with a head in
            place of the classifier.
        seed: Seed of the initial weights, the order and the augmentation.
    """

    model: str
    images: int
    epochs: int
    augmented: bool
    labelled: bool = True
    seed: int = 0

    data: ClassVar = "Fashion-MNIST, the first images of the training split (seed 0)"
    judged: ClassVar = "accuracy"

    def splits(self) -> tuple[Images, Images, Images]:
        splits = fashion_mnist()
        return splits.train[: self.images], splits.validation, splits.test

    def untrained(self) -> nn.Module:
        model = models.by_name(self.model, seed=self.seed)
        return model if self.labelled else with_head(model, seed=self.seed)

    def train(self, known: Images, *, progress: bool) -> nn.Module:
        options: dict[str, Any] = {"device": "cpu", "on_interrupt": "raise", "progress": progress}
        options |= {"epochs": self.epochs, "seed": self.seed}
        model = models.by_name(self.model, seed=self.seed)
        if not self.labelled:
            return self_distill(model, known, augment=crop_flip(), **options)
        fit(model, known, augment=pad_crop_flip() if self.augmented else None, **options)
        return model

    def score(self, model: nn.Module, judged: Images, known: Images) -> float:
        """Accuracy in percent; without labels, of naming images by their five nearest known."""
        if self.labelled:
            return 100 * metrics.accuracy(model, judged)
        return 100 * metrics.neighbour_accuracy(model, known, judged)


@dataclass(frozen=True)
class LanguageRecipe(AnyRecipe[Definitions]):
    """How a teacher that writes definitions is trained.

    Attributes:
        depth, width, heads, length: As for :func:`kdcourse.models.language_model`.
        epochs: The number of passes through the definitions.
        batch_size: Definitions a batch.
        learning_rate: The highest of AdamW.
        seed: Seed of the initial weights and the order.
    """

    depth: int
    width: int
    epochs: int
    heads: int = 4
    length: int = 80
    batch_size: int = 64
    learning_rate: float = 0.003
    seed: int = 0

    data: ClassVar = "definitions of WordNet 3.0, the training split"
    judged: ClassVar = "nats"  # per character

    def splits(self) -> tuple[Definitions, Definitions, Definitions]:
        return wordnet()

    def untrained(self) -> nn.Module:
        size, count = (self.width, self.depth, self.heads), len(wordnet().vocabulary)
        return models.language_model(*size, count, length=self.length, seed=self.seed)

    def train(self, known: Definitions, *, progress: bool) -> nn.Module:
        model = self.untrained()
        source = OnPolicy(
            model,
            known,
            wordnet().vocabulary,
            share=0.0,
            length=self.length,
            batch_size=self.batch_size,
            seed=self.seed,
        )
        fit(
            model,
            source,
            CrossEntropy(class_dim=-1),
            epochs=self.epochs,
            optimizer=partial(torch.optim.AdamW, lr=self.learning_rate, weight_decay=0.01),
            scheduler=one_cycle,
            autocast=torch.bfloat16,  # twice as fast as float32 where the processor knows it
            seed=self.seed,
            device="cpu",
            on_interrupt="raise",
            progress=progress,
        )
        return model

    def score(self, model: nn.Module, judged: Definitions, known: Definitions) -> float:
        """Cross-entropy in nats per character of the definitions."""
        return nats_per_token(model, judged.lessons(wordnet().vocabulary))


RECIPES: dict[str, AnyRecipe] = {
    # Sees what the students see, no more: a fair teacher, and an overconfident one.
    "res16": Recipe("res16", images=4000, epochs=15, augmented=False),
    # More images, augmented: better, and less sure of itself.
    "res16-augmented": Recipe("res16", images=10000, epochs=20, augmented=True),
    # Has never seen a label.
    "res16-unlabelled": Recipe("res16", images=10000, epochs=60, augmented=True, labelled=False),
    # Reads a word and writes what it means.
    "definitions": LanguageRecipe(depth=4, width=128, epochs=8),
}


@checked
def pretrained(name: str, folder: str | Path = TEACHERS) -> nn.Module:
    """Load a trained teacher, in eval mode, after comparing its checksum with its card.

    Raises:
        ValueError: There is no such teacher.
        FileNotFoundError: Its weights or its card are missing.
        RuntimeError: The weights are not those of the card, or the card is damaged.
    """
    recipe = _recipe(name)
    weights = _existing(Path(folder) / f"{name}.safetensors", name)
    expected = card(name, folder)["sha256"]
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    if found != expected:
        raise RuntimeError(
            f"{weights} is corrupted: its sha256 is {found}, expected {expected}; "
            f"{_remedy(weights, name)}"
        )
    model = recipe.untrained()
    model.load_state_dict(load_file(weights))
    return model.eval()


@checked
def card(name: str, folder: str | Path = TEACHERS) -> dict[str, Any]:
    """Read a teacher's card: recipe, command, how good it is, sha256 of the weights.

    Accuracies are in percent; ``nats`` are those of cross-entropy per character.
    """
    _recipe(name)
    path = _existing(Path(folder) / f"{name}.json", name)
    with intact(path):
        content = json.loads(path.read_text())
        content["sha256"]  # of no use without it
    return content


@checked
def train_teacher(
    name: str, folder: str | Path = TEACHERS, *, progress: bool = True
) -> dict[str, Any]:
    """Train a teacher by its recipe, store its weights and its card, and return the card."""
    recipe, folder = _recipe(name), own_folder(Path(folder))
    check_writable(folder)
    model, scores = recipe.made(progress=progress)
    weights = save(model.state_dict())
    write(folder / f"{name}.safetensors", weights)
    content = {
        "name": name,
        "command": f"python -m kdcourse teachers {name}",
        "data": recipe.data,
        **asdict(recipe),
        "parameters": models.count_parameters(model),
        **scores,
        "torch": torch.__version__,
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    write(folder / f"{name}.json", json.dumps(content, indent=1) + "\n")
    return content


def known(names: Iterable[str]) -> list[str]:
    """Return the names of teachers, all of them by default.

    Raises:
        ValueError: There is no teacher of that name.
    """
    names = list(names) or list(RECIPES)
    for name in names:
        _recipe(name)
    return names


def _recipe(name: str) -> AnyRecipe:
    if name not in RECIPES:
        raise ArgumentError(
            "name", f"no teacher named {name!r}; name must be one of {', '.join(RECIPES)}"
        )
    return RECIPES[name]


def _existing(path: Path, name: str) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; {_remedy(path, name)}")
    return path


def _remedy(path: Path, name: str) -> str:
    """Say how to get a good copy of a teacher's file."""
    command, ours = f"python -m kdcourse teachers {name}", path.parent == TEACHERS
    if ours and INSTALLED:  # where nothing is written
        return f"restore it: {RESTORE}"
    if ours:
        return f"restore it ({RESTORE}), or make it anew: {command}"
    return f"make it: {command} --folder {shlex.quote(str(path.parent))}"
