r"""Further readings: distilling self-supervised models (SEED), and without any data (DAFL).

**SEED.** A teacher that was trained without labels has no classes to be sure of. What it can tell
is which other images an image resembles: similarities to a queue of embeddings it has seen before.

.. math:: -\sum_j p_T^{(j)} \log p_S^{(j)}, \qquad
          p^{(j)} = softmax_j\big(\langle z, d_j \rangle / \tau\big)

>>> fit(student, images.unlabelled(), SEED(), teacher=teacher, views=Consistent(augment))

**DAFL.** All that is left is the teacher. A generator learns to make images of which the teacher is
sure, all classes equally often; the student is taught on these (:class:`GeneratedImages`).

>>> generated = GeneratedImages(Generator(), teacher, layer="embedding")
>>> fit(student, generated, LogitKD(4), teacher=teacher)
"""

import math
from collections.abc import Callable, Iterator
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcourse.batch import call
from kdcourse.checks import (
    check_floating,
    check_integer,
    check_matrix,
    check_number,
    check_positive,
    check_same_device,
    check_same_samples,
    check_same_shape,
    check_temperature,
)
from kdcourse.errors import ArgumentError, ArgumentTypeError, NotFiniteError
from kdcourse.grid import check_channels
from kdcourse.models import capture, seeded
from kdcourse.modes import evaluation_mode
from kdcourse.objective import Layer, LayerTerm, Lesson
from kdcourse.precision import at_least_float32, inner_products, unit_rows
from kdcourse.processes import all_samples
from kdcourse.signatures import checked
from kdcourse.training.teacher import Teacher


def seed_loss(
    student_embeddings: Tensor,
    teacher_embeddings: Tensor,
    queue: Tensor,
    *,
    student_temperature: float = 0.2,
    teacher_temperature: float = 0.01,
) -> Tensor:
    """Compare whom two models find similar: cross-entropy over a queue and the image itself.

    Args:
        student_embeddings: ``(N, D)``.
        teacher_embeddings: ``(N, D)``; each is also the first one its image is compared with.
        queue: ``(Q, D)``, earlier embeddings of the teacher.
        student_temperature: τ_S > 0.
        teacher_temperature: τ_T > 0.

    Returns:
        Scalar, the mean over N. All embeddings are brought to unit length first.

    Source: Fang et al. 2021 (arXiv 2101.04731), eq. 5 and 6. The authors' code has the same mean,
    with τ_T = 10⁻⁴ by default.
    """
    check_matrix("student_embeddings", student_embeddings, "D")
    check_matrix("teacher_embeddings", teacher_embeddings, "D")
    check_matrix("queue", queue, "D", least=0)
    check_same_shape(
        "student_embeddings", student_embeddings, "teacher_embeddings", teacher_embeddings
    )
    check_same_device("queue", queue, "student_embeddings", student_embeddings)
    if queue.shape[1] != student_embeddings.shape[1]:
        raise ArgumentError(
            "queue",
            f"queue must hold embeddings of length {student_embeddings.shape[1]}, "
            f"got {tuple(queue.shape)}",
        )
    check_temperature(student_temperature, "student_temperature")
    check_temperature(teacher_temperature, "teacher_temperature")
    student = unit_rows(at_least_float32(student_embeddings))
    teacher = unit_rows(at_least_float32(teacher_embeddings.detach()))
    others = unit_rows(at_least_float32(queue.detach()))

    def similarities(own: Tensor) -> Tensor:
        """To the teacher's own embedding of the image, then to the queue: ``(N, 1 + Q)``."""
        return torch.cat(
            [(own * teacher).sum(dim=1, keepdim=True), inner_products(own, others)], dim=1
        )

    p = (similarities(teacher) / teacher_temperature).softmax(dim=1)
    log_p = (similarities(student) / student_temperature).log_softmax(dim=1)
    return -(p * log_p).sum(dim=1).mean()


