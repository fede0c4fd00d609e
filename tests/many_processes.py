"""Runs under torchrun for test_processes.py, which also imports the cases and runs them alone.

The nets are in float64, so that ten steps keep all that matters, and have no batch norm, whose
statistics are those of each process's own samples.
"""

import copy
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import resuming
import torch
from every_term import example, target_for
from tokens_of_texts import PADDING, Tokens, texts
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from toys import CLASSES, images, terms

import kdcourse
from kdcourse import heartbeat, processes, relation_term, relational, tips
from kdcourse.augmentation import pad_crop_flip
from kdcourse.batch import share
from kdcourse.data import Images
from kdcourse.errors import ArgumentError
from kdcourse.language import Characters, wordnet
from kdcourse.methods.top_k import TopKKD
from kdcourse.models import language_model
from kdcourse.teachers import (
    CachedLessons,
    CachedTexts,
    ClosedTeacher,
    CrossedViews,
    Ensemble,
    MomentumTeacher,
    SelfDistillation,
    mutual_learning,
)
from kdcourse.training import (
    CrossEntropy,
    DecoupledKD,
    FeatureHint,
    LogitKD,
    RKDDistance,
    StandardizedKD,
    StopTraining,
    Term,
    fit,
)
from kdcourse.training.parallel import Counts, average
from kdcourse.view_term import OneView

kdcourse.__path__.extend(filter(None, [os.environ.get("KDCOURSE_ROOM")]))  # for a method to try
# Ten steps in two epochs. The last batch of each holds 4 samples: 2, 1, 1 in three processes.
SAMPLES, BATCH, EPOCHS = 132, 32, 2
CROPS = pad_crop_flip(1)


class Net(nn.Module):
    """A smooth convolutional net in float64."""

    def __init__(self, width: int, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.stage1 = nn.Sequential(nn.Conv2d(1, width, 3, 2), nn.Tanh())
        self.stage2 = nn.Sequential(nn.Conv2d(width, 2 * width, 3), nn.Tanh())
        self.stage3 = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.PixelUnshuffle(2))
        self.embedding = nn.Flatten()
        self.classifier = nn.Linear(8 * width, CLASSES)
        self.double()

    def forward(self, inputs):
        features = self.stage2(self.stage1(inputs.double()))
        return self.classifier(self.embedding(self.stage3(features)))


