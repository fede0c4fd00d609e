"""Models of other libraries, as they are: what they take, and what they return."""

import copy
from collections import UserDict

import pytest
import timm
import torch
import torchvision
import transformers
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from toys import same, weights

from kdcourse import CrossEntropy, LogitKD, fit, metrics
from kdcourse.batch import call
from kdcourse.errors import ArgumentError
from kdcourse.training import FrozenTeacher

CLASSES, SAMPLES, WORDS = 3, 6, 12
SMALL = {"num_labels": CLASSES, "num_attention_heads": 2, "intermediate_size": 16}
QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
KNOBS = {"epochs": 1, "progress": False, "device": "cpu", "batch_size": SAMPLES}


def bert(width):
    text = {"vocab_size": 30, "max_position_embeddings": WORDS, "num_hidden_layers": 2}
    config = transformers.BertConfig(hidden_size=width, **text, **SMALL, **QUIET)
    return transformers.BertForSequenceClassification(config)


def gpt2(width):
    sizes = {"vocab_size": 30, "n_positions": WORDS, "n_embd": width, "n_layer": 2, "n_head": 2}
    quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = transformers.GPT2Config(**sizes, **quiet, num_labels=CLASSES, pad_token_id=0)
    return transformers.GPT2ForSequenceClassification(config)


def vit(width):
    image = {"image_size": 16, "patch_size": 8, "num_hidden_layers": 2}
    config = transformers.ViTConfig(hidden_size=width, **image, **SMALL, **QUIET)
    return transformers.ViTForImageClassification(config)


def timm_vit(width):
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": width, "depth": 2, "num_heads": 2}
    return timm.models.VisionTransformer(**sizes, num_classes=CLASSES)


def convnext(width):
    dims = (width, 2 * width, 2 * width, 2 * width)
    return timm.models.ConvNeXt(num_classes=CLASSES, depths=(1, 1, 1, 1), dims=dims)


def torchvision_vit(width):
    sizes = {"image_size": 16, "patch_size": 8, "num_layers": 2, "num_heads": 2}
    sizes |= {"hidden_dim": width, "mlp_dim": 16, "num_classes": CLASSES}
    return torchvision.models.VisionTransformer(**sizes)


def googlenet(width):
    """Returns the logits of two more heads in train mode."""
    model = torchvision.models.googlenet(num_classes=CLASSES, init_weights=False)
    for head in (model.aux1, model.aux2, model):
        head.dropout.p = 0.0
    return model


class Second(nn.Module):
    """Returns its logits where nobody would look for them."""

    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.Linear(width, CLASSES))

    def forward(self, images):
        return images.mean(), self.body(images)


def text():
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 30, (SAMPLES, WORDS), generator=draw)
    lengths = torch.randint(3, WORDS, (SAMPLES,), generator=draw)
    mask = (torch.arange(WORDS) < lengths[:, None]).long()
    labels = torch.arange(SAMPLES) % CLASSES
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}


def pixels(size=16):
    images = torch.randn(SAMPLES, 3, size, size, generator=torch.Generator().manual_seed(0))
    return {"pixel_values": images, "labels": torch.arange(SAMPLES) % CLASSES}


def pair(batch):
    return batch["pixel_values"], batch["labels"]


def collated(batch):
    """As somebody's loader yields it: samples are dictionaries, put together by transformers."""
    samples = [{name: value[n] for name, value in batch.items()} for n in range(SAMPLES)]
    return DataLoader(samples, SAMPLES, collate_fn=transformers.default_data_collator)


FOREIGN = {
    "BERT": (bert, collated(text())),
    "GPT-2": (gpt2, collated(text())),
    "ViT of transformers": (vit, collated(pixels())),
    "a tokenizer's dictionary": (bert, [UserDict(text())]),
    "ViT of timm": (timm_vit, [pair(pixels())]),
    "ConvNeXt of timm": (convnext, [pair(pixels(32))]),
    "ViT of torchvision": (torchvision_vit, [pair(pixels())]),
    "GoogLeNet of torchvision": (googlenet, [pair(pixels(64))]),
}


def logits_of(model, batch):
    """Call a model as its own library says."""
    if isinstance(batch, list | tuple):
        shown = model(batch[0])
    else:
        shown = model(**{name: value for name, value in batch.items() if name != "labels"})
    return shown if isinstance(shown, torch.Tensor) else shown.logits


@pytest.mark.parametrize(("make", "batches"), FOREIGN.values(), ids=FOREIGN)
def test_the_loss_of_a_step_is_that_of_the_library_s_own_call(make, batches):
    torch.manual_seed(0)
    student, teacher = make(8), make(16).eval()
    (batch,) = batches
    target = batch["labels"] if not isinstance(batch, list | tuple) else batch[1]
    own = logits_of(copy.deepcopy(student).train(), batch)
    with torch.no_grad():
        theirs = logits_of(teacher, batch)
    kd = F.kl_div(
        (own / 4).log_softmax(1), (theirs / 4).log_softmax(1), log_target=True, reduction="sum"
    )
    expected = F.cross_entropy(own, target) + 2 * 16 * kd / len(target)

    before = weights(student)
    objective = CrossEntropy() + 2 * LogitKD(temperature=4)
    history = fit(student, batches, objective, teacher=teacher, validation=batches, **KNOBS)
    assert history.last["loss"] == pytest.approx(expected.item(), rel=1e-4)
    assert any(not torch.equal(value, before[name]) for name, value in weights(student).items())
    with torch.no_grad():
        right = logits_of(student.eval(), batch).argmax(1) == target
    assert history.last["validation_accuracy"] == int(right.sum()) / SAMPLES
    assert metrics.accuracy(student, batches) == int(right.sum()) / SAMPLES


