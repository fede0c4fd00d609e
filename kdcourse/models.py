"""Students and teachers: the small nets of the course and the CIFAR nets of the literature.

Nothing in the package needs these classes: any ``nn.Module`` that maps a batch to logits works
wherever one of ours does. What a model shows beside its logits is captured by layer name
(:func:`capture`), for our models and for anyone else's.
"""

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcourse.checks import check_positive


class ConvNet(nn.Module):
    """Stem, three stages, global mean pooling and a linear classifier.

    Layer names to capture: ``stem``, ``stage1`` … ``stage3`` (features, ``(N, C, H, W)``),
    ``embedding`` (``(N, D)``) and ``classifier`` (logits, ``(N, K)``).
    """

    def __init__(self, stem: nn.Module, stages: Sequence[nn.Module], head: nn.Module, classes: int):
        super().__init__()
        self.stem = stem
        for number, stage in enumerate(stages, start=1):
            self.add_module(f"stage{number}", stage)
        self.embedding = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = head
        self.classes = classes

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, C, H, W)`` to logits ``(N, K)``."""
        features = self.stem(images)
        for number in (1, 2, 3):
            features = getattr(self, f"stage{number}")(features)
        return self.classifier(self.embedding(features))


def _conv3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)


def _conv_norm_relu(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        _conv3(channels_in, channels_out, stride), nn.BatchNorm2d(channels_out), nn.ReLU()
    )


class PadShortcut(nn.Module):
    """The parameter-free shortcut of the CIFAR ResNets: subsample and pad channels with zeros."""

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        self.extra = channels_out - channels_in
        self.stride = stride

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, C', H/stride, W/stride)``."""
        half = self.extra // 2
        kept = features[:, :, :: self.stride, :: self.stride]
        return F.pad(kept, (0, 0, 0, 0, half, self.extra - half))


def _projection(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
    )


SHORTCUTS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "projection": _projection,  # a strided 1×1 convolution and batch norm
    "pad": PadShortcut,
}