class Pixels(nn.Module):
    """Predicts something of every pixel."""

    def __init__(self, width: int, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        layers = nn.Conv2d(1, width, 3, padding=1), nn.Tanh(), nn.Conv2d(width, CLASSES, 1)
        self.layers = nn.Sequential(*layers).double()

    def forward(self, inputs):
        return self.layers(inputs.double())


class Idle(Net):
    """A net with a layer that no sample needs, and one for samples with a bright corner."""

    def __init__(self):
        super().__init__(2, seed=1)
        self.unused, self.rare = nn.Linear(2, 2), nn.Linear(CLASSES, CLASSES).double()

    def forward(self, inputs):
        logits, bright = super().forward(inputs), bright_corner(inputs)
        if bright.any():  # in some shares only, and in some batches nowhere
            return logits.index_put((bright,), logits[bright] + self.rare(logits[bright]))
        return logits


def bright_corner(inputs: torch.Tensor) -> torch.Tensor:
    return inputs[:, 0, 0, 0] > 1.65


def student():
    return Net(2, seed=1)


def teacher():
    return Net(3, seed=2)


small_tokens, small_pixels = partial(Tokens, 3, seed=1), partial(Pixels, 2, seed=1)


def partly_labelled() -> Images:
    """So that the labels are not shared out equally."""
    data = images(SAMPLES)
    data.target[torch.rand(SAMPLES, generator=torch.Generator().manual_seed(3)) < 0.4] = -1
    return data


def trained(objective=None, *, teacher=None, train=None, own=None, **options) -> list[nn.Module]:
    """Train for ten steps; return everything that has learned."""
    own = student() if own is None else own
    defaults = {"epochs": EPOCHS, "batch_size": BATCH, "learning_rate": 0.05, "device": "cpu"}
    fit(
        own,
        images(SAMPLES) if train is None else train,
        objective,
        teacher=teacher,
        progress=False,
        **{**defaults, **options},
    )
    return [own] if objective is None else [own, objective]


def by_term(kind: type[Term]) -> list[nn.Module]:
    """Train by labels and any term, with its defaults."""
    teaching, data = teacher() if kind.needs_teacher else None, images(SAMPLES)
    train = data
    if (target := target_for(kind, data.target, CLASSES)) is not data.target:
        rows = zip(data.inputs().split(BATCH), target.split(BATCH), strict=True)
        train = Shares([(*row, torch.linspace(0, 1, len(row[0]))) for row in rows])
    whole: dict = {}
    if kind is OneView:  # each of two or three processes gets whole images
        whole = {"batch_size": 36, "views": tips.WeakAndStrong(CROPS, CROPS)}
    return trained(CrossEntropy() + example(kind), teacher=teaching, train=train, **whole)


class Shares:
    """Batches of which every process yields its share, without what nobody counts at its end."""

    shares_out = True

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for batch in self.batches:
            inputs, target, *weight = (share(one, processes.part(), len(batch[1])) for one in batch)
            length = target.shape[-1]
            if target.dim() == 2 and not target.is_floating_point():  # padded tokens
                read = inputs["attention_mask"] if isinstance(inputs, dict) else target != PADDING
                length = int(read.any(dim=0).nonzero().max()) + 1
                inputs, target = tree_map(lambda one, end=length: one[:, :end], (inputs, target))
            yield (inputs, target, *weight)


class Stream:
    """Batches without a length, of which every process yields its share."""

    shares_out = True

    def __iter__(self):
        for number in range(7):
            inputs, target = next(partly_labelled().batches(BATCH, seed=number))
            yield share(inputs, processes.part()), share(target, processes.part())


def tokens(**options) -> list[nn.Module]:
    at = {"class_dim": -1, "ignore_index": PADDING}
    objective = CrossEntropy(**at) + LogitKD(2, **at) + DecoupledKD(**at) + StandardizedKD(**at)
    nets = {"own": small_tokens(), "teacher": Tokens(5, seed=2)}
    return trained(objective, train=Shares(texts()), **nets, **options)


def masked(**options) -> list[nn.Module]:
    objective = LogitKD(2, class_dim=-1, mask="attention_mask")
    objective = objective + 0.5 * CrossEntropy(class_dim=-1, ignore_index=PADDING)
    nets = {"own": small_tokens(), "teacher": Tokens(5, seed=2)}
    return trained(objective, train=Shares(texts(masked=True)), **nets, **options)


def pixels(**options) -> list[nn.Module]:
    """Pixels of unequal weight, of which a quarter is ignored, and more of some samples."""
    draw, batches = torch.Generator().manual_seed(5), []
    for inputs, _ in images(60).batches(12):
        target = torch.randint(CLASSES, (12, 12, 12), generator=draw)
        ignored = torch.rand(12, 12, 12, generator=draw) < torch.rand(12, 1, 1, generator=draw) / 2
        weight = torch.rand(12, 12, 12, generator=draw)
        batches.append((inputs, target.masked_fill(ignored, 255), weight))
    objective = CrossEntropy(ignore_index=255, class_weight=[1.0, 2.0, 0.5, 0.0])
    objective = objective + LogitKD(2, ignore_index=255)
    nets = {"own": small_pixels(), "teacher": Pixels(4, seed=2)}
    return trained(objective, train=Shares(batches), **nets, **options)


def from_stream():
    """Train by so many steps of a stream, keep the best weights, and end before that."""

    def stop(row):
        if row["epoch"] == 8:
            raise StopTraining

    options = {"epochs": None, "steps": 10, "log": stop if processes.is_main() else None}
    validation = images(50, seed=9)
    return trained(CrossEntropy(), train=Stream(), keep="best", validation=validation, **options)


def online(**options):
    pair = [student(), teacher()]
    mutual_learning(
        pair,
        images(SAMPLES),
        epochs=EPOCHS,
        batch_size=BATCH,
        learning_rate=0.05,
        device="cpu",
        progress=False,
        **options,
    )
    return pair


def self_distilled():
    own = student()
    follows = MomentumTeacher(own, 0.9)
    dist = SelfDistillation(CLASSES)
    trained(dist, own=own, teacher=follows, views=CrossedViews(CROPS))
    return [own, follows, dist]


def cached(path: Path | None = None):
    lessons = CachedLessons(
        teacher(),
        images(SAMPLES),
        views=tips.Consistent(CROPS),
        epochs=1,  # so that the second epoch is remembered
        batch_size=BATCH,
        path=path,
    )
    return trained(LogitKD(4), teacher=lessons.teacher, train=lessons)


WORDS = wordnet().train[:50]
LETTERS = Characters.of(WORDS.texts)


def small_writer():
    return language_model(8, 1, 2, len(LETTERS), length=80, seed=1).double()


def cached_texts() -> list[nn.Module]:
    writer = language_model(16, 1, 2, len(LETTERS), length=80, seed=2).double()
    lessons = CachedTexts(writer, *WORDS.lessons(LETTERS), k=4, batch_size=BATCH)
    objective = TopKKD(4, class_dim=-1, ignore_index=-1)
    return trained(objective, own=small_writer(), teacher=lessons.teacher, train=lessons)


PLACES = {"tokens": tokens, "tokens with a mask": masked, "pixels": pixels}
# Where the student is not the one of all others.
BEGUN = {"tokens": small_tokens, "tokens with a mask": small_tokens, "pixels": small_pixels}
BEGUN["cached texts"] = small_writer
CASES: dict[str, Callable[[], list[nn.Module]]] = {
    **{kind.__name__: partial(by_term, kind) for kind in terms()},
    "labels smoothed": lambda: trained(CrossEntropy(label_smoothing=0.1)),
    "some labels": lambda: trained(
        CrossEntropy() + LogitKD(4), teacher=teacher(), train=partly_labelled()
    ),
    "reverse kd": lambda: trained(LogitKD(2, divergence="reverse"), teacher=teacher()),
    "Jensen–Shannon kd": lambda: trained(
        LogitKD(2, divergence="jensen-shannon"), teacher=teacher()
    ),
    "kd by rows": lambda: trained(LogitKD(4, rows=5), teacher=teacher()),
    "hint": lambda: trained(FeatureHint("stage2"), teacher=teacher()),  # behind it nothing learns
    "idle weights": lambda: trained(own=Idle()),
    "self-distillation": self_distilled,
    "mutual": online,
    "mutual at once": lambda: online(updates="simultaneous"),
    "ensemble": lambda: trained(LogitKD(4), teacher=Ensemble([teacher(), Net(2, seed=5)])),
    "closed": lambda: trained(LogitKD(4), teacher=ClosedTeacher(teacher())),
    "mixed views": lambda: trained(
        LogitKD(4), teacher=teacher(), views=tips.FunctionMatching(CROPS)
    ),
    "cached": cached,
    "cached texts": cached_texts,
    "stream": from_stream,
    **PLACES,
    "Adam": lambda: trained(
        LogitKD(4), teacher=teacher(), optimizer=torch.optim.Adam, learning_rate=0.001
    ),
}


def accumulated():
    """Parts of parts: without the last batch of 4, which is too small for them."""
    return trained(
        CrossEntropy() + LogitKD(4) + FeatureHint("stage2"),
        teacher=teacher(),
        train=partly_labelled()[: 4 * BATCH],
        accumulate=3,
    )


def whole():
    """Return the same as :func:`accumulated` in one part."""
    return trained(
        CrossEntropy() + LogitKD(4) + FeatureHint("stage2"),
        teacher=teacher(),
        train=partly_labelled()[: 4 * BATCH],
    )


def states(models: list[nn.Module]) -> list[dict[str, torch.Tensor]]:
    return [model.state_dict() for model in models]


def history_of():
    """Train at a rate of zero with a validation set; return the rows, without times."""
    history = fit(
        student(),
        partly_labelled(),
        CrossEntropy() + RKDDistance(),
        teacher=teacher(),
        validation=images(50, seed=9),
        epochs=EPOCHS,
        batch_size=BATCH,
        learning_rate=0.0,
        device="cpu",
        progress=False,
    )
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows]


