import math

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from kdcourse import models
from kdcourse.errors import ArgumentError

# By arithmetic. Below they are compared with what papers say, and in test_literature_nets.py the
# nets of the literature with other implementations, weight by weight.
COUNTS = [
    (models.plain(2), 536),
    (models.plain(4), 1_854),
    (models.plain(8), 6_866),
    (models.residual(8), 19_810),
    (models.residual(16), 77_754),
    (models.residual(32), 308_074),
    (models.resnet(20), 278_324),
    (models.resnet(32), 472_756),
    (models.resnet(56), 861_620),
    (models.resnet(110), 1_736_564),
    (models.wide_resnet(16, 2), 703_284),
    (models.wide_resnet(40, 2), 2_255_156),
    (models.wide_resnet(40, 1), 569_780),
    (models.resnet(8, widen=4), 1_233_540),
    (models.resnet(32, widen=4), 7_433_860),
    (models.vgg(8), 3_965_028),
    (models.vgg(13), 9_462_180),
    (models.mobilenetv2(), 812_836),
    (models.vision_transformer(32, 3, 2), 28_170),
]
NAMES = ["plain1", "plain8", "res8", "resnet8", "resnet8x4", "wrn-10-1", "vgg8", "mobilenetv2"]
NAMES += ["vit-small"]


@pytest.mark.parametrize(("model", "count"), COUNTS, ids=[str(count) for _, count in COUNTS])
def test_parameter_counts(model, count):
    assert models.count_parameters(model) == count


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)]
)
def test_parameter_counts_of_the_original_resnets(depth, millions):
    """He et al. 2015, table 6."""
    count = models.count_parameters(models.resnet(depth, classes=10, shortcut="pad"))
    assert round(count / 1e6, 2 if millions < 1 else 1) == millions


@pytest.mark.parametrize(
    ("depth", "widen", "millions"), [(16, 1, 0.2), (16, 2, 0.7), (40, 1, 0.6), (40, 2, 2.2)]
)
def test_parameter_counts_of_the_original_wide_resnets(depth, widen, millions):
    """Zhou et al. 2018 (arXiv 1708.04106), table 1: students and teachers on CIFAR-10."""
    count = models.count_parameters(models.wide_resnet(depth, widen, classes=10))
    assert round(count / 1e6, 1) == millions


def test_wrn_28_10_has_36_5_million():
    with torch.device("meta"):
        model = models.wide_resnet(28, 10, classes=10)
    assert round(models.count_parameters(model) / 1e6, 1) == 36.5


def test_resnet50_has_23_7_million():
    with torch.device("meta"):
        model = models.by_name("resnet50", channels=3, classes=100)
    assert models.count_parameters(model) == 23_705_252


def test_multiply_adds_by_hand():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(200, 7))
    once = 25 * 8 * 27 + 200 * 7
    assert models.multiply_adds(net, torch.zeros(1, 3, 5, 5)) == once
    assert models.multiply_adds(net, torch.zeros(4, 3, 5, 5)) == 4 * once


def test_multiply_adds_of_resnet20():
    net = models.resnet(20, shortcut="pad", classes=10)
    first, same, down = 1024 * 27 * 16, 1024 * 144 * 16, 256 * 144 * 32  # by convolution
    expected = first + 6 * same + 2 * (down + 5 * same) + 64 * 10
    assert models.multiply_adds(net, torch.zeros(1, 3, 32, 32)) == expected


def test_counting_changes_no_model():
    net = models.plain(2).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    models.multiply_adds(net, torch.randn(3, 1, 28, 28))
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("depth", [8, 14, 20])
def test_depth_counts_weighted_layers(depth):
    model = models.resnet(depth, shortcut="pad")
    assert sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in model.modules()) == depth


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_course_nets_grow_with_depth(depth):
    plain, residual = models.plain(4, depth), models.residual(4, depth)
    convolutions = [
        sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in model.modules())
        for model in (plain, residual)
    ]
    assert convolutions == [1 + 3 * depth, 1 + 6 * depth]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32)])
