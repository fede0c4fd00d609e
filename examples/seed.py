"""SEED: a small model learns features from a large self-supervised one, without a label.

Such a teacher has no classes to name. What it can tell is which images resemble each other: the
student is to find an image as similar to those in a queue as the teacher does.

Paper: Fang et al. 2021, arXiv 2101.04731.
Run: python examples/seed.py
Prints how many test images are named rightly by their five nearest training images, by features of
the teacher, of random weights and of the student it taught; then what ten seeds showed (claim
seed).
"""

import torch

from kdcourse import claims, data, fit, metrics, models, teachers, tips
from kdcourse.augmentation import crop_flip
from kdcourse.further import SEED
from kdcourse.training.schedules import one_cycle


def main(images=4000, epochs=6):
    """Teach a student by similarities, and return it."""
    splits = data.fashion_mnist()
    train, test = splits.train[:images], splits.test
    teacher = teachers.pretrained("res16-unlabelled")
    untrained = models.by_name("res8", seed=0)

    student = models.by_name("res8", seed=0)
    fit(
        student,
        train.unlabelled(),
        SEED(),
        teacher=teacher,
        views=tips.Consistent(crop_flip()),
        epochs=epochs,
        batch_size=64,
        optimizer=lambda weights: torch.optim.AdamW(weights, 0.003, weight_decay=1e-4),
        scheduler=one_cycle,
        seed=0,
    )

    for name, net in {"teacher": teacher, "random": untrained, "taught": student}.items():
        score = metrics.neighbour_accuracy(net, train, test)  # only here labels are looked at
        print(f"{name}: {score:.1%} of the test images right, by five neighbours")
    print("\nMean of seeds [95 % interval]:", claims.load("seed"), sep="\n")
    return student


if __name__ == "__main__":
    main()
