"""Relational KD (RKD): not where the teacher puts a sample, but how samples are arranged.

The distances between all pairs of a batch, in units of their mean, and the angles of all triplets
are made the same in both embeddings, whose sizes may differ.

Paper: Park et al. 2019, arXiv 1904.05068.
Run: python examples/relational.py
Prints, for a student alone and for one with relations, the test accuracy, how often the nearest
neighbour is of the same class, and the correlation of distances with the teacher's; then what ten
seeds showed (claims structure and pros-cons).
"""

from kdcourse import (
    CrossEntropy,
    RKDAngle,
    RKDDistance,
    claims,
    data,
    fit,
    metrics,
    models,
    teachers,
)


def main(images=4000, epochs=10):
    """Train a student alone and with the teacher's relations, and return the latter."""
    splits = data.fashion_mnist()
    train, test = splits.train[:images], splits.test
    teacher = teachers.pretrained("res16")

    alone = models.by_name("res8", seed=0)
    fit(alone, train, epochs=epochs, seed=0)

    related = models.by_name("res8", seed=0)
    objective = CrossEntropy() + 10.0 * RKDDistance() + 20.0 * RKDAngle()
    fit(related, train, objective, teacher=teacher, epochs=epochs, seed=0)

    few = test[:500]
    for name, net in {"alone": alone, "relations": related}.items():
        z, theirs = metrics.embed(net, few), metrics.embed(teacher, few)
        print(f"{name}: {metrics.accuracy(net, test):.1%} of the test images right,", end=" ")
        print(f"nearest neighbour {metrics.recall_at(1, z, few.target):.1%},", end=" ")
        print(f"correlation of distances {metrics.distance_correlation(z, theirs):.2f}")
    told = claims.load("structure"), claims.load("pros-cons")
    print("\nMean of seeds [95 % interval]:", *told, sep="\n")
    return related


if __name__ == "__main__":
    main()