def test_images_become_logits(name, channels, size):
    model = models.by_name(name, channels=channels, classes=7)
    images = torch.randn(2, channels, size, size)
    assert model(images).shape == (2, 7)
    model(images).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_forward_and_backward_on_the_meta_device(name):
    with torch.device("meta"):
        model = models.by_name(name)
        model(torch.empty(2, 1, 28, 28)).sum().backward()
    assert all(p.grad.device.type == "meta" for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_draws_the_weights_and_disturbs_nothing(name):
    state = torch.get_rng_state()
    a, b, c = (models.by_name(name, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    pairs = list(zip(a.parameters(), b.parameters(), strict=True))
    assert all(torch.equal(p, q) for p, q in pairs)
    assert not torch.equal(next(a.parameters()), next(c.parameters()))


# Sums over all weights, as they were before there was a choice: stored results hang on them.
SUMS = {
    "plain8": (398.29248604459724, 89.04656515791129),
    "res8": (991.5799232027375, 227.49188742145157),
    "resnet8": (2612.186387406359, 451.6118061786215),
    "wrn-10-1": (2513.6134215276056, 354.68677162308853),
}


@pytest.mark.parametrize("name", SUMS)
def test_initial_weights_are_what_they_always_were(name):
    weights = [p.detach().double() for p in models.by_name(name, seed=3).parameters()]
    found = [sum(float(f(w).sum()) for w in weights) for f in (torch.abs, torch.square)]
    assert found == pytest.approx(SUMS[name], rel=1e-9)


def convolutions(model):
    return [m for m in model.modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize("initialization", ["pytorch", "he"])
@pytest.mark.parametrize("name", ["plain8", "res8", "resnet8", "wrn-10-2"])
def test_the_deviation_of_initial_weights(name, initialization):
    model = models.by_name(name, channels=3, seed=1, initialization=initialization)
    for layer in convolutions(model):
        weight, (height, width) = layer.weight.detach().double(), layer.kernel_size
        expected = {
            "pytorch": math.sqrt(1 / (3 * layer.in_channels * height * width)),
            "he": math.sqrt(2 / (layer.out_channels * height * width)),
        }[initialization]
        error = 1 / math.sqrt(2 * weight.numel())  # of a deviation, relative to it
        assert float(weight.square().mean().sqrt()) == pytest.approx(expected, rel=5 * error)
        assert abs(float(weight.mean())) < 5 * expected / math.sqrt(weight.numel())


@pytest.mark.parametrize("name", NAMES)
def test_he_draws_convolutions_and_nothing_else(name):
    usual, he, again = (
        models.by_name(name, seed=1, **options)
        for options in ({}, {"initialization": "he"}, {"initialization": "he"})
    )
    drawn = {id(p) for layer in convolutions(he) for p in layer.parameters()}
    biases = [layer.bias for layer in convolutions(he) if layer.bias is not None]
    assert not any(bool(bias.any()) for bias in biases)
    for a, b, c in zip(usual.parameters(), he.parameters(), again.parameters(), strict=True):
        assert torch.equal(b, c)
        assert torch.equal(a, b) == (id(b) not in drawn)
    norms = [m for m in he.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(bool((m.weight == 1).all() and (m.bias == 0).all()) for m in norms)


def test_without_a_seed_the_global_generator_draws():
    torch.manual_seed(5)
    a = models.plain(2)
    torch.manual_seed(5)
    b = models.plain(2)
    assert torch.equal(next(a.parameters()), next(b.parameters()))


@pytest.mark.parametrize(
    "name",
    [
        *("plain", "plain0", "vgg9", "8", "", "wrn-16", "wrn-a-2", "resnet21", "wrn-15-2"),
        *("resnet8x", "resnet8x0", "mobilenetv3", "vit", "vit-small-2"),
    ],
)
def test_unknown_names_are_errors(name):
    with pytest.raises(ValueError, match=r"unknown model|must be"):
        models.by_name(name)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: models.plain(0), "width must be a positive integer, got 0"),
        (lambda: models.residual(8, depth=-1), "depth must be"),
        (lambda: models.plain(8, classes=0), "classes must be"),
        (lambda: models.resnet(20, shortcut="none"), "shortcut must be one of 'projection', 'pad'"),
        (lambda: models.plain(8, initialization="xavier"), "initialization must be one of 'pyt"),
        (lambda: models.wide_resnet(10, 1, initialization="He"), "initialization must be one of"),
        (lambda: models.resnet(9), r"6n \+ 2"),
        (lambda: models.wide_resnet(17, 2), r"6n \+ 4"),
        (lambda: models.vgg(9), "depth must be one of 8, 11, 13, 16, 19, got 9"),
        (lambda: models.vision_transformer(30, 1, 4), "width must be a multiple of heads, got 30"),
    ],
)
def test_bad_sizes_are_named(build, words):
    with pytest.raises(ValueError, match=words):
        build()


# Capturing layers by name.


def test_capture_our_layers():
    model = models.residual(8)
    layers = ["stem", "stage1", "stage2", "stage3", "embedding", "classifier"]
    with models.capture(model, layers) as shown:
        logits = model(torch.randn(2, 1, 28, 28))
    assert [tuple(shown[name].shape) for name in layers] == [
        (2, 8, 14, 14),
        (2, 8, 14, 14),
        (2, 16, 7, 7),
        (2, 32, 4, 4),
        (2, 32),
        (2, 10),
    ]
    assert torch.equal(shown["classifier"], logits)
    shown["stage1"].sum().backward()
    assert model.stem[0].weight.grad is not None


def test_capture_any_model_as_torchvision_does():
    model = torchvision.models.resnet18(weights=None).eval()
    images = torch.randn(2, 3, 64, 64)
    layers = ["layer1", "layer4", "avgpool"]
    with torch.no_grad(), models.capture(model, layers) as shown:
        model(images)
    with torch.no_grad():
        expected = create_feature_extractor(model, layers)(images)
    assert list(shown) == layers
    for name in layers:
        assert torch.equal(shown[name], expected[name])


def test_the_logit_map_is_averaged_to_the_logits():
    net, images = models.plain(2, classes=3, seed=0), torch.rand(2, 1, 28, 28)
    with models.capture(net, ["stage3|classifier", "stage3", "classifier"]) as shown:
        logits = net(images)
    map_ = shown["stage3|classifier"]
    assert map_.shape == (2, 3, *shown["stage3"].shape[2:])
    torch.testing.assert_close(map_.mean(dim=(2, 3)), logits)
    torch.testing.assert_close(shown["classifier"], logits)
    found = torch.autograd.grad(map_[:, 1].mean(), net.classifier.weight, retain_graph=True)
    torch.testing.assert_close(
        found, torch.autograd.grad(logits[:, 1].mean(), net.classifier.weight)
    )


@pytest.mark.parametrize("name", ["stage2|classifier", "stage3|stage2", "classifier|classifier"])
def test_a_logit_map_needs_a_linear_layer_that_fits(name):
    net = models.plain(2, classes=3, seed=0)
    words = "must be a linear layer of as many inputs as the features .* before it have channels"
    with pytest.raises(ArgumentError, match=words), models.capture(net, [name]):
        net(torch.rand(2, 1, 28, 28))


def test_hooks_are_gone_afterwards_even_after_an_error():
    model = models.plain(2)
    with pytest.raises(RuntimeError), models.capture(model, ["stem"]):
        model(torch.randn(2, 5, 28, 28))
    with pytest.raises(ValueError, match="no layer"), models.capture(model, ["stem", "nowhere"]):
        pass
    assert not any(module._forward_hooks for module in model.modules())


def test_a_misspelt_layer_gets_a_hint():
    with (
        pytest.raises(ValueError, match=r"ConvNet has no layer 'stage4'.*stage3"),
        models.capture(models.plain(2), ["stage4"]),
    ):
        pass


def test_a_layer_without_a_tensor_is_a_type_error():
    class Named(nn.Module):
        def forward(self, inputs):
            return {"name": "tokens", "lengths": (2, 5), "none": None}

    with (
        pytest.raises(TypeError, match="layer '0' returns a dict, which holds no tensor"),
        models.capture(model := nn.Sequential(Named()), ["0"]),
    ):
        model(torch.randn(2, 5, 3))


def test_of_a_layer_that_returns_several_things_the_first_tensor_is_recorded():
    class Several(nn.Module):
        def forward(self, inputs):
            return {"none": None, "hidden": (None, [inputs, inputs + 1]), "other": inputs + 2}

    inputs = torch.randn(2, 5, 3)
    with models.capture(model := nn.Sequential(Several()), ["0"]) as shown:
        model(inputs)
    assert shown["0"] is inputs


def test_a_negative_number_counts_layers_from_the_end():
    layers = nn.ModuleDict({"first": nn.Linear(3, 3), "second": nn.Linear(3, 3)})
    net = nn.Sequential(nn.Sequential(*layers.values()), nn.Sequential(nn.ReLU(), nn.Tanh()))
    with models.capture(net, ["-1.-2", "1.0", "0.-1", "-2.1", "-1"]) as shown:
        logits = net(torch.randn(4, 3))
    assert shown["-1"] is logits
    assert shown["-1.-2"] is shown["1.0"]
    assert shown["0.-1"] is shown["-2.1"]
    for name in ("-3", "0.-3", "-0", "0.--1", "1.-1.-1", "nowhere.-1", "2", "0.first"):
        with pytest.raises(ValueError, match=f"no layer '{name}'"), models.capture(net, [name]):
            pass