def norms():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(200, CLASSES)
    )


def followed(train: Images) -> None:
    own = norms()
    trained(LogitKD(4), own=own, teacher=MomentumTeacher(own, 0.9), train=train, epochs=1)


def loaded(train: Images) -> None:
    data = TensorDataset(train.inputs(), train.target)
    size, sampler = BATCH // processes.count(), DistributedSampler(data)
    trained(train=DataLoader(data, size, sampler=sampler), own=norms(), epochs=1)


def by_peers(train: Images) -> None:
    options = {"epochs": 1, "batch_size": BATCH, "device": "cpu", "progress": False}
    mutual_learning([norms(), student()], train, **options)


def by_relations(train: Images) -> None:
    objective = CrossEntropy() + RKDDistance() + RKDDistance()
    trained(objective, teacher=teacher(), train=train, epochs=1)


def some_labels(train: Images, **options) -> None:
    half = Images(train.pixels, train.target.clone(), train.classes, train.mean, train.std)
    half.target[::2] = -1
    objective = CrossEntropy() + LogitKD(4)
    trained(objective, teacher=teacher(), train=half, epochs=1, **options)


# How many messages a step sends, of which gradients take one; a gathering of samples takes two.
MESSAGES: dict[str, tuple[Callable[[Images], object], int]] = {
    "labels": (lambda train: trained(train=train, own=norms(), epochs=1), 1),
    "some labels": (some_labels, 1),
    "accumulated": (partial(some_labels, accumulate=2), 1),
    "idle weights": (lambda train: trained(train=train, own=Idle(), epochs=1), 1),
    "loader": (loaded, 1),
    "following teacher": (followed, 1),
    "peers": (by_peers, 2),
    "relations": (by_relations, 1 + 2 * 2),
}


