"""Teacher assistant: a net of intermediate size learns from the teacher and teaches the student.

A teacher that is much larger than its student may ask too much of it; the assistant is to bridge
the gap. The chain may have any length.

Paper: Mirzadeh et al. 2020, arXiv 1902.03393.
Run: python examples/assistant.py
Prints parameters and test accuracy of the teacher, of the assistant, and of a student of 536
parameters: alone, taught directly, and through the assistant. What ten seeds showed
of large teachers and of assistants follows (claims too-large and assistant).
"""

from kdcourse import CrossEntropy, LogitKD, claims, data, fit, metrics, models, teachers


def main(images=4000, epochs=10):
    """Train alone, directly and through an assistant; return the last student."""
    splits = data.fashion_mnist()
    train, test = splits.train[:images], splits.test
    large = teachers.pretrained("res16")
    kd = CrossEntropy() + 3.0 * LogitKD(temperature=4)

    alone = models.by_name("plain2", seed=1)
    fit(alone, train, epochs=epochs, seed=0)

    direct = models.by_name("plain2", seed=1)
    fit(direct, train, kd, teacher=large, epochs=epochs, seed=0)

    assistant, small = models.by_name("res8", seed=1), models.by_name("plain2", seed=1)
    teachers.distill_through(large, [assistant], small, train, kd, epochs=epochs, seed=0)

    nets = {"teacher": large, "assistant": assistant}
    nets |= {"alone": alone, "directly": direct, "through the assistant": small}
    for name, net in nets.items():
        size, score = models.count_parameters(net), metrics.accuracy(net, test)
        print(f"{name}: {size} parameters, {score:.1%} of the test images right")
    told = claims.load("too-large"), claims.load("assistant")
    print("\nMean of seeds [95 % interval]:", *told, sep="\n")
    return small


if __name__ == "__main__":
    main()
