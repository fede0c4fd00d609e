"""Decoupled KD (DKD): logit distillation in two parts, each with a weight of its own.

One part compares how sure both are of the true class, the other how the remaining classes share the
rest. In plain KD a sure teacher mutes the second part, where its dark knowledge is.

Paper: Zhao et al. 2022, arXiv 2203.08679.
Run: python examples/dkd.py
Prints the test accuracy of a student alone, by KD and by decoupled KD, both with the weights that
did best on validation data; then what five seeds showed (claim newer-logit).
"""

from kdcourse import (
    CrossEntropy,
    DecoupledKD,
    LogitKD,
    claims,
    data,
    fit,
    metrics,
    models,
    teachers,
)


def main(images=4000, epochs=10):
    """Train the same student by three objectives, and return the one taught by decoupled KD."""
    splits = data.fashion_mnist()
    train, test = splits.train[:images], splits.test
    teacher = teachers.pretrained("res16")

    objectives = {
        "alone": CrossEntropy(),
        "KD": CrossEntropy() + 3.0 * LogitKD(temperature=4),
        "decoupled KD": CrossEntropy() + 0.09 * DecoupledKD(alpha=1, beta=8, temperature=4),
    }
    for name, objective in objectives.items():
        student, source = models.by_name("res8", seed=0), teacher if name != "alone" else None
        fit(student, train, objective, teacher=source, epochs=epochs, seed=0)
        print(f"{name}: {metrics.accuracy(student, test):.1%} of the test images right")
    print("\nMean of seeds [95 % interval]:", claims.load("newer-logit"), sep="\n")
    return student


if __name__ == "__main__":
    main()