def messages_a_step(train: Callable[[Images], object]) -> float:
    """Return how many messages more an epoch sends that has a step more."""
    sent = []
    for steps in (2, 3):
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            train(images(steps * BATCH))
        names = [event.name for event in seen.events()]
        sent.append(sum(name.startswith("c10d::") for name in names))
    return sent[1] - sent[0]


def every_case(folder: Path) -> None:
    results = {name: states(case()) for name, case in CASES.items()}
    results["accumulated"] = states(accumulated())
    results |= {
        f"{name}, accumulated": states(train(accumulate=2)) for name, train in PLACES.items()
    }
    for name, result in results.items():
        mine = [value for state in result for value in state.values()]
        for value in mine:
            main = value.clone()
            distributed.broadcast(main, 0)
            assert torch.equal(main, value), f"{name}: processes differ"
    rows = history_of()
    messages = {name: messages_a_step(train) for name, (train, _) in MESSAGES.items()}
    if processes.is_main():
        found = {"weights": results, "rows": rows, "messages": messages}
        torch.save(found, folder / "results.pt")


def batch_norm() -> None:
    """Statistics are each process's own, but all end with those of the main process."""
    own = norms()
    trained(own=own)
    for name, value in own.state_dict().items():
        main = value.clone()
        distributed.broadcast(main, 0)
        assert torch.equal(main, value), name
    assert own[1].running_mean.abs().sum() > 0

    with pytest.raises(ArgumentError, match="sync_batch_norm needs a GPU in every process"):
        trained(own=own, sync_batch_norm=True)
    with pytest.MonkeyPatch.context() as patch:  # as on GPUs, where torch would not refuse
        patch.setattr(sys.modules[fit.__module__], "check_batch_norm", lambda *_: None)
        with pytest.raises(ValueError, match="SyncBatchNorm expected input tensor to be on GPU"):
            trained(own=own, sync_batch_norm=True)
    assert type(own[1]) is nn.BatchNorm2d


