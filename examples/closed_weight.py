"""Closed-weight teacher: a model behind a service that shows probabilities, and nothing else.

Logit distillation needs no more: probabilities are logits up to a constant. It works even where the
service shows only the three largest, and rounds them.

Paper: Hinton, Vinyals, Dean 2015, arXiv 1503.02531; the closed teacher is the lecture's.
Run: python examples/closed_weight.py
Prints the test accuracy of a student alone, and taught by a service that shows all probabilities,
or three of them with two decimals; then what ten seeds showed (claim closed-weight).
"""

from kdcourse import CrossEntropy, LogitKD, claims, data, fit, metrics, models, teachers


def main(images=500, epochs=40):
    """Train from labels and from two services; return the student of the stingier one."""
    splits = data.fashion_mnist()
    few, test = splits.train[:4000].subset(images, seed=0, balanced=True), splits.test
    hidden = teachers.pretrained("res16")
    options = {"epochs": epochs, "batch_size": 32, "seed": 0}

    student = models.by_name("plain8", seed=0)
    fit(student, few, **options)
    print(f"alone: {metrics.accuracy(student, test):.1%} of the test images right")

    services = {
        "all probabilities": teachers.ClosedTeacher(hidden),
        "top 3, 2 decimals": teachers.ClosedTeacher(hidden, top_k=3, decimals=2),
    }
    kd = CrossEntropy() + 3.0 * LogitKD(temperature=4)
    for name, service in services.items():
        student = models.by_name("plain8", seed=0)
        fit(student, few, kd, teacher=service, **options)
        print(f"{name}: {metrics.accuracy(student, test):.1%} of the test images right")
    print("\nMean of seeds [95 % interval]:", claims.load("closed-weight"), sep="\n")
    return student


if __name__ == "__main__":
    main()
