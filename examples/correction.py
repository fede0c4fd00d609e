"""Teacher correction: a teacher that was trained on other data is first fine-tuned on yours.

Here the images to distil on come from another camera, with half the contrast and noise. The student
sees no label, only what the teacher makes of them, so that the teacher's errors become its own.

Paper: Sreenivas et al. 2024, arXiv 2408.11796, section 3.1.
Run: python examples/correction.py
Prints, on test images of the other camera, the accuracy of teacher and student: with the original
teacher, with one corrected before, and with one corrected meanwhile; then what ten seeds
showed (claim correction).
"""

from kdcourse import LogitKD, claims, data, fit, metrics, models, teachers
from kdcourse.course.claims.online import shifted


def main(images=4000, epochs=5):
    """Distil from the original and from corrected teachers; return the last student."""
    splits = data.fashion_mnist()
    others = splits.train[4000 : 4000 + images]  # not those that the teacher learned from
    others = shifted(others, contrast=0.5, noise=0.1, seed=0)
    test = shifted(splits.test, contrast=0.5, noise=0.1, seed=1)
    original = teachers.pretrained("res16")

    corrected = teachers.correct(original, others, epochs=epochs, seed=0)
    for name, teacher in {"original": original, "corrected before": corrected}.items():
        student = models.by_name("plain8", seed=1)
        fit(student, others, LogitKD(temperature=4), teacher=teacher, epochs=epochs, seed=0)
        scores = [metrics.accuracy(net, test) for net in (teacher, student)]
        print("{}: teacher {:.1%}, its student {:.1%} right".format(name, *scores))

    student = models.by_name("plain8", seed=1)
    learning, _ = teachers.correct_online(
        original, student, others, LogitKD(temperature=4), epochs=epochs, seed=0
    )
    scores = [metrics.accuracy(net, test) for net in (learning, student)]
    print("corrected meanwhile: teacher {:.1%}, its student {:.1%} right".format(*scores))
    print("\nMean of seeds [95 % interval]:", claims.load("correction"), sep="\n")
    return student


if __name__ == "__main__":
    main()