@checked
class SEED(LayerTerm):
    """:func:`seed_loss` on a layer, with its queue and a projection to the teacher's width.

    Widths that are not given are those of what the two nets show on the first batch. The
    temperatures are those of the loss.

    Args:
        student_width: Length of the student's embedding.
        teacher_width: D, the length of the teacher's.
        layer: Name of the layer that outputs the embedding ``(N, …)``, or the student's name for
            it and the teacher's.
        hidden: Width of the projection's hidden layer; its weights are trained with the student.
        length: Length Q of the queue, which starts with random directions.
        seed: Seed of the projection's weights and of the first queue; that of the training by
            default, or 0 where the widths are given.
    """

    def __init__(
        self,
        student_width: int | None = None,
        teacher_width: int | None = None,
        *,
        layer: Layer = "embedding",
        hidden: int = 128,
        length: int = 2048,
        student_temperature: float = 0.2,
        teacher_temperature: float = 0.01,
        seed: int | None = None,
    ):
        super().__init__([layer])
        check_positive(hidden=hidden, length=length)
        for name, width in (("student_width", student_width), ("teacher_width", teacher_width)):
            if width is not None:
                check_positive(**{name: width})
        check_temperature(student_temperature, "student_temperature")
        check_temperature(teacher_temperature, "teacher_temperature")
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature
        self._widths, self._hidden, self._length = (student_width, teacher_width), hidden, length
        self._seed = seed
        self.projection: nn.Sequential | None = None
        self.register_buffer("queue", None)
        self.queue: Tensor | None
        self.prepared = False
        if student_width is not None and teacher_width is not None:
            self._size(student_width, teacher_width, seed or 0)

    def prepare(self, lesson: Lesson, *, seed: int = 0, steps_an_epoch: int | None = None) -> None:
        """Make the projection and the queue as wide as what both nets show."""
        ((student, teacher),) = self.shown(lesson)
        shown = [features[0].numel() for features in (student, teacher)]
        own, theirs = (given or found for given, found in zip(self._widths, shown, strict=True))
        self._size(own, theirs, seed if self._seed is None else self._seed)
        self.to(student.device, at_least_float32(student).dtype)

    def _size(self, student_width: int, teacher_width: int, seed: int) -> None:
        with seeded(seed):
            self.projection = nn.Sequential(
                nn.Linear(student_width, self._hidden),
                nn.ReLU(),
                nn.Linear(self._hidden, teacher_width),
            )
            self.queue = torch.randn(self._length, teacher_width)
        self.prepared = True

    def loss(self, lesson: Lesson) -> Tensor:
        """Return the loss, then move the teacher's embeddings into the queue."""
        if self.queue is None:
            self.prepare(lesson)
        assert self.queue is not None
        assert self.projection is not None
        ((student, teacher),) = self.shown(lesson)
        own, taught = student.flatten(1), teacher.flatten(1)
        check_channels("student_embeddings", own, self.projection[0].in_features)  # type: ignore[arg-type]
        value = seed_loss(
            self.projection(own.to(self.queue.dtype)),
            taught,
            self.queue,
            student_temperature=self.student_temperature,
            teacher_temperature=self.teacher_temperature,
        )
        if self.training and not lesson.again:
            seen = all_samples(taught.detach().to(self.queue.dtype))
            self.queue.copy_(torch.cat([seen, self.queue])[: len(self.queue)])  # for a replay
        return value


