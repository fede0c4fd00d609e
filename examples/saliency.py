"""Saliency: student and teacher should base their predictions on the same pixels.

The gradient of the true class's log-probability with respect to the input says which pixels matter.
The student's gradient is made to point where the teacher's does, by differentiating it once more.

Paper: Zagoruyko, Komodakis 2017, arXiv 1612.03928, section 3.2.
Run: python examples/saliency.py
Prints, for a student alone and for one with saliency matched, the test accuracy and how
similar its gradients are to the teacher's (cosine, 1 is the same); then what ten seeds showed
(claim saliency).
"""

import torch

from kdcourse import CrossEntropy, Saliency, claims, data, fit, metrics, models, teachers
from kdcourse.feature import input_gradient


def gradients(net, images):
    """Return the input gradient of every image, one a row."""
    rows = input_gradient(net.eval(), images.inputs(), images.target).flatten(1)
    return torch.nn.functional.normalize(rows.double(), dim=1, eps=1e-300)  # some are tiny


def main(images=4000, epochs=10):
    """Train a student alone and with saliency matched, and return the latter."""
    splits = data.fashion_mnist()
    train, test = splits.train[:images], splits.test
    teacher = teachers.pretrained("res16")

    alone = models.by_name("res8", seed=0)
    fit(alone, train, epochs=epochs, seed=0)

    matched = models.by_name("res8", seed=0)
    objective = CrossEntropy() + 1.0 * Saliency()
    fit(matched, train, objective, teacher=teacher, epochs=epochs, seed=0)

    few = test[:500]
    for name, net in {"alone": alone, "saliency": matched}.items():
        alike = (gradients(net, few) * gradients(teacher, few)).sum(dim=1).mean()
        print(f"{name}: {metrics.accuracy(net, test):.1%} of the test images right,", end=" ")
        print(f"cosine of input gradients with the teacher's {alike:.2f}")
    print("\nMean of seeds [95 % interval]:", claims.load("saliency"), sep="\n")
    return matched


if __name__ == "__main__":
    main()