def test_logits_are_found_where_somebody_says_they_are():
    images, target = pair(pixels())
    batches = [(images, target)]
    student, teacher = Second(4), Second(8)
    for model in (student, teacher):
        model(images)  # which tells its width
    second = {"output": lambda returned: returned[1]}
    objective = CrossEntropy() + LogitKD()
    history = fit(
        student, batches, objective, teacher=teacher, validation=batches, **second, **KNOBS
    )
    own = metrics.predict(student, batches, **second)
    assert torch.equal(own, student(images)[1])
    right = int((own.argmax(1) == target).sum()) / SAMPLES
    assert history.last["validation_accuracy"] == right
    assert metrics.accuracy(student, batches, **second) == right
    given = FrozenTeacher(teacher, **second)
    assert torch.equal(given(images), teacher(images)[1])
    fit(torchvision_vit(8), batches, objective, teacher=given, **KNOBS)


def test_what_holds_no_logits_is_told():
    images, target = pair(pixels())
    student = Second(4)
    student(images)
    with pytest.raises(ArgumentError, match=r"got \(\).*output=lambda") as told:
        fit(student, [(images, target)], **KNOBS)
    assert told.value.argument == "student"


def test_a_dictionary_that_is_no_call_is_handed_over_whole():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, CLASSES)

        def forward(self, graph):
            return self.layer(graph["nodes"].mean(dim=1))

    nodes = {"nodes": torch.randn(SAMPLES, 4, 2), "edges": torch.zeros(SAMPLES, 5, 2)}
    target = torch.arange(SAMPLES) % CLASSES
    history = fit(Whole(), [(nodes, target)], **KNOBS)
    assert len(history) == 1


class Wrapper(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model


class HandsOn(Wrapper):
    def forward(self, *arguments, **options):
        return self.model(*arguments, **options)


class HandsOnByName(Wrapper):
    def forward(self, **options):
        return self.model(**options)


class NamesTheFirst(Wrapper):
    def forward(self, one, **options):
        return self.model(one, **options)


class ByName(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, CLASSES)

    def forward(self, one, other):
        return self.layer(one + other)


class Whole(ByName):
    def forward(self, both):
        return super().forward(**both)


@pytest.mark.parametrize("wrap", [HandsOn, HandsOnByName, NamesTheFirst, nn.DataParallel])
def test_a_dictionary_reaches_what_is_wrapped(wrap):
    draw = torch.Generator().manual_seed(0)
    both = {name: torch.randn(SAMPLES, 2, generator=draw) for name in ("one", "other")}
    target = torch.arange(SAMPLES) % CLASSES
    models = [ByName, Whole] if wrap in (HandsOn, nn.DataParallel) else [ByName]
    for model in (one() for one in models):
        expected = model(both) if isinstance(model, Whole) else model(**both)
        assert torch.equal(call(wrap(model), both, "student"), expected)
        wrapped = wrap(wrap(model)) if wrap is HandsOn else wrap(model)
        assert len(fit(wrapped, [(both, target)], **KNOBS)) == 1


class GraphNet(nn.Module):
    """Classifies graphs, or their nodes, in the form that torch-geometric gives a batch of them."""

    def __init__(self, width, of_nodes):
        super().__init__()
        self.inner, self.head, self.of_nodes = (
            nn.Linear(2, width),
            nn.Linear(width, CLASSES),
            of_nodes,
        )

    def forward(self, x, edge_index, batch):
        source, drain = edge_index
        hidden = self.inner(x)
        hidden = torch.relu(hidden + torch.zeros_like(hidden).index_add(0, drain, hidden[source]))
        if self.of_nodes:
            return self.head(hidden)
        return self.head(
            hidden.new_zeros(int(batch.max()) + 1, hidden.shape[1]).index_add(0, batch, hidden)
        )


@pytest.mark.parametrize("of_nodes", [False, True], ids=["graphs", "nodes"])
def test_graphs(of_nodes):
    """All tensors of a batch of graphs have lengths of their own; of nodes, some have no label."""
    draw = torch.Generator().manual_seed(0)
    batch = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    y = batch % CLASSES if of_nodes else torch.arange(3)
    data = {
        "x": torch.randn(9, 2, generator=draw) + batch[:, None],
        "edge_index": torch.tensor([[0, 1, 3, 5, 6, 7], [1, 2, 4, 6, 7, 8]]),
        "batch": batch,
        "y": y.masked_fill(torch.arange(len(y)) == 4, -1),
    }
    torch.manual_seed(0)
    teacher, student = GraphNet(16, of_nodes), GraphNet(4, of_nodes)
    options = {**KNOBS, "epochs": 40, "learning_rate": 0.02, "validation": [data]}
    fit(teacher, [data], **options)
    history = fit(student, [data], CrossEntropy() + LogitKD(2), teacher=teacher, **options)
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    shown = {name: value for name, value in data.items() if name != "y"}
    right = (student.eval()(**shown).argmax(dim=1) == y)[data["y"] >= 0].double().mean().item()
    assert history.last["validation_accuracy"] == pytest.approx(right)


def test_a_single_input_of_a_dictionary_stands_for_itself():
    images, target = pair(pixels())
    results = []
    for batch in ({"image": images, "label": target}, (images, target)):
        torch.manual_seed(0)
        student = timm_vit(8)
        fit(student, [batch], **KNOBS)
        results.append(weights(student))
    assert same(*results)
