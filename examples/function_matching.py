"""Same views, function matching: teacher and student must look at the very same picture.

If a crop is shown to the student, the teacher has to judge that crop, and not the image (fixed) or
another crop (independent). Function matching also mixes two images (mixup): the student learns the
teacher's function, far from any real image.

Paper: Beyer et al. 2022, arXiv 2106.05237.
Run: python examples/function_matching.py
Prints the test accuracy of a student by what it and the teacher see, from 500 images without
labels; then what ten seeds showed (claims views and patience). Function matching takes patience:
how it does after so few epochs says little about it.
"""

from kdcourse import LogitKD, claims, data, fit, metrics, models, teachers, tips
from kdcourse.augmentation import crop_flip


def main(images=500, epochs=60):
    """Train a student by each design, and return the one of function matching."""
    splits = data.fashion_mnist()
    few, test = splits.train[:images].unlabelled(), splits.test
    teacher = teachers.pretrained("res16-augmented")
    crops = crop_flip((0.3, 1.0))  # a crop shows 30 % of an image or more

    designs = {
        "fixed": tips.FixedTeacher(crops),
        "independent": tips.Independent(crops),
        "consistent": tips.Consistent(crops),
        "function matching": tips.FunctionMatching(crops),
    }
    for name, views in designs.items():
        student = models.by_name("plain8", seed=0)
        fit(
            student,
            few,
            LogitKD(temperature=4),
            teacher=teacher,
            views=views,
            epochs=epochs,
            weight_decay=1e-4,
            seed=0,
        )
        print(f"{name}: {metrics.accuracy(student, test):.1%} of the test images right")
    told = claims.load("views"), claims.load("patience")
    print("\nMean of seeds [95 % interval]:", *told, sep="\n")
    return student


if __name__ == "__main__":
    main()
