"""Logit distillation: the student learns to predict what its teacher predicts, doubts included.

Both predictions are softened by a temperature and compared by KL; that is added to the loss on
labels with a weight. It is the lecture's formula, and where every other scheme starts from.

Paper: Hinton, Vinyals, Dean 2015, arXiv 1503.02531.
Run: python examples/logit.py
Prints size and test accuracy of the teacher, of a student alone, and of the same student with the
teacher. One seed proves nothing: what ten seeds showed follows (claim kd-gain).
"""

from kdcourse import CrossEntropy, LogitKD, claims, data, fit, metrics, models, teachers


def main(images=4000, epochs=10):
    """Train a student alone and with a teacher, and return the latter."""
    splits = data.fashion_mnist()
    train, test = splits.train[:images], splits.test
    teacher = teachers.pretrained("res16")

    alone = models.by_name("plain8", seed=0)
    fit(alone, train, epochs=epochs, seed=0)

    distilled = models.by_name("plain8", seed=0)  # from the same initial weights
    objective = CrossEntropy() + 3.0 * LogitKD(temperature=4)
    fit(distilled, train, objective, teacher=teacher, epochs=epochs, seed=0)

    for name, net in {"teacher": teacher, "alone": alone, "distilled": distilled}.items():
        size, score = models.count_parameters(net), metrics.accuracy(net, test)
        print(f"{name}: {size} parameters, {score:.1%} of the test images right")
    print("\nMean of seeds [95 % interval]:", claims.load("kd-gain"), sep="\n")
    return distilled


if __name__ == "__main__":
    main()
