"""Patience: distillation goes on gaining for many epochs, so it must be cheap to be patient.

The teacher is asked about every crop once; its answers are cached and reused in all later runs.
With `checkpoint="run.pt"`, fit resumes a long run that was stopped.

Paper: Beyer et al. 2022, arXiv 2106.05237.
Run: python examples/patience.py
Prints the test accuracy after 15, 60 and 240 epochs of 500 images, on labels and from the teacher
without labels, and the time an epoch takes; then what ten seeds showed for up to 480 (claim
patience).
"""

import time

from kdcourse import LogitKD, claims, data, fit, metrics, models, teachers, tips
from kdcourse.augmentation import crop_flip


def main(images=500, epochs=15):
    """Train for longer and longer, on labels and from cached lessons; return the last student."""
    splits = data.fashion_mnist()
    few, test = splits.train[:images], splits.test
    teacher, crops = teachers.pretrained("res16-augmented"), crop_flip((0.3, 1.0))
    lessons = teachers.CachedLessons(
        teacher, few, views=tips.Consistent(crops), epochs=16 * epochs, seed=0
    )

    for budget in (epochs, 4 * epochs, 16 * epochs):
        alone = models.by_name("plain8", seed=0)
        fit(alone, few, augment=crops, epochs=budget, seed=0)

        student, start = models.by_name("plain8", seed=0), time.perf_counter()
        options = {"epochs": budget, "weight_decay": 1e-4, "seed": 0}
        fit(student, lessons, LogitKD(temperature=4), teacher=lessons.teacher, **options)
        cost = 1000 * (time.perf_counter() - start) / budget

        scores = [metrics.accuracy(net, test) for net in (alone, student)]
        print("{} epochs: labels {:.1%}, teacher {:.1%} right,".format(budget, *scores), end=" ")
        print(f"{cost:.0f} ms an epoch with the teacher")
    print("\nMean of seeds [95 % interval]:", claims.load("patience"), sep="\n")
    return student


if __name__ == "__main__":
    main()
