"""Ensemble teacher: several nets, averaged or by majority vote, teach one.

Nets that differ in their seeds err on different images, so that together they are better than
any one of them; distillation puts what they know into a single net.

Paper: Hinton, Vinyals, Dean 2015, arXiv 1503.02531.
Run: python examples/ensemble.py
Prints the test accuracy of three members, of the ensemble by averages and by vote, and of a student
alone and taught by it; then what ten seeds showed (claim ensemble).
"""

from kdcourse import CrossEntropy, LogitKD, claims, data, fit, metrics, models, teachers


def main(images=4000, epochs=10):
    """Train three members, a student alone and one taught by the three; return the latter."""
    splits = data.fashion_mnist()
    train, test = splits.train[:images], splits.test

    nets = {}
    for seed in (1, 2, 3):
        nets[f"member {seed}"] = models.by_name("res8", seed=seed)
        fit(nets[f"member {seed}"], train, epochs=epochs, seed=seed)
    members = list(nets.values())
    for combine in ("logits", "probabilities", "vote"):
        nets[f"ensemble by {combine}"] = teachers.Ensemble(members, combine)

    nets["student alone"] = models.by_name("res8", seed=4)
    fit(nets["student alone"], train, epochs=epochs, seed=4)

    taught = nets["student of the three"] = models.by_name("res8", seed=4)
    kd = CrossEntropy() + 3.0 * LogitKD(temperature=4)
    fit(taught, train, kd, teacher=teachers.Ensemble(members), epochs=epochs, seed=4)

    for name, net in nets.items():
        print(f"{name}: {metrics.accuracy(net, test):.1%} of the test images right")
    print("\nMean of seeds [95 % interval]:", claims.load("ensemble"), sep="\n")
    return taught


if __name__ == "__main__":
    main()
