"""Deep mutual learning: two students distil from each other while both learn, without a teacher.

On every batch, each learns from the labels and from what the other predicts at that moment. The two
may have different architectures.

Paper: Zhang et al. 2018, arXiv 1706.00384.
Run: python examples/mutual.py
Prints the test accuracy of two students that learn alone, and of the same two that learn together;
then what ten seeds showed (claim mutual).
"""

from kdcourse import CrossEntropy, LogitKD, claims, data, fit, metrics, models, teachers


def main(images=4000, epochs=10):
    """Train two students alone and two together; return the first of the latter."""
    splits = data.fashion_mnist()
    train, test = splits.train[:images], splits.test

    loners = [models.by_name("res8", seed=seed) for seed in (0, 1)]
    for net in loners:
        fit(net, train, epochs=epochs, seed=0)

    peers = [models.by_name("res8", seed=seed) for seed in (0, 1)]
    objective = CrossEntropy() + LogitKD(temperature=1)  # the paper's: no temperature, weight 1
    teachers.mutual_learning(peers, train, objective, epochs=epochs, seed=0)

    for name, nets in {"alone": loners, "together": peers}.items():
        for number, net in enumerate(nets, start=1):
            score = metrics.accuracy(net, test)
            print(f"{name}, student {number}: {score:.1%} of the test images right")
    print("\nMean of seeds [95 % interval]:", claims.load("mutual"), sep="\n")
    return peers[0]


if __name__ == "__main__":
    main()
