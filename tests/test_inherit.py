"""Students that start from their teacher: from some of its layers, or from a part of its width."""

import math
from fractions import Fraction

import pytest
import torch
from torch import nn
from toys import CLASSES, images, net, same, weights

from kdcourse.errors import ArgumentError, ArgumentTypeError
from kdcourse.language import sample
from kdcourse.models import LanguageModel, language_model, vision_transformer
from kdcourse.teachers import every_other_layer, narrowed, prune, quantize

WIDTH, DEPTH, HEADS, HIDDEN, TOKENS = 8, 3, 4, 32, 5
END = 4


def model(seed=1, depth=DEPTH, heads=HEADS):
    """A model that is not indifferent: its norms and biases are no longer those of the start."""
    made = language_model(WIDTH, depth, heads, TOKENS, length=8, seed=seed).double()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.5 * torch.randn(weight.shape, generator=draw, dtype=torch.float64))
    return made


def batch(count=6, length=7, seed=0):
    """Texts of several lengths: behind the last target of each, the end again."""
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randint(END, (count, length), generator=draw)
    target = torch.randint(END, (count, length), generator=draw)
    for row in range(count):
        over = 2 + row % (length - 1)
        inputs[row, over:], target[row, over:], target[row, 0] = END, -1, -1
    return inputs, target


BATCH = batch()


# --- some of its layers


def marked(depth, make=model):
    """A teacher whose blocks say their numbers."""
    teacher = make(depth=depth)
    with torch.no_grad():
        for number in range(depth):
            getattr(teacher, f"stage{number + 1}").mlp[3].bias.fill_(number)
    return teacher


def numbers(student):
    blocks = [getattr(student, f"stage{number + 1}") for number in range(student.stages)]
    return [int(block.mlp[3].bias[0]) for block in blocks]


def test_the_layers_are_those_of_distilbert():
    assert numbers(every_other_layer(marked(12), 6)) == [0, 2, 4, 7, 9, 11]
    assert numbers(every_other_layer(marked(12))) == [0, 2, 4, 7, 9, 11]
    assert numbers(every_other_layer(marked(4), 2)) == [0, 3]
    assert numbers(every_other_layer(marked(3))) == [0, 2]


@pytest.mark.parametrize("depth", range(1, 8))
def test_the_layers_are_as_far_apart_as_can_be(depth):
    expected = [0]
    for number in range(1, depth):
        expected.append(math.floor(Fraction(number * 6, depth - 1) + Fraction(1, 2)))
    assert numbers(every_other_layer(marked(7), depth)) == expected
    assert len(set(expected)) == depth


def test_with_all_layers_it_is_the_teacher_and_shares_nothing_with_it():
    teacher = model()
    student = every_other_layer(teacher, DEPTH)
    assert isinstance(student, LanguageModel)
    assert same(weights(student), weights(teacher))
    assert torch.equal(student(BATCH[0]), teacher(BATCH[0]))
    own, theirs = ({p.data_ptr() for p in one.parameters()} for one in (student, teacher))
    assert not own & theirs


def test_it_is_as_one_that_was_made_with_so_many_layers():
    """Its weights stand in the same order, so that either can be loaded into the other."""
    teacher = model()
    student = every_other_layer(teacher, 2)
    fresh = language_model(WIDTH, 2, HEADS, TOKENS, length=8).double()
    assert [*student.state_dict()] == [*fresh.state_dict()]
    fresh.load_state_dict(student.state_dict())
    assert torch.equal(fresh(BATCH[0]), student(BATCH[0]))
    features = teacher.stem(BATCH[0])
    for block in (teacher.stage1, teacher.stage3):
        features = block(features)
    assert torch.equal(student(BATCH[0]), teacher.classifier(teacher.embedding(features)))
    assert teacher.stages == DEPTH


def test_a_vision_transformer_has_layers_too():
    teacher = vision_transformer(8, 4, 2, classes=CLASSES, seed=1)
    student, pixels = every_other_layer(teacher), images(8).inputs()
    teacher.stage2, teacher.stage3 = nn.Identity(), nn.Identity()
    assert torch.equal(student(pixels), teacher(pixels))


@pytest.mark.parametrize(
    "start", [lambda one: every_other_layer(one, 2), lambda one: narrowed(one, 4, [BATCH])]
)
def test_all_weights_can_be_trained_whatever_the_teacher_is(start):
    frozen = model().eval().requires_grad_(False)
    for teacher in (frozen, prune(frozen, 0.5), quantize(frozen)):
        before, modes = weights(teacher), [part.training for part in teacher.modules()]
        student = start(teacher)
        assert all(p.requires_grad and p.is_leaf for p in student.parameters())
        assert all(part.training for part in student.modules())
        student(BATCH[0]).square().sum().backward()
        assert all(p.grad is not None for p in student.parameters())
        assert same(weights(teacher), before)
        assert [part.training for part in teacher.modules()] == modes


