"""Mean Teacher: where labels are few, a student learns from its own average under other noise.

100 images have labels. On 4,000 others, student and average see different crops and noise of the
same image, and the student is to predict what the average predicts.

Paper: Tarvainen, Valpola 2017, arXiv 1703.01780.
Run: python examples/mean_teacher.py
Prints the test accuracy of a student of 100 labels, of one that went on learning from them for as
many steps, and of Mean Teacher's average; then what ten seeds showed (claim mean-teacher).
"""

import copy

from kdcourse import CrossEntropy, LogitKD, claims, data, fit, metrics, models, teachers, tips
from kdcourse.augmentation import Compose, Flip, Noise, PadCrop


def main(images=4000, epochs=15):
    """Train from few labels, longer, and by Mean Teacher; return the average."""
    splits = data.fashion_mnist()
    unlabelled, test = splits.train[:images].unlabelled(), splits.test
    few = splits.train.subset(100, seed=0, balanced=True)
    noise = Compose(PadCrop(2), Flip(), Noise(0.1))

    def by_labels(epochs):
        net = models.by_name("res8", seed=0)
        fit(net, few, augment=noise, epochs=epochs, batch_size=32, seed=0)
        return net

    start, longer = by_labels(20 * epochs), by_labels(30 * epochs)

    student = copy.deepcopy(start)
    average = teachers.MomentumTeacher(student, 0.99)
    mixed = unlabelled
    for _ in range(images // 400):  # a fifth of every batch, on average, has labels
        mixed = mixed + few
    objective, views = CrossEntropy() + 3.0 * LogitKD(temperature=1), tips.Independent(noise)
    options = {"epochs": epochs, "learning_rate": 0.03, "seed": 0}
    fit(student, mixed, objective, teacher=average, views=views, **options)

    nets = {"100 labels": start, "100 labels, longer": longer, "Mean Teacher": average}
    for name, net in nets.items():
        print(f"{name}: {metrics.accuracy(net, test):.1%} of the test images right")
    print("\nMean of seeds [95 % interval]:", claims.load("mean-teacher"), sep="\n")
    return average


if __name__ == "__main__":
    main()
