"""The form of the convolutional nets, and with it the names of their layers."""

from collections.abc import Sequence

from torch import Tensor, nn

from kdcourse.errors import ArgumentError
from kdcourse.signatures import checked


@checked
class ConvNet(nn.Module):
    """A stem, three stages, global mean pooling and a linear classifier.

    Layers to capture: ``stem``, ``stage1`` … ``stage3`` (features, ``(N, C, H, W)``),
    ``embedding`` (``(N, D)``) and ``classifier`` (logits, ``(N, K)``).
    """

    def __init__(self, stem: nn.Module, stages: Sequence[nn.Module], head: nn.Linear):
        super().__init__()
        if len(stages) != 3:
            raise ArgumentError("stages", f"stages must be three modules, got {len(stages)}")
        self.stem = stem
        for number, stage in enumerate(stages, start=1):
            self.add_module(f"stage{number}", stage)
        self.embedding = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = head
        self.classes = head.out_features

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, C, H, W)`` to logits ``(N, K)``."""
        features = self.stem(images)
        for number in (1, 2, 3):
            features = getattr(self, f"stage{number}")(features)
        return self.classifier(self.embedding(features))
