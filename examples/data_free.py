"""Data-free KD (DAFL): nothing is left but the teacher, and no image to distil on.

A generator learns to make images of which the teacher is sure, all classes equally often, and whose
statistics are those that its batch norm remembers. The student learns from these.

Paper: Chen et al. 2019, arXiv 1904.01186; its use of statistics: Yin et al. 2020, arXiv 1912.08795.
Run: python examples/data_free.py
Prints the test accuracy of the teacher, and of students that saw noise only, or generated images
only, as many of them; then what five seeds showed (claim data-free).
"""

import torch

from kdcourse import LogitKD, claims, data, fit, metrics, models, teachers
from kdcourse.further import GeneratedImages, Generator


def main(images=6400, epochs=6):
    """Teach by noise and by generated images, `images` an epoch; return the latter's student."""
    test = data.fashion_mnist().test  # to judge by: no image is trained on
    teacher = teachers.pretrained("res16-augmented")
    print(f"teacher: {metrics.accuracy(teacher, test):.1%} of the test images right")

    steps, draw = images // 128, data.replay(seed=0)
    unknown = torch.full((128,), -1)  # no label
    noise = [(torch.randn(128, 1, 28, 28, generator=draw), unknown) for _ in range(steps)]
    generated = GeneratedImages(
        Generator(width=8, seed=0),
        teacher,
        "embedding",  # the layer that is to be active
        batch_size=128,
        steps=steps,
        learning_rate=0.01,
        statistics=30,
        seed=0,
    )
    for name, lessons in {"noise": noise, "generated images": generated}.items():
        student = models.by_name("res8", seed=0)
        fit(student, lessons, LogitKD(temperature=4), teacher=teacher, epochs=epochs, seed=0)
        print(f"{name}: {metrics.accuracy(student, test):.1%} of the test images right")
    print("\nMean of seeds [95 % interval]:", claims.load("data-free"), sep="\n")
    return student


if __name__ == "__main__":
    main()
