"""Plain PyTorch: distillation in a training loop of your own, by one function of tensors.

`kd_loss(student_logits, teacher_logits, temperature)` is all that a loop needs. The teacher is in
eval mode and asked without gradients; the factor τ² is in the loss.

Paper: Hinton, Vinyals, Dean 2015, arXiv 1503.02531.
Run: python examples/plain_pytorch.py
Prints the test accuracy of a student alone and of the same student with the teacher; then what ten
seeds showed, trained by the course's own loop with the same settings (claim kd-gain).
"""

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from kdcourse import claims, data, metrics, models, teachers
from kdcourse.logit import kd_loss


def train(student, loader, epochs, teacher=None):
    """Train a student on labels and, if there is one, on what the teacher predicts."""
    weights = student.parameters()
    optimizer = torch.optim.SGD(weights, 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = epochs * len(loader)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    student.train()
    for _ in range(epochs):
        for inputs, target in loader:
            logits = student(inputs)
            loss = cross_entropy(logits, target)
            if teacher is not None:
                with torch.no_grad():
                    theirs = teacher(inputs)
                loss = loss + 3.0 * kd_loss(logits, theirs, temperature=4)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def main(images=4000, epochs=10):
    """Train a student alone and with a teacher, and return the latter."""
    splits = data.fashion_mnist()
    seen = TensorDataset(splits.train[:images].inputs(), splits.train[:images].target)
    for name, teacher in {"alone": None, "distilled": teachers.pretrained("res16").eval()}.items():
        student, order = models.by_name("plain8", seed=0), data.replay(seed=0)
        train(student, DataLoader(seen, 128, shuffle=True, generator=order), epochs, teacher)
        print(f"{name}: {metrics.accuracy(student, splits.test):.1%} of the test images right")
    print("\nMean of seeds [95 % interval]:", claims.load("kd-gain"), sep="\n")
    return student


if __name__ == "__main__":
    main()
