"""Few labels: where labelled images are few, a teacher's soft predictions replace many of them.

The student sees 100 images. Their labels say little; what the teacher thinks of them says more. And
a teacher can be asked about images that nobody has labelled.

Paper: Hinton, Vinyals, Dean 2015, arXiv 1503.02531, section 6.
Run: python examples/few_labels.py
Prints the test accuracy from 100 labels, from 100 labels and the teacher, and with 4,000 images
without a label too. The teacher itself learned from 4,000 labels. What ten seeds showed of few
images follows (claim few-labels); the last student is measured by no claim.
"""

from kdcourse import CrossEntropy, LogitKD, claims, data, fit, metrics, models, teachers


def main(images=4000, epochs=10):
    """Train from labels, with the teacher, and with unlabelled images too; return the last."""
    splits = data.fashion_mnist()
    train, test = splits.train[:images], splits.test
    teacher = teachers.pretrained("res16")
    few = train.subset(100, seed=0, balanced=True)
    kd = CrossEntropy() + 3.0 * LogitKD(temperature=4)
    long = {"epochs": 10 * epochs, "batch_size": 32, "seed": 0}  # few images are soon seen

    alone = models.by_name("plain8", seed=0)
    fit(alone, few, **long)

    distilled = models.by_name("plain8", seed=0)
    fit(distilled, few, kd, teacher=teacher, **long)

    more = models.by_name("plain8", seed=0)
    mixed = few + train.unlabelled()  # the cross-entropy passes over what has no label
    fit(more, mixed, kd, teacher=teacher, epochs=epochs, seed=0)

    nets = {"100 labels": alone, "100 labels + teacher": distilled, "+ unlabelled images": more}
    for name, net in nets.items():
        print(f"{name}: {metrics.accuracy(net, test):.1%} of the test images right")
    print("\nMean of seeds [95 % interval]:", claims.load("few-labels"), sep="\n")
    return more


if __name__ == "__main__":
    main()
