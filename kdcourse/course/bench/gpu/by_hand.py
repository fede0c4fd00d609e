"""A step of distillation as an expert writes it out for a GPU, eager or as a CUDA graph."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdcourse.augmentation import pad_crop_flip
from kdcourse.data import Images, replay
from kdcourse.training.schedules import one_cycle

TEMPERATURE = 4.0


class ByHand:
    """Student, teacher, optimiser and images on one device, and the step that all of them share.

    What changes from step to step lies in tensors (``index``, ``rate``), so that a replay sees it.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, images: Images, batch_size: int):
        place = images.device
        self.images, self.crop = images, pad_crop_flip()
        self.student, self.teacher = student.to(place).train(), teacher.to(place).eval()
        self.generator = replay(0, 0, place)
        self.index = torch.zeros(batch_size, dtype=torch.long, device=place)
        self.rate = torch.tensor(0.1, device=place)
        self.total = torch.zeros((), device=place)
        self.optimizer = torch.optim.SGD(
            student.parameters(),
            self.rate,
            momentum=0.9,
            nesterov=True,
            weight_decay=5e-4,
            fused=True,  # which takes its rate from a tensor
        )

    def step(self) -> None:
        """Learn from the images at ``index``."""
        pixels = self.crop(self.images.pixels[self.index], self.generator)
        inputs, target = self.images.normalize(pixels), self.images.target[self.index]
        with torch.no_grad():
            taught = F.log_softmax(self.teacher(inputs) / TEMPERATURE, dim=1)
        logits = self.student(inputs)
        learned = F.log_softmax(logits / TEMPERATURE, dim=1)
        kd = F.kl_div(learned, taught, reduction="batchmean", log_target=True)
        loss = F.cross_entropy(logits, target) + TEMPERATURE**2 * kd
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.total += loss.detach()

    def epoch(self, step: Callable[[], object], rates: Tensor) -> float:
        """Take a step for each rate, each on another batch, and return the mean loss."""
        self.total.zero_()
        order = torch.randperm(len(self.images), generator=self.generator, device=self.rate.device)
        for index, rate in zip(order.split(len(self.index)), rates, strict=False):
            self.index.copy_(index)
            self.rate.copy_(rate)
            step()
        return float(self.total) / len(rates)


def captured(step: Callable[[], object], generator: torch.Generator) -> Callable[[], object]:
    """Capture a step as one CUDA graph, after three steps to warm up; return what replays it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def rates(steps: int, place: torch.device) -> Tensor:
    """Return the learning rates of so many steps, ``(steps,)``: those of ``fit`` by default."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1, momentum=0.9)
    scheduler, found = one_cycle(optimizer, steps), []
    for number in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if number < steps - 1:
            scheduler.step()
    return torch.tensor(found, device=place)
