"""A student with one weight, judged on two inputs: small enough to draw all that it can be.

Notebook 1 shows on it how a teacher removes a bad minimum, or leads into one.
"""

import numpy as np


def functions(weights: np.ndarray) -> np.ndarray:
    """Return what students with weights w ``(P,)`` say on the inputs, ``(P, 2)``: w, ½ cos 2.2w."""
    return np.stack([weights, 0.5 * np.cos(2.2 * weights)], axis=-1)


def labels_loss(functions: np.ndarray) -> np.ndarray:
    """Return the loss on the labels of functions ``(…, 2)``, in nats.

    Both inputs belong to class 1. The values are logits, of which the second counts double.
    """
    return np.log1p(np.exp(-functions * (1, 2))).sum(axis=-1)


def dist(functions: np.ndarray, teacher: tuple[float, float]) -> np.ndarray:
    """Return the squared distance of functions ``(…, 2)`` to a teacher's values."""
    return np.square(functions - np.asarray(teacher)).sum(axis=-1)


def descend(weights: np.ndarray, loss: np.ndarray, start: float) -> float:
    """Go downhill along a loss ``(P,)`` from a weight, and return the weight where it ends."""
    place = int(np.abs(weights - start).argmin())
    while 0 < place < len(loss) - 1 and loss[place] > min(loss[place - 1], loss[place + 1]):
        place += 1 if loss[place + 1] < loss[place - 1] else -1
    return float(weights[place])