@pytest.mark.parametrize("depth", [0, DEPTH + 1])
def test_there_are_no_more_layers_than_the_teacher_has(depth):
    with pytest.raises(ArgumentError, match="depth must be an integer from 1 to 3"):
        every_other_layer(model(), depth)


def test_stages_that_are_not_alike_cannot_be_left_out():
    with pytest.raises(ArgumentError, match=r"teacher must be a transformer.*Sequential"):
        every_other_layer(net())


# --- a part of its width


def naive_importance(teacher, batches):
    """Text by text, without what stands behind its last target, and channel by channel."""
    channels = [0.0] * WIDTH
    heads = [[0.0] * HEADS for _ in range(DEPTH)]
    neurons = [[0.0] * HIDDEN for _ in range(DEPTH)]
    norms = [[0.0] * WIDTH for _ in range(2 * DEPTH + 1)]

    def add(sums, activations):
        for number in range(len(sums)):
            mean = sum(abs(row[number]) for row in activations.tolist()) / len(activations)
            sums[number] += mean**2

    for inputs, target in batches:
        for row, goal in zip(inputs, target, strict=True):
            length = int((goal >= 0).nonzero().max()) + 1
            x = teacher.stem(row[None, :length])[0]
            for number in range(DEPTH):
                block = getattr(teacher, f"stage{number + 1}")
                normed = block.attention.norm(x)
                add(norms[2 * number], normed)
                queries, keys, values = block.attention.vectors(normed).chunk(3, dim=1)
                size, outputs, sizes = WIDTH // HEADS, [], []
                for head in range(HEADS):
                    own = slice(head * size, (head + 1) * size)
                    out = torch.zeros(length, size, dtype=torch.float64)
                    for place in range(length):
                        alike = keys[: place + 1, own] @ queries[place, own] / math.sqrt(size)
                        out[place] = alike.softmax(0) @ values[: place + 1, own]
                    outputs.append(out)
                    sizes.append(out.square().sum(dim=1).sqrt())
                add(heads[number], torch.stack(sizes, dim=1))
                x = x + block.attention.projection(torch.cat(outputs, dim=1))
                normed = block.mlp[0](x)
                add(norms[2 * number + 1], normed)
                active = block.mlp[2](block.mlp[1](normed))
                add(neurons[number], active)
                x = x + block.mlp[3](active)
            add(norms[-1], teacher.embedding(x))
    for sums in norms:
        for number, one in enumerate(sums):
            channels[number] += math.sqrt(one)
    return channels, heads, neurons


def largest(scores, count):
    return sorted(sorted(range(len(scores)), key=lambda n: -scores[n])[:count])


def naive_slices(teacher, batches, width, heads, hidden):
    channels, of_heads, of_neurons = naive_importance(teacher, batches)
    kept, size = largest(channels, width), WIDTH // HEADS
    state = {}
    for name, weight in teacher.state_dict().items():
        rows = [*range(len(weight))]
        columns = kept
        if name.startswith("stage"):
            number = int(name[5]) - 1
            entries = [h * size + n for h in largest(of_heads[number], heads) for n in range(size)]
            neurons = largest(of_neurons[number], hidden)
            part = name.split(".", 1)[1].rsplit(".", 1)[0]
            rows, columns = {
                "attention.norm": (kept, None),
                "attention.vectors": ([k * WIDTH + e for k in range(3) for e in entries], kept),
                "attention.projection": (kept, entries),
                "mlp.0": (kept, None),
                "mlp.1": (neurons, kept),
                "mlp.3": (kept, neurons),
            }[part]
        elif name.startswith("embedding"):
            rows = kept
        state[name] = weight[rows] if weight.dim() == 1 else weight[rows][:, columns]
    return state


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("width", "heads", "hidden"), [(5, 2, 7), (8, 1, 32), (3, 4, 11)])
@torch.no_grad()
def test_it_keeps_what_the_naive_version_keeps(seed, width, heads, hidden):
    teacher, batches = model(seed), [batch(4, seed=1), batch(3, 5, seed=2)]
    student = narrowed(teacher, width, batches, heads=heads, hidden=hidden)
    expected = naive_slices(teacher, batches, width, heads, hidden)
    assert same(weights(student), expected)
    assert [*student.state_dict()] == [*teacher.state_dict()]
    assert student(BATCH[0]).shape == (*BATCH[0].shape, TOKENS)


def test_at_full_width_it_is_the_teacher():
    teacher = model()
    before = weights(teacher)
    student = narrowed(teacher, WIDTH, [BATCH])
    assert same(weights(student), before)
    assert torch.equal(student(BATCH[0]), teacher(BATCH[0]))
    assert same(weights(teacher), before)
    own, theirs = ({p.data_ptr() for p in one.parameters()} for one in (student, teacher))
    assert not own & theirs


