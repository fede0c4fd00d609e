"""The nets of the literature's benchmark on CIFAR-100: its layers, and others' implementations."""

import pytest
import torch
from torch import nn

from kdcourse import models

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
# Channels and size of stem and stages, in the benchmark the features f0, f1, …; embedding's width.
SHAPES = {
    "resnet20": [(16, 32), (16, 32), (32, 16), (64, 8), 64],
    "resnet8x4": [(32, 32), (64, 32), (128, 16), (256, 8), 256],
    "wrn-16-2": [(16, 32), (32, 32), (64, 16), (128, 8), 128],
    "resnet50": [(64, 32), (256, 32), (512, 16), (1024, 8), (2048, 4), 2048],
    "vgg8": [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4), 512],
    "vgg13": [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4), 512],
    "mobilenetv2": [(16, 16), (12, 16), (16, 8), (48, 4), (160, 2), (1280, 2), 1280],
}


@pytest.mark.parametrize("name", SHAPES)
def test_layers_are_those_of_the_benchmark(name):
    *maps, width = SHAPES[name]
    with torch.device("meta"):
        model = models.by_name(name, channels=3, classes=100)
    layers = ["stem", *(f"stage{number}" for number in range(1, len(maps))), "embedding"]
    with models.capture(model, layers) as shown:
        assert model(IMAGES.to("meta")).shape == (2, 100)
    found = [tuple(shown[layer].shape[1:]) for layer in layers]
    assert found == [*((channels, size, size) for channels, size in maps), (width,)]


def copied(ours, theirs):
    """Move statistics and weights away from where they start, and copy them in their order."""
    draw = torch.Generator().manual_seed(1)
    for value in theirs.state_dict().values():
        if value.is_floating_point() and value.dim() == 1:
            value.copy_(torch.rand(value.shape, generator=draw) + 0.5)
    values = theirs.state_dict().values()
    names = ours.state_dict().keys()
    ours.load_state_dict(dict(zip(names, values, strict=True)))
    return ours.eval(), theirs.eval()


def assert_same(ours, theirs, inputs=IMAGES):
    with torch.no_grad():
        torch.testing.assert_close(ours(inputs), theirs(inputs), rtol=1e-5, atol=1e-5)


def test_resnet50_is_torchvisions_behind_another_stem():
    from torchvision.models import resnet50

    theirs = resnet50(num_classes=7)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    nn.init.kaiming_normal_(theirs.conv1.weight)
    assert_same(*copied(models.resnet50(classes=7), theirs))


def test_vgg13_is_torchvisions_with_one_pooling_less():
    from torchvision.models import vgg13_bn

    *features, _ = vgg13_bn().features
    poolings = [part for part in features if isinstance(part, nn.MaxPool2d)]
    kept = [part for part in features if part is not poolings[-1]]
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 7)]
    assert_same(*copied(models.vgg(13, classes=7), nn.Sequential(*kept, *pooled)))


@pytest.mark.parametrize(("channels_out", "stride"), [(12, 1), (16, 2)])
def test_blocks_of_mobilenet_are_torchvisions_below_the_bound_of_relu6(channels_out, stride):
    from torchvision.models.mobilenetv2 import InvertedResidual

    theirs = InvertedResidual(12, channels_out, stride, expand_ratio=6)
    ours, theirs = copied(models.InvertedResidual(12, channels_out, stride), theirs)
    features = torch.randn(2, 12, 8, 8, generator=torch.Generator().manual_seed(0))
    assert_same(ours, theirs, features / 10)


def test_resnet20_is_torchdistills():
    from torchdistill.models.classification.resnet import resnet20

    assert_same(*copied(models.resnet(20), resnet20(num_classes=100)))


def test_depth_counts_weighted_layers():
    for depth in (8, 11, 13, 16, 19):
        with torch.device("meta"):
            model = models.vgg(depth)
        # Of the original's three linear layers there is one.
        assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == depth - 2
    with torch.device("meta"):
        found = [m for m in models.resnet50().modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    shortcuts = 4
    assert len(found) == 50 + shortcuts


def test_resnet50_by_name_is_the_one_with_bottlenecks():
    with torch.device("meta"):
        named, basic = models.by_name("resnet50"), models.resnet(50)
    assert hasattr(named, "stage4")
    assert not hasattr(basic, "stage4")


def test_the_inverted_residual_adds_only_what_has_its_shape():
    features = torch.randn(2, 4, 6, 6)
    for channels_out, stride, adds in ((4, 1, True), (4, 2, False), (5, 1, False)):
        block = models.InvertedResidual(4, channels_out, stride).eval()
        nn.init.zeros_(block.residual[-1].weight)
        with torch.no_grad():
            found = block(features)
        assert torch.equal(found, features) if adds else not found.any()
