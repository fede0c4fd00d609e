"""What layers of any model show while it runs, by their names."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from kdcourse.batch import blaming_argument
from kdcourse.checks import check_module
from kdcourse.errors import ArgumentError, ArgumentTypeError
from kdcourse.signatures import check_is


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
    whole = isinstance(several, (tuple, list)) and number < len(several)
    return several[number] if whole else None  # type: ignore[index]


def first_tensor(output: object) -> Tensor | None:
    """Return the first tensor of what a layer returned, which may be, or be in, a tuple or dict."""
    if isinstance(output, Tensor):
        return output
    if not isinstance(output, (Mapping, tuple, list)):
        return None
    several = output.values() if isinstance(output, Mapping) else output
    return next((one for one in map(first_tensor, several) if one is not None), None)


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
        shown = first_tensor(_entry(output, name))
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
