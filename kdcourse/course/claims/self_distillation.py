"""Which teacher? Claims about teachers of the student's own size: two views, born again."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from kdcourse import models
from kdcourse.course.claims import experiment
from kdcourse.course.claims.claim import Effect, claim
from kdcourse.course.claims.experiment import IMAGES, TEMPERATURE, TOY, accuracy, train
from kdcourse.teachers import Ensemble, PatchNet, TwoViews, born_again, learned_views
from kdcourse.teachers.multi_view import batches
from kdcourse.training import CrossEntropy, LogitKD, Objective, constant, fit


def patch_net(
    seed: int,
    samples: DataLoader,
    epochs: int,
    objective: Objective | None = None,
    teacher: nn.Module | None = None,
) -> PatchNet:
    """Train a net on two-view samples by plain SGD."""
    net = PatchNet(seed=seed)
    fit(
        net,
        samples,
        objective,
        teacher=teacher,
        epochs=epochs,
        optimizer=lambda parameters: torch.optim.SGD(parameters, 0.2),
        scheduler=constant,
        seed=seed,
        device="cpu",
        progress=False,
        on_interrupt="raise",
    )
    return net


def views(model: nn.Module, data: TwoViews) -> dict[str, float]:
    """Accuracy on samples of one view, and the share of classes with both views learned."""
    learned = learned_views(model, data)
    both = (learned > 0.5).all(dim=1).float().mean()
    return {"": 100 * float(learned.mean()), " both views": 100 * float(both)}


@claim(
    "multi-view",
    notebook=5,
    statement="Different seeds capture different views of the data (headlight, window); after "
    "distillation, the student sees both.",
    effects=(
        Effect("accuracy on one view, self-distilled − alone", "self", "alone"),
        Effect("accuracy on one view, from the ensemble − self-distilled", "from ensemble", "self"),
        Effect("accuracy on one view, ensemble − alone", "ensemble", "alone"),
        Effect(
            "classes with both views learned, self-distilled − alone",
            "self both views",
            "alone both views",
        ),
        Effect(
            "classes with both views learned, from the ensemble − alone",
            "from ensemble both views",
            "alone both views",
        ),
    ),
    reason="Synthetic data with two features a class: a net that knows one view is right on every "
    "training sample and stops learning; the soft predictions of others still tell of the second.",
    toy={"samples": 100, "epochs": 2, "members": 2},
)
def multi_view(
    seed: int, *, samples: int = 500, epochs: int = 600, members: int = 10
) -> dict[str, float]:
    """Accuracy on single views of nets alone, distilled from one net, and from an ensemble."""
    data = TwoViews(seed=seed)
    train_set = batches(*data.draw(samples))
    nets = [patch_net(100 * seed + m, train_set, epochs) for m in range(members)]
    ensemble = Ensemble(nets, combine="logits")
    objective = CrossEntropy() + LogitKD(TEMPERATURE)
    fresh = 100 * seed + members
    taught = {
        "self": patch_net(fresh, train_set, epochs, objective, nets[0]),
        "from ensemble": patch_net(fresh, train_set, epochs, objective, ensemble),
        "ensemble": ensemble,
    }
    alone = [views(net, data) for net in nets]
    measured = {f"alone{k}": sum(one[k] for one in alone) / members for k in alone[0]}
    for name, model in taught.items():
        measured |= {f"{name}{k}": value for k, value in views(model, data).items()}
    return measured


@claim(
    "born-again",
    notebook=5,
    statement="Self-distillation: f₁ → f₂ → … → f_k improves on f₁, and the ensemble of f₁, …, f_k "
    "improves on both.",
    effects=(
        Effect("test accuracy, f₂ − f₁", "f2", "f1"),
        Effect("test accuracy, f₄ − f₁", "f4", "f1"),
        Effect("test accuracy, ensemble of f₁, …, f₄ − f₄", "ensemble", "f4"),
    ),
    reason="res8, the teacher's outputs only (τ = 1): no label is seen after the first generation.",
    toy=TOY,
)
def born_again_generations(
    seed: int,
    *,
    images: int = IMAGES,
    epochs: int = 15,
    student: str = "res8",
    generations: int = 4,
) -> dict[str, float]:
    """Test accuracy of every generation, of their ensemble, and of as many independent nets."""
    data = experiment.splits()
    few = data.train[:images]
    options: dict[str, Any] = {"device": "cpu", "progress": False, "on_interrupt": "raise"}
    family = born_again(
        lambda seed: models.by_name(student, seed=seed),
        few,
        generations=generations,
        seed=10 * seed,
        epochs=epochs,
        **options,
    )
    measured = {f"f{n}": accuracy(net, data.test) for n, net in enumerate(family, start=1)}
    measured["ensemble"] = accuracy(Ensemble(family), data.test)
    others = [train(student, few, 10 * seed + n, epochs=epochs) for n in range(1, generations)]
    strangers: Sequence[nn.Module] = [family[0], *others]
    measured["independent ensemble"] = accuracy(Ensemble(strangers), data.test)
    labels = train(
        student,
        few,
        10 * seed + 1,
        CrossEntropy() + LogitKD(1.0),
        teacher=family[0],
        epochs=epochs,
    )
    measured["f2 with labels"] = accuracy(labels, data.test)
    return measured