def test_heads_and_neurons_are_by_default_in_proportion():
    student = narrowed(model(), WIDTH // 2, [BATCH])
    fresh = language_model(WIDTH // 2, DEPTH, HEADS // 2, TOKENS, length=8).double()
    fresh.load_state_dict(student.state_dict())
    assert str(student) == str(fresh)
    assert torch.equal(student(BATCH[0]), fresh(BATCH[0]))
    least = narrowed(model(), 1, [BATCH])
    assert (least.stage1.attention.heads, least.stage1.mlp[1].out_features) == (1, 4)


@torch.no_grad()
def test_a_dead_neuron_and_a_dead_head_go_first_and_nobody_misses_them():
    teacher = model()
    for number, block in enumerate((teacher.stage1, teacher.stage2, teacher.stage3)):
        block.mlp[1].weight[3 * number] = 0
        block.mlp[1].bias[3 * number] = -60.0  # far from zero, and silent behind the GELU
        values = slice(2 * WIDTH + 2 * number, 2 * WIDTH + 2 * number + 2)
        block.attention.vectors.weight[values] = 0
        block.attention.vectors.bias[values] = 0
    student = narrowed(teacher, WIDTH, [BATCH], heads=HEADS - 1, hidden=HIDDEN - 1)
    torch.testing.assert_close(student(BATCH[0]), teacher(BATCH[0]))
    smaller = narrowed(teacher, WIDTH, [BATCH], heads=HEADS - 2, hidden=HIDDEN - 1)
    assert not torch.allclose(smaller(BATCH[0]), teacher(BATCH[0]))


@torch.no_grad()
def test_channels_that_nobody_reads_go_first_and_nobody_misses_them():
    """Each channel stands there twice, so that means and variances stay without the silent ones."""
    narrow, teacher = model(), language_model(2 * WIDTH, DEPTH, 2 * HEADS, TOKENS, length=8)
    teacher = narrowed(teacher.double(), 2 * WIDTH, [BATCH], heads=HEADS, hidden=HIDDEN)
    silent, state = torch.arange(2 * WIDTH) % 2 == 1, {}
    for name, weight in narrow.state_dict().items():
        written = name.endswith(("projection.weight", "mlp.3.weight", "projection.bias", "3.bias"))
        norm = "norm" in name or "mlp.0" in name or "embedding" in name
        if written or norm:
            weight = weight.repeat_interleave(2, dim=0)
        elif weight.dim() == 2:
            weight = weight.repeat_interleave(2, dim=1)
        state[name] = weight.masked_fill(silent, 0) if norm else weight
        if name.endswith(("vectors.weight", "mlp.1.weight", "classifier.weight")):
            state[name][:, silent] = 9.0  # of what is always zero
    teacher.load_state_dict(state)
    student = narrowed(teacher, WIDTH, [BATCH], heads=HEADS, hidden=HIDDEN)
    torch.testing.assert_close(student(BATCH[0]), teacher(BATCH[0]))
    assert same(weights(student), weights(narrow))


def test_what_stands_behind_the_end_does_not_matter_nor_how_texts_are_batched():
    teacher, (inputs, target) = model(), BATCH
    noisy = torch.where(target.flip(1).cummax(dim=1).values.flip(1) < 0, 1, inputs)
    assert not torch.equal(noisy, inputs)
    parts = [*zip(inputs.split(2), target.split(2), strict=True)]
    weighted = [(inputs, target, target.float())]
    made = [
        weights(narrowed(teacher, 5, batches, heads=2, hidden=9))
        for batches in ([BATCH], [(noisy, target)], parts, weighted)
    ]
    assert all(same(made[0], one) for one in made[1:])


def test_a_narrow_one_writes_with_its_cache_as_without():
    class Plain(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, tokens):
            return self.model(tokens)

    student = narrowed(every_other_layer(model(), 2), 5, [BATCH], heads=1)
    prompts = torch.tensor([[0], [1], [2]])
    how = {"length": 8, "end": END, "greedy": True}
    assert torch.equal(*(sample(one, prompts, **how) for one in (student, Plain(student))))


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"width": WIDTH + 1}, "width must be an integer from 1 to 8"),
        ({"heads": HEADS + 1}, "heads must be an integer from 1 to 4"),
        ({"hidden": HIDDEN + 1}, "hidden must be an integer from 1 to 32"),
        ({"batches": []}, "batches must hold at least one"),
        (
            {"batches": [(BATCH[0], torch.full_like(BATCH[1], -1))]},
            "batches must hold a target som",
        ),
        ({"batches": [(BATCH[0], BATCH[1][:, :-1])]}, "batches must hold tokens"),
        ({"batches": [(torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.int64))]}, "batches must"),
    ],
)
def test_what_does_not_fit_is_refused(given_, message):
    with pytest.raises(ArgumentError, match=message):
        narrowed(**{"teacher": model(), "width": 4, "batches": [BATCH], **given_})


def test_only_a_language_model_is_narrowed():
    with pytest.raises(ArgumentTypeError, match="teacher must be a LanguageModel"):
        narrowed(vision_transformer(8, 2, 2), 4, [BATCH])
