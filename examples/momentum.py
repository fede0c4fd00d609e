"""Momentum teacher: the exponential moving average of the student's own weights.

It follows the student after every step. Here the learning rate never falls, so that the student
never settles, and nobody learns from the average yet: see mean_teacher.py and self_supervised.py.

Paper: Tarvainen, Valpola 2017, arXiv 1703.01780.
Run: python examples/momentum.py
Prints the validation accuracy of both after every epoch, and the test accuracy of both in the end;
then what ten seeds showed (claim momentum).
"""

from kdcourse import claims, data, fit, metrics, models, teachers
from kdcourse.training import constant


def main(images=4000, epochs=10):
    """Train a student that its average follows, and return the average."""
    splits = data.fashion_mnist()
    train, test = splits.train[:images], splits.test

    student = models.by_name("plain8", seed=1)
    average = teachers.MomentumTeacher(student, teachers.mean_teacher_momentum(0.98))
    history = fit(
        student,
        train,
        teacher=average,  # there is no term that listens to it: it only follows
        epochs=epochs,
        learning_rate=0.05,
        scheduler=constant,
        validation=splits.validation[:2000],
        seed=0,
    )

    for row in history.rows:
        own, mean = row["validation_accuracy"], row["teacher_validation_accuracy"]
        print(f"epoch {row['epoch']}: validation, student {own:.1%}, average {mean:.1%}")
    for name, net in {"student": student, "its average": average}.items():
        print(f"{name}: {metrics.accuracy(net, test):.1%} of the test images right")
    print("\nMean of seeds [95 % interval]:", claims.load("momentum"), sep="\n")
    return average


if __name__ == "__main__":
    main()
