"""Attention transfer: the student is made to look where the teacher looks.

A layer's features are pooled over channels to a map of height × width and normalised; the distance
between the maps of student and teacher is added to the loss. Widths may differ, sizes may not.

Paper: Zagoruyko, Komodakis 2017, arXiv 1612.03928.
Run: python examples/attention.py
Prints, for a student alone and for one with attention transfer, the test accuracy and how
similar its maps are to the teacher's (cosine, 1 is the same); then what thirty seeds showed
(claim attention).
"""

import torch

from kdcourse import AttentionTransfer, CrossEntropy, claims, data, fit, metrics, models, teachers
from kdcourse.feature import attention_map

STAGES = ("stage1", "stage2", "stage3")  # names of layers, the same in both nets


def maps(net, inputs):
    """Return the attention maps of all stages, side by side."""
    with torch.no_grad(), models.capture(net.eval(), STAGES) as shown:
        net(inputs)
    return torch.cat([attention_map(features) for features in shown.values()], dim=1)


def main(images=4000, epochs=10):
    """Train a student alone and with attention transfer, and return the latter."""
    splits = data.fashion_mnist()
    train, test = splits.train[:images], splits.test
    teacher = teachers.pretrained("res16")

    alone = models.by_name("res8", seed=0)
    fit(alone, train, epochs=epochs, seed=0)

    attentive = models.by_name("res8", seed=0)
    objective = CrossEntropy() + 1.0 * AttentionTransfer(STAGES)
    fit(attentive, train, objective, teacher=teacher, epochs=epochs, seed=0)

    few = test[:500].inputs()
    for name, net in {"alone": alone, "attention": attentive}.items():
        alike = torch.cosine_similarity(maps(net, few), maps(teacher, few)).mean()
        print(f"{name}: {metrics.accuracy(net, test):.1%} of the test images right,", end=" ")
        print(f"cosine of attention maps with the teacher's {alike:.2f}")
    print("\nMean of seeds [95 % interval]:", claims.load("attention"), sep="\n")
    return attentive


if __name__ == "__main__":
    main()
