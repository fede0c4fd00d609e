"""The form of all our nets, and with it the names of their layers."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from kdcourse.errors import ArgumentError
from kdcourse.signatures import checked


@checked
class StagedNet(nn.Module):
    """A stem, stages one behind the other, an embedding and a linear classifier.

    Layers to capture: ``stem``, ``stage1``, ``stage2`` … (features), ``embedding`` (``(N, D)``) and
    ``classifier`` (logits, ``(N, K)``). Before its last ReLU, a stage of residual blocks is
    ``stage1.-1.sum``, one that ends with batch norm and ReLU ``stage1.-2``.
    """

    def __init__(
        self, stem: nn.Module, stages: Sequence[nn.Module], embedding: nn.Module, head: nn.Linear
    ):
        super().__init__()
        if not stages:
            raise ArgumentError("stages", "stages must hold at least one module")
        self.stem = stem
        self.stages = len(stages)
        for number, stage in enumerate(stages, start=1):
            self.add_module(f"stage{number}", stage)
        self.embedding = embedding
        self.classifier = head
        self.classes = head.out_features

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, C, H, W)`` to logits ``(N, K)``."""
        features = self.stem(images)
        for number in range(1, self.stages + 1):
            features = getattr(self, f"stage{number}")(features)
        return self.classifier(self.embedding(features))


@checked
class ConvNet(StagedNet):
    """A convolutional net: its features ``(N, C, H, W)`` are averaged over all positions."""

    def __init__(self, stem: nn.Module, stages: Sequence[nn.Module], head: nn.Linear):
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(stem, stages, pooled, head)

    def halves(self) -> tuple[nn.Sequential, nn.Sequential]:
        """Return what makes features ``(N, C, H, W)`` of images, and logits of features."""
        stages = ((f"stage{n}", getattr(self, f"stage{n}")) for n in range(1, self.stages + 1))
        body = OrderedDict([("stem", self.stem), *stages])
        head = OrderedDict(embedding=self.embedding, classifier=self.classifier)
        return nn.Sequential(body), nn.Sequential(head)
