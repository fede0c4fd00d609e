"""What nets answer on a set of images: every image is read once, and shown to all of them."""

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from kdcourse.checks import are_probabilities, check_logits, check_matrix, check_target
from kdcourse.errors import ArgumentError
from kdcourse.metrics import Samples, answered, check_numbers, in_batches
from kdcourse.models import capture

TEACHER = "teacher"  # the name among nets of the one that taught them
SHOWN = 1000  # images kept, to compare exported nets on


@dataclass(frozen=True)
class Answers:
    """What nets answer on N images, on the CPU.

    Attributes:
        logits: Logits ``(N, K)`` by net; of a teacher that shows probabilities, their logarithms.
        embeddings: Embeddings ``(N, D)`` by net, of those that have the layer.
        target: Class indices ``(N,)``.
        inputs: The first of the inputs, ``(M, C, H, W)``.
    """

    logits: dict[str, Tensor]
    embeddings: dict[str, Tensor]
    target: Tensor
    inputs: Tensor


def answers(
    nets: Mapping[str, nn.Module],
    samples: Samples,
    name: str,
    layers: Mapping[str, str] | None = None,
    *,
    progress: bool = False,
) -> Answers:
    """Show images to nets.

    Args:
        nets: Nets by name.
        samples: Images with labels, as for :func:`kdcourse.metrics.predict`.
        name: What the samples are called in errors.
        layers: The layer of each net whose outputs are kept, if it has it.
        progress: Whether to show a progress bar.

    Raises:
        ArgumentError: These are no image classifiers, no images, or images without labels.
    """
    logits: dict[str, list[Tensor]] = {net: [] for net in nets}
    embeddings: dict[str, list[Tensor]] = {}
    targets: list[Tensor] = []
    inputs: list[Tensor] = []
    with ExitStack() as hooks:
        shown = _watched(nets, layers or {}, hooks)
        batches = in_batches(samples, name=name)
        for batch, target in tqdm(batches, f"{name} images", disable=not progress, leave=False):
            labels = _checked(batch, target, name)
            for net, model in nets.items():
                logits[net].append(_logits(net, model, batch, labels, name))
                if net in shown:
                    (embedding,) = shown[net].values()
                    embeddings.setdefault(net, []).append(embedding.flatten(1).float().cpu())
            targets.append(labels.cpu())
            if sum(len(one) for one in inputs) < SHOWN:
                inputs.append(batch.cpu())
    if not targets:
        raise ArgumentError(name, f"{name} must hold at least one image")
    return Answers(
        {net: torch.cat(parts) for net, parts in logits.items()},
        {net: torch.cat(parts) for net, parts in embeddings.items()},
        torch.cat(targets),
        torch.cat(inputs)[:SHOWN],
    )


def _watched(
    nets: Mapping[str, nn.Module], layers: Mapping[str, str], hooks: ExitStack
) -> dict[str, dict[str, Tensor]]:
    """Record the layer of each net that has it."""
    shown = {}
    for net, layer in layers.items():
        with suppress(ArgumentError):  # it has no such layer
            shown[net] = hooks.enter_context(capture(nets[net], [layer]))
    return shown


def _checked(batch: object, target: object, name: str) -> Tensor:
    """Require images, and return their labels."""
    if not isinstance(batch, Tensor) or batch.dim() != 4:
        got = tuple(batch.shape) if isinstance(batch, Tensor) else f"a {type(batch).__name__}"
        raise ArgumentError(
            name,
            f"{name} must hold images (N, C, H, W), got {got}: a report is for image classifiers",
        )
    if not isinstance(target, Tensor):
        raise ArgumentError(name, f"{name} must have labels, got images alone")
    return target


def _logits(net: str, model: nn.Module, batch: Tensor, target: Tensor, name: str) -> Tensor:
    """Return the logits ``(N, K)`` of a net for one batch, on the CPU."""
    who = TEACHER if net == TEACHER else "student"
    called = who if net == who else f"{who} {net!r}"
    ((outputs, _, _),) = answered(model, [(batch, target)], name=name, who=called)
    argument = f"the outputs of the {called}"
    check_matrix(argument, outputs)
    check_numbers(who, argument, outputs)
    check_target(target, len(outputs), outputs.shape[1], f"the target of {name}")
    found = outputs.float().cpu()
    if who == TEACHER and are_probabilities(found):
        return found.clamp_min(torch.finfo(torch.float32).tiny).log()
    check_logits(who, f"the {called}", found)
    return found
