"""SimKD: a student with its teacher's classifier, which learns nothing but features.

Chen et al. 2022, arXiv 2203.14001.
Run: python examples/reused_classifier.py
Prints the test accuracy of a student of labels, and of one that has seen none: a projection makes
its features as wide as the teacher's, whose classifier it keeps. No claim of the lecture:
docs/leaderboard.md is where both are tuned, with ten seeds each, and tells how large either is.
"""

from kdcourse import CrossEntropy, SimKD, data, fit, metrics, models, reuse_classifier, teachers


def main(images=4000, epochs=10):
    """Train a student on labels, and another one by SimKD, and return that."""
    splits = data.fashion_mnist()
    train, test = splits.train[:images], splits.test
    teacher = teachers.pretrained("res16")
    alone = models.by_name("res8", seed=0)
    fit(alone, train, CrossEntropy(), epochs=epochs, seed=0)
    student = reuse_classifier(models.by_name("res8", seed=0), teacher, seed=0)
    fit(student, train, SimKD(("projection", "stage3")), teacher=teacher, epochs=epochs, seed=0)
    for name, net in (("labels", alone), ("SimKD", student)):
        print(f"{name}: {metrics.accuracy(net, test):.1%} of the test images right")
    return student


if __name__ == "__main__":
    main()
