"""A student to ship: exported by torch and as ONNX, rounded to eight bits, and compared.

>>> Path("student.onnx").write_bytes(to_onnx(student, inputs))

An exported net must compute what the net computes. So each is loaded again from its bytes, and
asked about the same inputs. ONNX needs ``pip install 'kdcourse[export]'``.
"""

import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdcourse.batch import cast_like, logits_of
from kdcourse.checks import check_floating, check_values
from kdcourse.evaluation.cost import device_of
from kdcourse.metrics import predict
from kdcourse.modes import evaluation_mode
from kdcourse.signatures import checked
from kdcourse.teachers import quantize, size_on_disk

EXTRA = "pip install 'kdcourse[export]'"
NEEDED = ("onnx", "onnxscript", "onnxruntime")  # to export, and to run what was exported


@dataclass(frozen=True)
class Exported:
    """A net in another form, compared with the net itself on some images.

    Attributes:
        bytes: Size of its file; None, as what follows, where ``note`` says why there is none.
        deviation: Largest difference of a logit.
        agreement: Share of the images on which both name the same class.
        note: How it was made, or why not.
    """

    bytes: int | None
    deviation: float | None
    agreement: float | None
    note: str


@checked
def to_torch_export(model: nn.Module, inputs: Tensor) -> bytes:
    """Return a net as a ``.pt2`` file, which ``torch.export.load`` reads; batches of any size.

    Args:
        model: Any module that ``torch.export`` can trace; it is exported in eval mode.
        inputs: Example inputs ``(N, …)``.
    """
    file = io.BytesIO()
    torch.export.save(_program(model, inputs), file)
    return file.getvalue()


@checked
def to_onnx(model: nn.Module, inputs: Tensor) -> bytes:
    """Return a net as an ``.onnx`` file; batches of any size.

    Args:
        model: Any module that ``torch.export`` can trace; it is exported in eval mode.
        inputs: Example inputs ``(N, …)``.

    Raises:
        ImportError: The extra ``export`` is not installed; the message says how to.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ImportError(f"{', '.join(missing)} missing: {EXTRA}")
    with _quiet(), evaluation_mode(model), tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.onnx"
        if torch.__version__ < "2.9":  # whose export of programs fails on batch norm
            axes = {"inputs": {0: "batch"}}
            how: dict[str, Any] = {"input_names": ["inputs"], "dynamic_axes": axes}
            torch.onnx.export(model, (_two(model, inputs),), path, dynamo=False, **how)
        else:
            program = _program(model, inputs)
            torch.onnx.export(program, (), path, dynamo=True, external_data=False)
        return Path(path).read_bytes()


class _Logits(nn.Module):
    """A net, of what it returns only the logits."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        return logits_of(self.model(inputs))


def exports_of(model: nn.Module, inputs: Tensor) -> dict[str, Exported]:
    """Export a net in every way, and compare each with the net itself on these inputs.

    What cannot be done is told in the notes.
    """
    inputs = cast_like(inputs, model)
    with evaluation_mode(model), torch.no_grad():
        if not isinstance(model(inputs[:1].to(device_of(model))), Tensor):
            model = _Logits(model)
    expected, found = predict(model, inputs).double().cpu(), {}
    for name, (way, note) in WAYS.items():
        try:
            size, outputs = way(model, inputs)
        except Exception as error:  # whatever the exporter makes of somebody's net
            words = str(error).strip().splitlines() or [type(error).__name__]
            found[name] = Exported(None, None, None, f"not exported: {words[0]}")
            continue
        outputs = outputs.double().cpu()
        same = (outputs.argmax(dim=1) == expected.argmax(dim=1)).double()
        deviation = float((outputs - expected).abs().max())
        found[name] = Exported(size, deviation, float(same.mean()), note)
    return found


def _by_torch(model: nn.Module, inputs: Tensor) -> tuple[int, Tensor]:
    written = to_torch_export(model, inputs)
    program = torch.export.load(io.BytesIO(written))
    with torch.no_grad():
        return len(written), program.module()(inputs.to(device_of(model)))


def _by_onnx(model: nn.Module, inputs: Tensor) -> tuple[int, Tensor]:
    written = to_onnx(model, inputs)
    import onnxruntime

    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {session.get_inputs()[0].name: inputs.cpu().numpy()})
    return len(written), torch.from_numpy(outputs)


def _rounded(model: nn.Module, inputs: Tensor) -> tuple[int, Tensor]:
    rounded = quantize(model)
    return size_on_disk(rounded), predict(rounded, inputs)


WAYS: dict[str, tuple[Callable[[nn.Module, Tensor], tuple[int, Tensor]], str]] = {
    "torch.export": (_by_torch, "loaded and run by torch"),
    "ONNX": (_by_onnx, "loaded and run by onnxruntime, on the CPU"),
    "int8": (
        _rounded,
        "weights rounded by channel, inputs of layers by image; computed in floating point, so "
        "that it shows what eight bits change, not how much time they save",
    ),
}


def _program(model: nn.Module, inputs: Tensor) -> torch.export.ExportedProgram:
    """Trace a net in eval mode, for batches of any size."""
    batch = {0: torch.export.Dim("batch")}
    with _quiet(), evaluation_mode(model), torch.no_grad():
        return torch.export.export(model, (_two(model, inputs),), dynamic_shapes=(batch,))


def _two(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return a batch of two: one alone would be taken for a constant."""
    check_floating("inputs", inputs)
    check_values("inputs", inputs)
    return inputs[:1].expand(2, *inputs.shape[1:]).contiguous().to(device_of(model))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep exporters from telling their progress, and from printing what they cannot trace."""
    names = ("torch.onnx", "torch.fx", "onnxscript", "onnx_ir")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    quiet = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(quiet), redirect_stderr(quiet):
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
