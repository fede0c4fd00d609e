"""Students and teachers: the small nets of the course and the CIFAR nets of the literature.

Nothing in the package needs these classes: any ``nn.Module`` that maps a batch to logits works
wherever one of ours does. What a model computes besides its logits is captured by the name of a
layer (:func:`capture`), in our models as in anyone else's.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcourse.batch import blaming_argument
from kdcourse.checks import check_choice, check_module, check_number, check_positive
from kdcourse.errors import ArgumentError, ArgumentTypeError
from kdcourse.modes import evaluation_mode
from kdcourse.signatures import check_is, checked


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


def _conv3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)


def _conv_norm_relu(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        _conv3(channels_in, channels_out, stride), nn.BatchNorm2d(channels_out), nn.ReLU()
    )


@checked
class PadShortcut(nn.Module):
    """The parameter-free shortcut of the CIFAR ResNets: subsample, and pad channels with zeros."""

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        check_positive(channels_in=channels_in, channels_out=channels_out, stride=stride)
        self.extra = channels_out - channels_in
        self.stride = stride

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, C', H/stride, W/stride)``."""
        half = self.extra // 2
        kept = features[:, :, :: self.stride, :: self.stride]
        return F.pad(kept, (0, 0, 0, 0, half, self.extra - half))


@checked
class ResidualBlock(nn.Module):
    """``relu(x + conv(relu(conv(x))))``, with batch norm after each convolution (He 2015)."""

    def __init__(
        self, channels_in: int, channels_out: int, stride: int = 1, shortcut: str = "projection"
    ):
        super().__init__()
        check_positive(channels_in=channels_in, channels_out=channels_out, stride=stride)
        check_choice("shortcut", shortcut, ("projection", "pad"))
        self.residual = nn.Sequential(
            *_conv_norm_relu(channels_in, channels_out, stride),
            _conv3(channels_out, channels_out),
            nn.BatchNorm2d(channels_out),
        )
        if stride == 1 and channels_in == channels_out:
            self.shortcut: nn.Module = nn.Identity()
        elif shortcut == "pad":
            self.shortcut = PadShortcut(channels_in, channels_out, stride)
        else:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, C', H/stride, W/stride)``."""
        return F.relu(self.shortcut(features) + self.residual(features))


@checked
class WideBlock(nn.Module):
    """Pre-activation block of the wide ResNets: batch norm and ReLU before each convolution."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1, dropout: float = 0.0):
        super().__init__()
        check_positive(channels_in=channels_in, channels_out=channels_out, stride=stride)
        check_number("dropout", dropout, 0.0, 1.0)
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


def _stages(block: Block, before: int, width: int, blocks: int) -> list[nn.Sequential]:
    """Build three stages of ``blocks`` blocks, as wide as ``width`` times 1, 2 and 4."""
    stages = []
    for wide, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
        layers = [block(before, wide, stride)]  # the only one to change channels and size
        layers += [block(wide, wide, 1) for _ in range(blocks - 1)]
        stages.append(nn.Sequential(*layers))
        before = wide
    return stages


def _net(
    block: Block,
    width: int,
    depth: int,
    channels: int,
    classes: int,
    seed: int | None,
    initialization: str,
    stem_stride: int = 2,
) -> ConvNet:
    check_positive(width=width, depth=depth, channels=channels, classes=classes)
    with seeded(seed):
        stem = _conv_norm_relu(channels, width, stem_stride)
        stages = _stages(block, width, width, depth)
        return _started(ConvNet(stem, stages, nn.Linear(4 * width, classes)), initialization)


def _started(net: ConvNet, initialization: str) -> ConvNet:
    """Let a net start from the weights it was made with, or its convolutions from He's."""
    check_choice("initialization", initialization, ("pytorch", "he"))
    if initialization == "he":
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


@checked
def plain(
    width: int,
    depth: int = 1,
    *,
    channels: int = 1,
    classes: int = 10,
    seed: int | None = None,
    initialization: str = "pytorch",
) -> ConvNet:
    """Build a plain convolutional net without shortcuts, the course's small student.

    Args:
        width: Number of channels of the first stage; the others have twice and four times as many.
        depth: Number of 3×3 convolutions per stage.
        channels: Number of channels of the images.
        classes: Number of classes K.
        seed: Seed of the initial weights; without one, torch's global generator draws them.
        initialization: ``"pytorch"`` leaves the initial weights to PyTorch, which draws those of a
            convolution with a deviation of 1/√(3·C·k²), for C channels of its input and a kernel of
            k × k pixels. ``"he"`` draws them as the literature's CIFAR nets do: normally, with a
            deviation of √(2/(C'·k²)) for C' channels of its output, which is √6 = 2.45 times as
            large where C = C'. Batch norm starts as the identity either way.

    Source: of ``"he"``, He et al. 2015 (arXiv 1502.01852), section 2.2, for the backward pass.
    """
    return _net(_conv_norm_relu, width, depth, channels, classes, seed, initialization)


