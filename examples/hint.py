"""Hints (FitNets): a middle layer of the student predicts a middle layer of the teacher.

Where sizes do not match, a convolution projects the student's features to the teacher's, and L2
compares them. FitNets first trains up to that layer, then the whole net; or both at the same time.

Paper: Romero et al. 2015, arXiv 1412.6550.
Run: python examples/hint.py
Prints the test accuracy of a student alone, with the hint in two stages, and jointly, with as many
epochs each; then what ten seeds showed (claims hint and hint-stages).
"""

from kdcourse import (
    CrossEntropy,
    FeatureHint,
    claims,
    data,
    fit,
    fit_in_stages,
    metrics,
    models,
    teachers,
)


def main(images=4000, epochs=10, hint_epochs=5):
    """Train alone, in two stages, and jointly; return the joint student."""
    splits = data.fashion_mnist()
    train, test = splits.train[:images], splits.test
    teacher = teachers.pretrained("res16")
    both = hint_epochs + epochs

    alone = models.by_name("res8", seed=0)
    fit(alone, train, epochs=both, seed=0)

    staged, hint = models.by_name("res8", seed=0), 10.0 * FeatureHint("stage2", seed=0)
    stages = {"hint_epochs": hint_epochs, "epochs": epochs}
    fit_in_stages(staged, train, hint, CrossEntropy(), teacher=teacher, seed=0, **stages)

    joint = models.by_name("res8", seed=0)
    objective = CrossEntropy() + 10.0 * FeatureHint("stage2", seed=0)  # 16 → 32 channels
    fit(joint, train, objective, teacher=teacher, epochs=both, seed=0)

    for name, net in {"alone": alone, "in two stages": staged, "jointly": joint}.items():
        print(f"{name}: {metrics.accuracy(net, test):.1%} of the test images right")
    told = claims.load("hint"), claims.load("hint-stages")
    print("\nMean of seeds [95 % interval]:", *told, sep="\n")
    return joint


if __name__ == "__main__":
    main()
