"""Self-supervised learning by self-distillation (DINO): no label, and no teacher but the average.

Student and average see different crops of an image and are to agree. So that they do not agree on
the same answer to everything, the average's outputs are centred and sharpened.

Paper: Caron et al. 2021, arXiv 2104.14294.
Run: python examples/self_supervised.py
Prints how many test images are named rightly by their five nearest training images, by features of
random weights and by the learned ones, and whether the outputs have collapsed; then what ten seeds
showed (claim self-supervised).
"""

from kdcourse import claims, data, metrics, models, teachers
from kdcourse.augmentation import crop_flip


def main(images=4000, epochs=10):
    """Train a net without labels, and return it."""
    splits = data.fashion_mnist()
    train, test = splits.train[:images], splits.test

    untrained = models.by_name("res8", seed=0)
    dist = teachers.SelfDistillation(centre_momentum=0.5)  # these runs are short
    learned = teachers.self_distill(
        untrained, train, augment=crop_flip(), dist=dist, epochs=epochs, seed=0
    )

    for name, net in {"random weights": untrained, "self-supervised": learned}.items():
        score = metrics.neighbour_accuracy(net, train, test)  # only here labels are looked at
        print(f"{name}: {score:.1%} of the test images right, by five neighbours")
    said = teachers.spread(dist.sharpened(metrics.predict(learned, test)))
    print(f"an output tells {said.share:.0%} of what it could; collapse: {said.collapse}")
    print("\nMean of seeds [95 % interval]:", claims.load("self-supervised"), sep="\n")
    return learned


if __name__ == "__main__":
    main()