def made_anew() -> None:
    """A student that was made without a seed starts as the main process's, and its teacher too."""
    torch.manual_seed(processes.rank())
    norm = nn.BatchNorm2d(2, affine=False).eval()  # which stays as it is
    norm.running_mean.normal_()
    own = nn.Sequential(nn.Conv2d(1, 2, 3), norm, nn.Flatten(), nn.Linear(200, CLASSES))
    mains = copy.deepcopy(own)
    processes.copy_from_main(mains.state_dict().values())
    ends = []
    for made in (own, mains):
        follows = MomentumTeacher(made, 0.9)
        trained(CrossEntropy() + LogitKD(4), own=made, teacher=follows)
        ends.append([*made.state_dict().values(), *follows.state_dict().values()])
    for value, other in zip(*ends, strict=True):
        assert torch.equal(value, other)
        main = value.clone()
        distributed.broadcast(main, 0)
        assert torch.equal(main, value)


def strangers() -> None:
    """Students that cannot be one and the same are named."""
    one, other = f"Net, {parameters(2)} parameters", f"Net, {parameters(3)} parameters"
    with pytest.raises(ArgumentError, match=rf"student must be the same.*\['{one}', '{other}'"):
        trained(own=Net(2 + processes.rank(), seed=1))


def parameters(width: int) -> int:
    return sum(weight.numel() for weight in Net(width, seed=1).parameters())


def apart() -> None:
    """A process may work by itself for a while."""
    with processes.apart():
        assert (processes.rank(), processes.part()) == (0, (0, 1))
        trained(own=Net(2 + distributed.get_rank(), seed=1))
    assert processes.count() > 1


def disks(folder: Path) -> None:
    """Machines may have disks of their own."""
    own = folder / f"disk {processes.rank()}"
    own.mkdir()
    file = own / "run.pt"
    assert not processes.main_has(file, "checkpoint")
    if not processes.is_main():
        file.touch()
    with pytest.raises(ArgumentError, match="is there for process 1, but not for the main process"):
        trained(checkpoint=file)
    file.touch()
    assert processes.main_has(file, "checkpoint")
    with pytest.raises(ArgumentError, match="is not there for process 1: choose a folder that all"):
        cached(own / "answers")


def averages() -> None:
    """Gradients of any type and layout become their means, in one message with all else."""
    shape, own, count = (2, 3, 2, 2), processes.rank(), processes.count()

    def drawn(rank: int) -> list[torch.Tensor]:
        draw = torch.Generator().manual_seed(rank)
        kinds = (torch.float32, torch.float64, torch.bfloat16, torch.float32, torch.float32)
        return [torch.randn(shape, generator=draw).to(kind) for kind in kinds]

    weights = [nn.Parameter(torch.zeros_like(one)) for one in drawn(0)]
    weights[0].data = weights[0].to(memory_format=torch.channels_last)
    for weight, grad in zip(weights, drawn(own), strict=True):
        weight.grad = torch.empty_like(weight).copy_(grad)
    weights[3].grad = None
    if own != 1:
        weights[4].grad = None
    norm, counts = nn.BatchNorm2d(2), Counts(torch.device("cpu"), [CrossEntropy()])
    norm.running_mean += own
    counts.ahead = torch.tensor([own + 1, 2.0])
    average(weights, counts, norm)

    everything = [
        torch.stack(list(one)).double() for one in zip(*map(drawn, range(count)), strict=True)
    ]
    for weight, grads in zip(weights[:3], everything, strict=False):
        expected = grads.mean(dim=0).to(weight.dtype)
        torch.testing.assert_close(weight.grad, expected, rtol=1e-6, atol=1e-7)
        assert weight.grad.stride() == weight.stride()
    assert weights[3].grad is None
    torch.testing.assert_close(weights[4].grad, (everything[4][1] / count).float())
    assert counts.coming.tolist() == [count * (count + 1) / 2, 2 * count]
    assert norm.running_mean.tolist() == [0, 0]


