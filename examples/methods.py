"""The field's methods: each is a distance that stands beside the labels, as the lecture's does.

Papers are named in kdcourse/methods/, a file for each; the benchmark whose weights most have:
Tian et al. 2020, arXiv 1910.10699.
Run: python examples/methods.py
Prints the test accuracy of a student alone and with DIST, VID and CRD, or with methods whose names
follow the command (FSP's student is as wide as the teacher, as it has to be). No claim of the
lecture: docs/leaderboard.md is where they are compared, tuned alike, with ten seeds each.
"""

import sys

import kdcourse as kd
from kdcourse import data, fit, metrics, models, teachers

STAGES = ["stage1", "stage2", "stage3"]
METHODS = {
    "KD": lambda: 3 * kd.LogitKD(temperature=4),
    "MLLD": lambda: 1 * kd.MultiLevelKD(),
    "CTKD": lambda: 1 * kd.CTKD(epochs=5),
    "SDD": lambda: 0.1 * kd.ScaleDecoupledKD("stage3|classifier"),
    "DIST": lambda: 2 * kd.DIST(temperature=4),
    "TTM": lambda: 1 * kd.TTM(),
    "WTTM": lambda: 1 * kd.WTTM(),
    "DeiT": lambda: 1 * kd.HardDistillation(),
    "teacher-free": lambda: 1 * kd.TeacherFreeKD(),
    "OFA-KD": lambda: 0.3 * kd.OneForAll(STAGES),
    "CWD": lambda: 5 * kd.ChannelWise("stage3"),
    "NST": lambda: 10 * kd.NeuronSelectivity(["stage3"]),
    "FSP": lambda: 0.1 * kd.Flow(STAGES),
    "VID": lambda: 1 * kd.VariationalInformation("stage3"),
    "ReviewKD": lambda: 1 * kd.KnowledgeReview([*STAGES, "embedding"]),
    "VkD": lambda: 5 * kd.OrthogonalProjection("embedding"),
    "ND": lambda: 1 * kd.NormAndDirection("embedding"),
    "PKT": lambda: 100 * kd.Neighbours(),
    "CC": lambda: 10 * kd.CorrelationCongruence(),
    "CRD": lambda: 0.3 * kd.CRD(memory=2048),
}
FIRST = "DIST", "VID", "CRD"


def main(names=FIRST, images=4000, epochs=10):
    """Train a student alone and by each method, and return the last one."""
    splits = data.fashion_mnist()
    train, test = splits.train[:images], splits.test
    teacher = teachers.pretrained("res16")
    for name in ("alone", *names):
        student = models.by_name("plain16" if name == "FSP" else "res8", seed=0)
        method = METHODS.get(name)
        objective = kd.CrossEntropy() + method() if method else kd.CrossEntropy()
        asked = teacher if objective.needs_teacher else None
        fit(student, train, objective, teacher=asked, epochs=epochs, seed=0)
        print(f"{name}: {metrics.accuracy(student, test):.1%} of the test images right")
    return student


if __name__ == "__main__":
    main(sys.argv[1:] or FIRST)
