"""Pruning with a teacher: the dense model teaches its own pruned copy.

All but the largest 3 % of the weights become zero and stay zero. What that costs is won back by
training on, with labels, or with the dense model as a teacher as well.

Paper: Han et al. 2015, arXiv 1506.02626 (pruning); the teacher is the lecture's.
Run: python examples/pruned.py
Prints test accuracy, non-zero parameters and size of the dense model, and of the pruned one as it
is, retrained on labels, and taught; then what ten seeds showed (claim pruned).
"""

from kdcourse import CrossEntropy, LogitKD, claims, data, fit, metrics, models, teachers


def main(images=4000, epochs=5):
    """Prune, retrain on labels and with the dense teacher; return the taught model."""
    splits = data.fashion_mnist()
    train, test = splits.train[:images], splits.test
    dense = teachers.pretrained("res16")

    as_it_is, by_labels, taught = (teachers.prune(dense, sparsity=0.97) for _ in range(3))
    options = {"epochs": epochs, "learning_rate": 0.02, "seed": 0}  # a fifth of the usual rate
    fit(by_labels, train, **options)
    kd = CrossEntropy() + 3.0 * LogitKD(temperature=4)
    fit(taught, train, kd, teacher=dense, **options)

    nets = {"dense": dense, "pruned": as_it_is, "retrained": by_labels, "taught": taught}
    for name, net in nets.items():
        kept, size = teachers.count_nonzero(net), teachers.size_on_disk(net) / 1000
        print(f"{name}: {metrics.accuracy(net, test):.1%} of the test images right,", end=" ")
        print(f"{kept} of {models.count_parameters(dense)} parameters, {size:.0f} kB")
    print("\nMean of seeds [95 % interval]:", claims.load("pruned"), sep="\n")
    return taught


if __name__ == "__main__":
    main()