@checked
def residual(
    width: int,
    depth: int = 1,
    *,
    channels: int = 1,
    classes: int = 10,
    seed: int | None = None,
    initialization: str = "pytorch",
) -> ConvNet:
    """Build the same net from residual blocks of two convolutions each, ``depth`` per stage.

    The arguments are those of :func:`plain`.
    """
    return _net(ResidualBlock, width, depth, channels, classes, seed, initialization)


@checked
def resnet(
    depth: int,
    *,
    channels: int = 3,
    classes: int = 100,
    shortcut: str = "projection",
    seed: int | None = None,
    initialization: str = "pytorch",
) -> ConvNet:
    """Build a CIFAR ResNet of depth 6n + 2 (8, 14, 20, 32, 44, 56, 110).

    Args:
        depth: Number of layers with weights.
        shortcut: ``"projection"``, as in the distillation literature, or ``"pad"``, the
            parameter-free shortcut of the original paper.
        channels, classes, seed, initialization: As for :func:`plain`.

    Source: He et al. 2015 (arXiv 1512.03385), section 4.2.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ArgumentError(
            "depth", f"depth of a CIFAR ResNet must be 6n + 2 (8, 14, 20, …), got {depth}"
        )
    block = partial(ResidualBlock, shortcut=shortcut)
    blocks = (depth - 2) // 6
    return _net(block, 16, blocks, channels, classes, seed, initialization, stem_stride=1)


@checked
def wide_resnet(
    depth: int,
    widen: int,
    *,
    channels: int = 3,
    classes: int = 100,
    dropout: float = 0.0,
    seed: int | None = None,
    initialization: str = "pytorch",
) -> ConvNet:
    """Build WRN-``depth``-``widen``, a wide residual net of depth 6n + 4 (16, 22, 28, 40).

    Args:
        depth: Number of convolutions.
        widen: Factor by which the widths 16, 32, 64 are multiplied.
        dropout: Probability of dropping an activation inside each block.
        channels, classes, seed, initialization: As for :func:`plain`.

    Source: Zagoruyko, Komodakis 2016 (arXiv 1605.07146).
    """
    check_positive(widen=widen, channels=channels, classes=classes)
    if depth < 10 or (depth - 4) % 6:
        raise ArgumentError(
            "depth", f"depth of a wide ResNet must be 6n + 4 (16, 22, 28, …), got {depth}"
        )
    check_number("dropout", dropout, 0.0, 1.0)

    width = 16 * widen
    with seeded(seed):
        stages = _stages(partial(WideBlock, dropout=dropout), 16, width, (depth - 4) // 6)
        stages[-1].extend([nn.BatchNorm2d(4 * width), nn.ReLU()])
        net = ConvNet(_conv3(channels, 16), stages, nn.Linear(4 * width, classes))
        return _started(net, initialization)


_FAMILIES: dict[str, Callable[..., ConvNet]] = {
    r"plain(\d+)": plain,
    r"res(\d+)": residual,
    r"resnet(\d+)": resnet,
    r"wrn-(\d+)-(\d+)": wide_resnet,
}


@checked
def by_name(
    name: str,
    *,
    channels: int = 1,
    classes: int = 10,
    seed: int | None = None,
    initialization: str = "pytorch",
) -> ConvNet:
    """Build a model from its short name: ``plain8``, ``res16``, ``resnet20`` or ``wrn-16-2``.

    Args:
        name: Family and size: the width of ``plain`` and ``res``, the depth of ``resnet``, the
            depth and the widening of ``wrn``.
        channels, classes, seed, initialization: As for :func:`plain`.
    """
    for pattern, build in _FAMILIES.items():
        if found := re.fullmatch(pattern, name, re.ASCII):
            return build(
                *map(int, found.groups()),
                channels=channels,
                classes=classes,
                seed=seed,
                initialization=initialization,
            )
    raise ArgumentError(
        "name",
        f"unknown model {name!r}; name must be plain<width>, res<width>, resnet<depth> or "
        "wrn-<depth>-<widen>, such as plain8, res16, resnet20, wrn-16-2",
    )


@checked
def count_parameters(model: nn.Module) -> int:
    """Count the trainable parameters of a model."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@checked
