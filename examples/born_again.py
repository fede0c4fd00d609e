"""Born-again nets: a net teaches another of the same size, which teaches the next.

This is self-distillation: the first generation learns from labels, every later one only from what
the one before it predicts. In the end all generations together form an ensemble.

Paper: Furlanello et al. 2018, arXiv 1805.04770.
Run: python examples/born_again.py
Prints the test accuracy of every generation and of the ensemble of all; then what ten families
showed (claim born-again).
"""

from kdcourse import claims, data, metrics, models, teachers


def main(images=4000, epochs=10):
    """Train three generations, and return the last."""
    splits = data.fashion_mnist()
    train, test = splits.train[:images], splits.test

    family = teachers.born_again(
        lambda seed: models.by_name("res8", seed=seed),
        train,
        generations=3,
        epochs=epochs,
        seed=1,
    )

    for number, net in enumerate(family, start=1):
        print(f"generation {number}: {metrics.accuracy(net, test):.1%} of the test images right")
    together = metrics.accuracy(teachers.Ensemble(family), test)
    print(f"all together: {together:.1%} of the test images right")
    print("\nMean of seeds [95 % interval]:", claims.load("born-again"), sep="\n")
    return family[-1]


if __name__ == "__main__":
    main()
