"""A small net of tokens, and texts of many lengths for it."""

import torch
from torch import nn
from toys import CLASSES

PADDING = -100  # the target of what is no token


class Tokens(nn.Module):
    """Predicts something of every token, from it and from those before."""

    def __init__(self, width: int, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(20, width, dtype=torch.float64)
        self.classifier = nn.Linear(width, CLASSES, dtype=torch.float64)

    def forward(self, input_ids, attention_mask=None):
        return self.classifier(self.embedding(input_ids).cumsum(dim=1).tanh())


def texts(masked: bool = False) -> list:
    """Texts of many lengths, a third of whose tokens have no label, perhaps with a mask."""
    draw, found = torch.Generator().manual_seed(4), []
    for _ in range(5):
        ids, target = (torch.randint(high, (12, 9), generator=draw) for high in (20, CLASSES))
        lengths = torch.randint(1, 10, (12, 1), generator=draw)
        mask = torch.arange(9) < lengths
        unlabelled = torch.rand(12, 9, generator=draw) < 0.3
        unlabelled[:, 0] = False
        target[~mask | unlabelled] = PADDING
        found.append(({"input_ids": ids, "attention_mask": mask} if masked else ids, target))
    return found