def multiply_adds(model: nn.Module, inputs: Tensor) -> int:
    """Count the multiply–adds of a forward pass, half of what torch counts as operations.

    Counted are convolutions, products of matrices and attention, in which nearly all operations
    are; normalisation, activations and pooling are not.

    Args:
        model: Any module; its mode and its running statistics stay as they are.
        inputs: Inputs ``(N, …)``, of one sample for the count per sample.

    Raises:
        ValueError: The model fails on these inputs.
    """
    from torch.utils.flop_counter import FlopCounterMode  # a third of a second

    counter = FlopCounterMode(display=False)
    failing = blaming_argument("inputs", f"calling {type(model).__name__} with inputs")
    with failing, evaluation_mode(model), torch.no_grad(), counter:
        model(inputs)
    return counter.get_total_flops() // 2


@contextmanager
def capture(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Record the outputs of the named layers of any model while it runs.

    >>> with capture(net, ["layer1", "avgpool"]) as shown:   # torchvision's ResNet-18, say
    ...     logits = net(images)
    >>> shown["layer1"].shape                                # (N, C, H, W)

    An output is recorded as the layer returned it, also where an in-place module
    (``nn.ReLU(inplace=True)``) overwrites it afterwards: there it is copied. Of a layer that
    returns several things (a tuple, a list, a dictionary), the first tensor is recorded, or the
    one that is told: ``encoder.layer.-1.attention.self[1]`` are the attention matrices of a BERT
    (which returns them where ``attn_implementation="eager"``).

    Args:
        model: Any module.
        layers: Names of layers, as in ``model.named_modules()``. A negative number counts what the
            module before it contains, from the end: ``encoder.layer.-1`` is a transformer's last
            layer. ``[1]`` at the end is the second of several things that a layer returns.
            ``layer4|fc`` is the logit map of a net that averages over all positions before its
            linear layer ``fc``: what that makes of the features ``(N, C, …)`` of ``layer4`` at
            each position, ``(N, K, …)``.

    Yields:
        A dictionary that holds, after each forward pass, the output of every named layer.

    Raises:
        ValueError: The model has no such layer (the message names the closest ones it has), calls
            it more than once in a pass or not at all, or overwrites its output by code of its own.
        TypeError: The output of a layer is, and holds, no tensor.
    """
    check_module("model", model)
    if layers != ():  # each step asks, most of them for nothing
        check_is("layers", layers, Sequence[str])
    layers = list(dict.fromkeys(layers))  # each once
    recorder = _Recorder(type(model).__name__, layers)
    modules = dict(model.named_modules()) if layers else {}
    found = {name: [_layer(model, one, modules) for one in name.split("|")] for name in layers}
    with ExitStack() as hooks:
        if layers:
            with blaming_argument("layers", f"watching layers of {type(model).__name__}"):
                hooks.enter_context(model.register_forward_pre_hook(recorder.start))
                for name in layers:
                    layer, *behind = found[name]
                    record = partial(recorder.record, name=name, behind=behind)
                    hooks.enter_context(layer.register_forward_hook(record))
                for module in modules.values():
                    if getattr(module, "inplace", False):
                        hooks.enter_context(module.register_forward_pre_hook(recorder.keep))
                hooks.enter_context(model.register_forward_hook(recorder.finish))
        yield recorder.shown


def _layer(model: nn.Module, name: str, modules: Mapping[str, nn.Module]) -> nn.Module:
    """Find a layer by its name, in which a negative number counts from the end."""
    path = _ENTRY.sub("", name)
    if path in modules:  # one that is shared has one name only
        return modules[path]
    layer: nn.Module | None = model
    for part in path.split("."):
        children = dict(layer.named_children()) if layer is not None else {}
        layer = children.get(part)
        if re.fullmatch(r"-[1-9]\d*", part, re.ASCII) and -int(part) <= len(children):
            layer = [*children.values()][int(part)]
    if layer is None:
        close = difflib.get_close_matches(name, modules, n=3) or list(modules)[1:9]
        raise ArgumentError(
            "layers",
            f"{type(model).__name__} has no layer {name!r}; among its layers are: "
            + ", ".join(close),
        )
    return layer


_ENTRY = re.compile(r"\[(\d+)\]$", re.ASCII)


def _entry(output: object, name: str) -> object:
    """Return what a layer returned, or that entry of it which its name tells, if there is one."""
    told = _ENTRY.search(name.partition("|")[0])
    if told is None:
        return output
    several = [*output.values()] if isinstance(output, Mapping) else output
    number = int(told[1])
    whole = isinstance(several, tuple | list) and number < len(several)
    return several[number] if whole else None  # type: ignore[index]


def _first_tensor(output: object) -> Tensor | None:
    """Return the first tensor of what a layer returned, which may be, or be in, a tuple or dict."""
    if isinstance(output, Tensor):
        return output
    if not isinstance(output, Mapping | tuple | list):
        return None
    several = output.values() if isinstance(output, Mapping) else output
    return next((one for one in map(_first_tensor, several) if one is not None), None)


class _Recorder:
    """The outputs of layers, and how often each of it was changed in place since."""

    def __init__(self, model: str, layers: Sequence[str]):
        self.model, self.layers = model, layers
        self.shown: dict[str, Tensor] = {}
        self.versions: dict[str, int] = {}  # of the outputs of the present pass
        self.running = False

    def start(self, *_: object) -> None:
        self.shown.clear()
        self.versions.clear()
        self.running = True

    def record(
        self,
        module: nn.Module,
        inputs: object,
        output: object,
        name: str,
        behind: Sequence[nn.Module] = (),
    ) -> None:
        shown = _first_tensor(_entry(output, name))
        if shown is None:
            raise ArgumentTypeError(
                "layers", f"layer {name!r} returns a {type(output).__name__}, which holds no tensor"
            )
        for layer in behind:
            shown = _at_positions(layer, shown, name)
        if torch.compiler.is_compiling() or shown.is_inference():
            # Compiled, a copy that is not needed costs nothing; in inference mode, nobody counts.
            self.shown[name] = shown.clone()
            return
        if self.running and name in self.versions:
            raise ArgumentError(
                "layers",
                f"{self.model} calls the layer {name!r} more than once: its outputs cannot be told "
                "apart, name a layer that is called once",
            )
        self.shown[name], self.versions[name] = shown, shown._version

    def keep(self, module: nn.Module, inputs: tuple[object, ...]) -> None:
        """Copy what a module is about to overwrite."""
        places = {_place(one) for one in inputs if isinstance(one, Tensor)}
        for name in self.versions:
            if _place(self.shown[name]) in places:
                self.check_unchanged(name)
                self.shown[name] = self.shown[name].clone()
                self.versions[name] = self.shown[name]._version

    def finish(self, *_: object) -> None:
        self.running = False
        for name in self.layers:
            if name not in self.shown:
                raise ArgumentError(
                    "layers",
                    f"{self.model} has a layer {name!r}, but did not call it (or was compiled, and "
                    "keeps to a graph without it): name another layer, or take the plain model",
                )
        for name in self.versions:
            self.check_unchanged(name)

    def check_unchanged(self, name: str) -> None:
        """Refuse what code of the model's own has overwritten."""
        if self.shown[name]._version != self.versions[name]:
            raise ArgumentError(
                "layers",
                f"{self.model} changes the output of the layer {name!r} in place (x += y, or "
                "F.relu(x, inplace=True)): name another layer, or write x = x + y",
            )


def _at_positions(layer: nn.Module, features: Tensor, name: str) -> Tensor:
    """Apply a linear layer to the channels of features ``(N, C, …)``, whoever watches it."""
    if not isinstance(layer, nn.Linear) or features.shape[1:2] != (layer.in_features,):
        raise ArgumentError(
            "layers",
            f"what stands behind | in {name!r} must be a linear layer of as many inputs as the "
            f"features (N, C, …) before it have channels, got {layer} and {tuple(features.shape)}",
        )
    return layer.forward(features.movedim(1, -1)).movedim(-1, 1)


def _place(tensor: Tensor) -> int:
    """Where a tensor, or the one that it is a view of, lies in memory."""
    return tensor.untyped_storage().data_ptr()


@contextmanager
@checked
def seeded(seed: int | None) -> Iterator[None]:
    """Draw initial weights from a seed without disturbing torch's global generator."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