class ResidualBlock(nn.Module):
    """``relu(x + conv(relu(conv(x))))``, with batch norm after each convolution (He 2015)."""

    def __init__(
        self, channels_in: int, channels_out: int, stride: int = 1, shortcut: str = "projection"
    ):
        super().__init__()
        self.residual = nn.Sequential(
            *_conv_norm_relu(channels_in, channels_out, stride),
            _conv3(channels_out, channels_out),
            nn.BatchNorm2d(channels_out),
        )
        same = stride == 1 and channels_in == channels_out
        self.shortcut = (
            nn.Identity() if same else SHORTCUTS[shortcut](channels_in, channels_out, stride)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, C', H/stride, W/stride)``."""
        return F.relu(self.shortcut(features) + self.residual(features))


class WideBlock(nn.Module):
    """Pre-activation block of the wide residual nets: norm and ReLU before each convolution."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1, dropout: float = 0.0):
        super().__init__()
        self.activate = nn.Sequential(nn.BatchNorm2d(channels_in), nn.ReLU())
        self.residual = nn.Sequential(
            *_conv_norm_relu(channels_in, channels_out, stride),
            nn.Dropout(dropout),
            _conv3(channels_out, channels_out),
        )
        same = stride == 1 and channels_in == channels_out
        self.shortcut: nn.Module | None = (
            None if same else nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, C', H/stride, W/stride)``."""
        active = self.activate(features)
        kept = features if self.shortcut is None else self.shortcut(active)
        return kept + self.residual(active)


Block = Callable[[int, int, int], nn.Module]


def _stages(
    block: Block, width: int, widths: Sequence[int], blocks: int, strides: Sequence[int]
) -> list[nn.Module]:
    """Stages of ``blocks`` blocks each; only the first of a stage changes width and size."""
    stages: list[nn.Module] = []
    for wide, stride in zip(widths, strides, strict=True):
        layers = [block(width, wide, stride)]
        layers += [block(wide, wide, 1) for _ in range(blocks - 1)]
        stages.append(nn.Sequential(*layers))
        width = wide
    return stages


def _course_net(
    block: Block, width: int, depth: int, channels: int, classes: int, seed: int | None
) -> ConvNet:
    check_positive(width=width, depth=depth, channels=channels, classes=classes)
    with seeded(seed):
        return ConvNet(
            stem=_conv_norm_relu(channels, width, stride=2),
            stages=_stages(block, width, (width, 2 * width, 4 * width), depth, (1, 2, 2)),
            head=nn.Linear(4 * width, classes),
            classes=classes,
        )


def plain(
    width: int, depth: int = 1, *, channels: int = 1, classes: int = 10, seed: int | None = None
) -> ConvNet:
    """Build a plain convolutional net without shortcuts, the course's small student.

    Args:
        width: channels of the first stage; the others have twice and four times as many.
        depth: 3×3 convolutions per stage.
        channels: channels of the images.
        classes: number of classes K.
        seed: seed of the initial weights; without one, torch's global generator draws them.
    """
    return _course_net(_conv_norm_relu, width, depth, channels, classes, seed)


def residual(
    width: int, depth: int = 1, *, channels: int = 1, classes: int = 10, seed: int | None = None
) -> ConvNet:
    """Build the same net with residual blocks (two convolutions each), ``depth`` per stage.

    Arguments as in :func:`plain`.
    """
    return _course_net(ResidualBlock, width, depth, channels, classes, seed)


def resnet(
    depth: int,
    *,
    channels: int = 3,
    classes: int = 100,
    shortcut: str = "projection",
    seed: int | None = None,
) -> ConvNet:
    """Build a CIFAR ResNet of depth 6n + 2 (8, 14, 20, 32, 44, 56, 110).

    Args:
        depth: number of weighted layers.
        channels: channels of the images.
        classes: number of classes K.
        shortcut: ``"projection"``, as the distillation literature trains them, or ``"pad"``, the
            parameter-free shortcut of the original paper.
        seed: seed of the initial weights.

    Source: He et al. 2015 (arXiv 1512.03385), section 4.2.
    """
    check_positive(channels=channels, classes=classes)
    if not isinstance(depth, int) or depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth of a CIFAR ResNet must be 6n + 2 (8, 14, 20, …), got {depth}")
    if shortcut not in SHORTCUTS:
        raise ValueError(f"shortcut must be one of {', '.join(SHORTCUTS)}, got {shortcut!r}")

    def block(channels_in: int, channels_out: int, stride: int) -> nn.Module:
        return ResidualBlock(channels_in, channels_out, stride, shortcut)

    with seeded(seed):
        return ConvNet(
            stem=_conv_norm_relu(channels, 16),
            stages=_stages(block, 16, (16, 32, 64), (depth - 2) // 6, (1, 2, 2)),
            head=nn.Linear(64, classes),
            classes=classes,
        )


def wide_resnet(
    depth: int,
    widen: int,
    *,
    channels: int = 3,
    classes: int = 100,
    dropout: float = 0.0,
    seed: int | None = None,
) -> ConvNet:
    """Build WRN-``depth``-``widen``, a wide residual net of depth 6n + 4 (16, 22, 28, 40).

    Args:
        depth: number of convolutions.
        widen: factor on the widths 16, 32, 64.
        channels: channels of the images.
        classes: number of classes K.
        dropout: probability of dropping an activation inside each block.
        seed: seed of the initial weights.

    Source: Zagoruyko, Komodakis 2016 (arXiv 1605.07146).
    """
    check_positive(widen=widen, channels=channels, classes=classes)
    if not isinstance(depth, int) or depth < 10 or (depth - 4) % 6:
        raise ValueError(f"depth of a wide ResNet must be 6n + 4 (16, 22, 28, …), got {depth}")

    def block(channels_in: int, channels_out: int, stride: int) -> nn.Module:
        return WideBlock(channels_in, channels_out, stride, dropout)

    widths = (16 * widen, 32 * widen, 64 * widen)
    with seeded(seed):
        stages = _stages(block, 16, widths, (depth - 4) // 6, (1, 2, 2))
        stages[-1].extend([nn.BatchNorm2d(widths[-1]), nn.ReLU()])  # type: ignore[operator]
        return ConvNet(
            stem=_conv3(channels, 16),
            stages=stages,
            head=nn.Linear(widths[-1], classes),
            classes=classes,
        )


_FAMILIES: dict[str, Callable[..., ConvNet]] = {"plain": plain, "res": residual, "resnet": resnet}


def by_name(name: str, *, channels: int = 1, classes: int = 10, seed: int | None = None) -> ConvNet:
    """Build a model from its short name: ``plain8``, ``res16``, ``resnet20`` or ``wrn-16-2``.

    Args:
        name: family and size: width of ``plain`` and ``res``, depth of ``resnet``, depth and
            widening of ``wrn``.
        channels: channels of the images.
        classes: number of classes K.
        seed: seed of the initial weights.
    """
    family, size = name.rstrip("0123456789"), name[len(name.rstrip("0123456789")) :]
    if family in _FAMILIES and size:
        return _FAMILIES[family](int(size), channels=channels, classes=classes, seed=seed)
    parts = name.split("-")
    if parts[0] == "wrn" and len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
        depth, widen = int(parts[1]), int(parts[2])
        return wide_resnet(depth, widen, channels=channels, classes=classes, seed=seed)
    raise ValueError(
        f"unknown model {name!r}; names are plain<width>, res<width>, resnet<depth>, "
        "wrn-<depth>-<widen>, such as plain8, res16, resnet20, wrn-16-2"
    )


def count_parameters(model: nn.Module) -> int:
    """Count the trainable parameters of a model."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@contextmanager
def capture(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Record what the named layers of any model put out while it runs.

    >>> with capture(net, ["layer1", "avgpool"]) as shown:   # torchvision's ResNet-18, say
    ...     logits = net(images)
    >>> shown["layer1"].shape                                # (N, C, H, W)

    Args:
        model: any module.
        layers: names as in ``model.named_modules()``.

    Yields:
        A dictionary that holds, after each forward pass, every named layer's output.

    Raises:
        ValueError: a layer that the model does not have, with the closest names it has.
        TypeError: a layer whose output is not a tensor.
    """
    shown: dict[str, Tensor] = {}
    modules = dict(model.named_modules()) if layers else {}
    handles = []
    try:
        for name in layers:
            if name not in modules:
                raise ValueError(_no_such_layer(model, name, list(modules)))

            def record(module: nn.Module, inputs: object, output: object, name: str = name) -> None:
                if not isinstance(output, Tensor):
                    kind = type(output).__name__
                    raise TypeError(f"layer {name!r} puts out a {kind}, not a tensor")
                shown[name] = output

            handles.append(modules[name].register_forward_hook(record))
        yield shown
    finally:
        for handle in handles:
            handle.remove()


def _no_such_layer(model: nn.Module, name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=3) or [n for n in names if n][:8]
    kind = type(model).__name__
    return f"{kind} has no layer {name!r}; among its layers are: {', '.join(close)}"


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw initial weights from a seed without disturbing torch's global generator."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
