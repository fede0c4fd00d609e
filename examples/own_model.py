"""Your own models and data: any nn.Module for student and teacher, any DataLoader for the images.

The modules map inputs to logits; a loader yields (inputs, target). Layers are called by the names
that PyTorch gives them, and a hint projects where their sizes differ.

Paper: Hinton, Vinyals, Dean 2015, arXiv 1503.02531; hint: Romero et al. 2015, arXiv 1412.6550.
Run: python examples/own_model.py
Prints the test accuracy of a teacher trained here, and of a student alone, with logits, and with a
hint too. No claim measures these nets: with one seed, the differences may be chance.
"""

from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from kdcourse import CrossEntropy, FeatureHint, LogitKD, data, fit, metrics
from kdcourse.models import seeded


def my_net(width, seed):
    """Return a net of your own: the layers of a Sequential are named "0", "1", "2", ..."""
    with seeded(seed):
        return nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),  # "5": (N, 2 * width, 6, 6)
            nn.Flatten(),
            nn.Linear(2 * width * 6 * 6, 10),
        )


def main(images=4000, epochs=10):
    """Train a teacher and three students; return the one with logits and hint."""
    splits = data.fashion_mnist()
    train, test = splits.train[:images], splits.test
    loader = DataLoader(TensorDataset(train.inputs(), train.target), 128, shuffle=True)
    options = {"epochs": epochs, "clip": 1.0, "seed": 0}  # KD can have large gradients

    teacher = my_net(32, seed=0)
    fit(teacher, loader, **options)
    print(f"teacher: {metrics.accuracy(teacher, test):.1%} of the test images right")

    kd = CrossEntropy() + 3.0 * LogitKD(temperature=4)
    objectives = {
        "alone": CrossEntropy(),
        "logits": kd,
        "logits and hint": kd + FeatureHint("5", seed=0),
    }
    for name, objective in objectives.items():
        student, source = my_net(4, seed=1), teacher if objective.needs_teacher else None
        fit(student, loader, objective, teacher=source, **options)
        print(f"{name}: {metrics.accuracy(student, test):.1%} of the test images right")
    return student


if __name__ == "__main__":
    main()