def sparse() -> None:
    """Gradients of an embedding may be sparse."""
    torch.manual_seed(0)
    own = nn.Sequential(nn.EmbeddingBag(10, 8, sparse=True), nn.Linear(8, CLASSES))
    before = own[0].weight.detach().clone()
    data = TensorDataset(torch.arange(48).view(12, 4) % 10, torch.arange(12) % CLASSES)
    batches = DataLoader(data, batch_size=2, sampler=DistributedSampler(data))
    trained(train=batches, own=own, optimizer=partial(torch.optim.SGD, lr=0.1))
    assert not torch.equal(own[0].weight, before)


def loaders() -> None:
    """A DataLoader has to share out its samples."""
    data = TensorDataset(images(48).inputs(), images(48).target)
    with pytest.raises(ValueError, match="DistributedSampler"):
        trained(train=DataLoader(data, batch_size=8))
    trained(train=DataLoader(data, batch_size=8, sampler=DistributedSampler(data)))


def relations() -> None:
    """Losses of the samples of all processes, however many each has; gradients likewise."""
    draw = torch.Generator().manual_seed(0)
    inputs, taught = (torch.randn(13, 6, generator=draw, dtype=torch.float64) for _ in range(2))
    mine = torch.arange(13).tensor_split(processes.count())[processes.rank()]
    for loss in (
        relational.rkd_distance_loss,
        relational.rkd_angle_loss,
        relational.similarity_preserving_loss,
    ):
        models = []
        for _ in range(2):
            torch.manual_seed(1)
            models.append(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double())
        parallel = DistributedDataParallel(models[0])  # averages gradients as long as it lives
        value = loss(parallel(inputs[mine]), taught[mine])
        value.backward()

        gather, relation_term.all_pairs = relation_term.all_pairs, lambda *pair: pair
        expected = loss(models[1](inputs), taught)
        relation_term.all_pairs = gather
        expected.backward()

        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
        assert models[1][0].weight.grad.abs().max() > 1e-6
        for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-14)


class Deadly:
    """An augmentation that kills one process in the second epoch."""

    def __init__(self, deadly: bool):
        self.deadly, self.calls = deadly, 0

    def __call__(self, pixels, generator):
        self.calls += 1
        if self.deadly and self.calls > 7 and processes.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return pixels

    def __repr__(self):
        return "nothing"


def checkpointed(folder: Path, deadly: bool = False):
    """Train with a checkpoint, from where it stands."""
    return trained(
        CrossEntropy() + LogitKD(4),
        teacher=teacher(),
        augment=Deadly(deadly),
        checkpoint=folder / "run.pt",
    )


class Differing(Deadly):
    """An augmentation that is another one in every process."""

    def __repr__(self):
        return f"number {processes.rank()}"


class Stopping(Deadly):
    """An augmentation that stops one process in the second epoch, as a debugger would."""

    def __call__(self, pixels, generator):
        self.calls += 1
        if self.calls > 7 and processes.rank() == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        return pixels


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what in ("stopped", "orphaned"):
        heartbeat.EVERY, heartbeat.PATIENCE = 0.2, 3.0
    with processes.joined("cpu"):
        if what == "cases":
            every_case(folder)
            batch_norm()
            made_anew()
            strangers()
            averages()
            apart()
            disks(folder)
            sparse()
            loaders()
            relations()
        elif what == "case":
            torch.save(states(CASES[sys.argv[3]]()), folder / f"{processes.rank()}.pt")
        elif what == "killed":
            checkpointed(folder, deadly=True)
        elif what == "differing":
            trained(CrossEntropy(), augment=Differing(False))
        elif what == "stopped":
            trained(CrossEntropy(), augment=Stopping(True))
        elif what == "orphaned":
            (folder / f"{processes.rank()}.pid").write_text(str(os.getpid()))
            time.sleep(300)
        elif what == "bit by bit":
            found = resuming.every_run(folder)
            if processes.is_main():
                (folder / "found.json").write_text(json.dumps(found))
        elif what == "resumed":
            result = states(checkpointed(folder))
            if processes.is_main():
                torch.save(result, folder / "resumed.pt")
        processes.wait()
    print("done", flush=True)
    os._exit(0)  # gloo's threads may still hold tensors, which can abort an ordinary exit