@checked
class Generator(nn.Module):
    """Makes images from noise: a linear layer, then two steps of enlarging and convolving.

    Args:
        noise: Length Z of the noise vector.
        width: Channels of the last hidden layers; the first has twice as many.
        channels: Channels C of the images.
        size: Height and width of the images in pixels, a multiple of 4.
        seed: Seed of the initial weights.
    """

    def __init__(
        self, noise: int = 64, width: int = 16, channels: int = 1, size: int = 28, *, seed: int = 0
    ):
        super().__init__()
        check_positive(noise=noise, width=width, channels=channels, size=size)
        if size % 4:
            raise ArgumentError("size", f"size must be a multiple of 4, got {size}")
        self.noise = noise
        with seeded(seed):
            self.layers = nn.Sequential(
                nn.Linear(noise, 2 * width * (size // 4) ** 2),
                nn.Unflatten(1, (2 * width, size // 4, size // 4)),
                nn.BatchNorm2d(2 * width),
                nn.Upsample(scale_factor=2),
                nn.Conv2d(2 * width, 2 * width, 3, padding=1),
                nn.BatchNorm2d(2 * width),
                nn.LeakyReLU(0.2),
                nn.Upsample(scale_factor=2),
                nn.Conv2d(2 * width, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, channels, 3, padding=1),
                nn.Tanh(),
                nn.BatchNorm2d(channels, affine=False),  # inputs of a net: mean 0, deviation 1
            )

    def forward(self, noise: Tensor) -> Tensor:
        """Map noise ``(N, Z)`` to images ``(N, C, H, W)``, normalised as a net's inputs."""
        return self.layers(noise)


@checked
def generator_loss(
    logits: Tensor, features: Tensor, *, balance: float = 5.0, activation: float = 0.1
) -> Tensor:
    r"""How far are images from what a teacher was trained on, as far as it can tell?

    .. math:: CE(y, \arg\max y) - \beta\, H(\bar p) - \alpha\, \overline{|f|}

    The teacher should be sure of each (one-hot), all classes should be as frequent (entropy of the
    mean prediction), and features should respond (activation).

    Args:
        logits: The teacher's logits, ``(N, K)``.
        features: The output of one of its layers, ``(N, …)``.
        balance: The weight β of the entropy, which is measured in nats.
        activation: The weight α of the activation.

    Returns:
        Scalar.

    Source: Chen et al. 2019 (arXiv 1904.01186), eq. 3 to 7. The authors' code has the
    weights 1, 5 and 0.1, too, but takes the entropy to base 10: by default the entropy counts
    ln 10 = 2.303 times as much here as there. ``balance=5 / math.log(10)`` gives their loss.
    """
    check_matrix("logits", logits)
    check_floating("features", features)
    check_same_samples("features", features, "logits", logits)
    if features.numel() == 0:
        raise ArgumentError("features", f"features must not be empty, got {(*features.shape,)}")
    sure = F.cross_entropy(logits, logits.detach().argmax(dim=1))
    mean = logits.softmax(dim=1).mean(dim=0)
    entropy = -torch.xlogy(mean, mean).sum()
    return sure - balance * entropy - activation * features.abs().mean()


@checked
class GeneratedImages:
    """Batches of images that a generator makes while it learns from a teacher.

    Each batch is one step of the generator; its images come without labels. Hand it to
    :func:`kdcourse.training.fit` as ``train``.

    Args:
        generator: Maps noise ``(N, generator.noise)`` to inputs of the teacher; trained in place.
        teacher: Any module; stays as it is.
        layer: Name of the teacher's layer whose features should respond.
        batch_size: Images per batch.
        steps: Batches per epoch.
        learning_rate: The learning rate of the generator's optimiser, Adam.
        statistics: Weight of a term that draws the mean and variance that batch norms of the
            teacher see to those they remember (Yin et al. 2020, arXiv 1912.08795); 0 leaves it out.
        seed: Seed of the noise.
        loss: A loss of the teacher's logits and features; :func:`generator_loss` by default.
    """

    labelled = False

    def __init__(
        self,
        generator: nn.Module,
        teacher: nn.Module,
        layer: str,
        *,
        batch_size: int = 128,
        steps: int = 100,
        learning_rate: float = 0.001,
        statistics: float = 0.0,
        seed: int = 0,
        loss: Callable[[Tensor, Tensor], Tensor] = generator_loss,
    ):
        length = getattr(generator, "noise", None)
        if not isinstance(length, Integral):
            raise ArgumentError(
                "generator",
                "generator must say how much noise it takes, as its attribute noise, got a "
                f"{type(generator).__name__} without",
            )
        check_integer("batch_size", batch_size, 2)
        check_positive(steps=steps)
        check_number("learning_rate", learning_rate, 0.0)
        check_number("statistics", statistics, 0.0)
        with capture(teacher, [layer]):  # which looks for it
            pass
        if isinstance(teacher, Teacher):
            raise ArgumentTypeError(
                "teacher",
                f"teacher must pass on gradients, and a {type(teacher).__name__} does not: give "
                "the model itself",
            )
        if statistics and not _norms(teacher):
            raise ArgumentError(
                "statistics", "statistics needs a batch norm of images that remembers its own"
            )
        self.generator, self.teacher, self.layer = generator, teacher, layer
        self.length = int(length)
        self.batch_size, self.steps, self.statistics = batch_size, steps, statistics
        self.loss = loss
        self.losses: list[float] = []
        self.optimizer = torch.optim.Adam(generator.parameters(), learning_rate)
        self.draw = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(self.steps):
            self.generator.train()
            images = self.generator(self.noise(self.batch_size))
            value = self._judge(images)
            self.losses.append(float(value.detach()))
            if not math.isfinite(self.losses[-1]):
                raise self._broken(images)
            self.optimizer.zero_grad()
            value.backward(inputs=list(self.generator.parameters()))  # none to the teacher
            self.optimizer.step()
            yield images.detach(), torch.full((len(images),), -1, device=images.device)

    def _broken(self, images: Tensor) -> NotFiniteError:
        """Return what is to blame for a loss that is no number."""
        if not bool(images.isfinite().all()):
            advice = "the generator's images are no numbers any more: lower its learning rate"
            return NotFiniteError("learning_rate", advice)
        with evaluation_mode(self.teacher), torch.no_grad():
            known = bool(call(self.teacher, images, "teacher").isfinite().all())
        if known:
            return NotFiniteError(
                "loss", "the generator's loss is no number, though the logits are"
            )
        return NotFiniteError("teacher", "the teacher outputs NaN or infinity for finite images")

    def state_dict(self) -> dict[str, Any]:
        """Return all that goes on from batch to batch."""
        return {
            "generator": self.generator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "noise": self.draw.get_state(),
            "losses": list(self.losses),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another one was."""
        self.generator.load_state_dict(state["generator"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.draw.set_state(state["noise"].cpu())
        self.losses = list(state["losses"])

    @torch.no_grad()
    def show(self, samples: int) -> Tensor:
        """Return what the generator makes now, ``(N, C, H, W)``, without learning from it."""
        with evaluation_mode(self.generator):
            return self.generator(self.noise(samples))

    def noise(self, samples: int) -> Tensor:
        """Draw noise ``(N, Z)``, where the teacher is; the generator goes there, too."""
        device = next((p.device for p in self.teacher.parameters()), "cpu")
        self.generator.to(device)
        return torch.randn(samples, self.length, generator=self.draw).to(device)

    def _judge(self, images: Tensor) -> Tensor:
        """Return the generator's loss."""
        norms = _norms(self.teacher)
        seen: list[Tensor] = []
        handles = [
            norm.register_forward_pre_hook(lambda norm, inputs: seen.append(_gap(norm, *inputs)))
            for norm in (norms if self.statistics else [])
        ]
        try:
            with evaluation_mode(self.teacher), capture(self.teacher, [self.layer]) as features:
                logits = call(self.teacher, images, "teacher")
        finally:
            for handle in handles:
                handle.remove()
        value = self.loss(logits, features[self.layer])
        return value + self.statistics * torch.stack(seen).mean() if seen else value


def _norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    """Return the batch norms of images that remember mean and variance."""
    norms = (module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    return [norm for norm in norms if norm.running_mean is not None]


def _gap(norm: nn.BatchNorm2d, inputs: Tensor) -> Tensor:
    """How far mean and variance of a batch are from those a batch norm remembers."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = inputs.mean(dim=(0, 2, 3)), inputs.var(dim=(0, 2, 3), unbiased=False)
    scale = norm.running_var + norm.eps
    return ((mean - norm.running_mean).square() / scale).mean() + (
        variance / scale - 1
    ).square().mean()
