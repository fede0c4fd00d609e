"""Quantisation with a teacher: the full-precision model teaches its own copy of 2-bit weights.

A weight of 2 bits takes one of three values, inputs of layers have 8 bits. Training goes on through
the rounding (quantisation-aware), with labels, or with the original model as a teacher as well.

Paper: Jacob et al. 2018, arXiv 1712.05877 (quantisation); the teacher is the lecture's.
Run: python examples/quantized.py
Prints test accuracy and size of the original, and of the quantised model as it is, retrained on
labels, and taught; then what ten seeds showed (claim quantized).
"""

from kdcourse import CrossEntropy, LogitKD, claims, data, fit, metrics, teachers


def main(images=4000, epochs=5):
    """Quantise, retrain on labels and with the original as teacher; return the taught model."""
    splits = data.fashion_mnist()
    train, test = splits.train[:images], splits.test
    original = teachers.pretrained("res16")

    as_it_is, by_labels, taught = (teachers.quantize(original, bits=2) for _ in range(3))
    options = {"epochs": epochs, "learning_rate": 0.02, "seed": 0}  # a fifth of the usual rate
    fit(by_labels, train, **options)
    kd = CrossEntropy() + 3.0 * LogitKD(temperature=4)
    fit(taught, train, kd, teacher=original, **options)

    nets = {"original": original, "2 bits": as_it_is, "retrained": by_labels, "taught": taught}
    for name, net in nets.items():
        size = teachers.size_on_disk(net) / 1000
        print(f"{name}: {metrics.accuracy(net, test):.1%} of the test images right, {size:.0f} kB")
    print("\nMean of seeds [95 % interval]:", claims.load("quantized"), sep="\n")
    return taught


if __name__ == "__main__":
    main()
