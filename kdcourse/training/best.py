"""The best weights of a training, by validation."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from kdcourse.batch import map_tensors


class Best:
    """Keeps the weights of each student's best epoch; of several, those of the first.

    Args:
        rated: What is kept together, by the column of the history that rates it.
        lowest: Whether less is better there.
    """

    def __init__(self, rated: Mapping[str, Sequence[nn.Module]], lowest: bool = False):
        self.rated, self.sign = rated, -1 if lowest else 1
        self.weights: dict[str, list[dict[str, Any]]] = {}

    def see(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Keep the present weights if the last of the rows is better than all before."""
        for column, models in self.rated.items():
            *before, now = (self.sign * row[column] for row in rows)
            if now > max(before, default=-math.inf):
                self.weights[column] = [
                    map_tensors(torch.clone, model.state_dict()) for model in models
                ]

    def restore(self) -> None:
        """Go back to what was kept."""
        for column, kept in self.weights.items():
            for model, weights in zip(self.rated[column], kept, strict=True):
                model.load_state_dict(weights)

    def state_dict(self) -> dict[str, Any]:
        """Return what was kept."""
        return self.weights

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what was kept."""
        self.weights = state
