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


@pytest.mark.parametrize("name", ["resnet20", "resnet8x4", "resnet50", "vgg8", "vgg13"])
def test_a_stage_is_seen_before_its_last_relu(name):
    model = models.by_name(name, channels=3, classes=100, seed=0).eval()
    before = "-2" if name.startswith("vgg") else "-1.sum"
    stages = [f"stage{number}" for number in range(1, model.stages + 1)]
    layers = [*stages, *(f"{stage}.{before}" for stage in stages)]
    with models.capture(model, layers) as shown, torch.no_grad():
        model(IMAGES)
    for stage in stages:
        assert shown[f"{stage}.{before}"].min() < 0
        assert torch.equal(shown[stage], shown[f"{stage}.{before}"].relu())
    assert not any("sum" in key for key in model.state_dict())


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
        found, expected = (net.double()(inputs.double()) for net in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_resnet50_is_torchvisions_behind_another_stem():
    from torchvision.models import resnet50

    theirs = resnet50(num_classes=7)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    nn.init.kaiming_normal_(theirs.conv1.weight)
    assert_same(*copied(models.resnet50(classes=7), theirs))


WIDTHS = {8: [64, 128, 256, 512, 512], 13: [64, 64, 128, 128, 256, 256, 512, 512, 512, 512]}


@pytest.mark.parametrize("depth", WIDTHS)
def test_vgg_is_torchvisions_with_one_pooling_less(depth):
    from torchvision.models.vgg import make_layers

    widths, each = WIDTHS[depth], len(WIDTHS[depth]) // 5
    stages = [widths[i : i + each] for i in range(0, len(widths), each)]
    made = [part for stage in stages[:3] for part in (*stage, "M")] + stages[3] + stages[4]
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 7)]
    theirs = nn.Sequential(*make_layers(made, batch_norm=True), *pooled)
    assert_same(*copied(models.vgg(depth, classes=7), theirs))


def test_mobilenetv2_is_torchvisions_with_three_changes():
    """Three convolutions in the first block, stride 1 in the second stage, ReLU without a bound."""
    from torchvision.models.mobilenetv2 import InvertedResidual, MobileNetV2

    def block(before, width, stride, expand_ratio, norm_layer):
        made = InvertedResidual(before, width, stride, max(expand_ratio, 2), norm_layer)
        if expand_ratio == 1:  # not expanded, but by a convolution
            made.conv[0][0] = nn.Conv2d(before, before, 1, bias=False)
            made.conv[0][1], made.conv[1][1] = nn.BatchNorm2d(before), nn.BatchNorm2d(before)
            made.conv[1][0] = nn.Conv2d(before, before, 3, padding=1, groups=before, bias=False)
            made.conv[2] = nn.Conv2d(before, width, 1, bias=False)
        return made

    rows = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2)]
    rows += [(6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    theirs = MobileNetV2(7, 0.5, rows, round_nearest=1, block=block)
    for part in theirs.modules():
        for name, child in part.named_children():
            if isinstance(child, nn.ReLU6):
                setattr(part, name, nn.ReLU())
    assert_same(*copied(models.mobilenetv2(classes=7), theirs))


@pytest.mark.parametrize(("channels_out", "stride"), [(12, 1), (16, 2)])
def test_blocks_of_mobilenet_are_torchvisions_below_the_bound_of_relu6(channels_out, stride):
    from torchvision.models.mobilenetv2 import InvertedResidual

    theirs = InvertedResidual(12, channels_out, stride, expand_ratio=6)
    ours, theirs = copied(models.InvertedResidual(12, channels_out, stride), theirs)
    features = torch.randn(2, 12, 8, 8, generator=torch.Generator().manual_seed(0))
    assert_same(ours, theirs, features / 10)


@pytest.mark.parametrize("depth", [20, 32, 56, 110])
def test_resnets_are_torchdistills(depth):
    from torchdistill.models.classification import resnet

    theirs = getattr(resnet, f"resnet{depth}")(num_classes=100)
    assert_same(*copied(models.resnet(depth), theirs))


@pytest.mark.parametrize("depth", [8, 32])
def test_wider_resnets_are_made_of_torchvisions_blocks(depth):
    from torchvision.models.resnet import BasicBlock

    def shortcut(before, width, stride):
        return nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    blocks, before = [], 32
    for width, stride in ((64, 1), (128, 2), (256, 2)):
        blocks.append(BasicBlock(before, width, stride, shortcut(before, width, stride)))
        blocks += [BasicBlock(width, width) for _ in range((depth - 2) // 6 - 1)]
        before = width
    stem = [nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 7)]
    theirs = nn.Sequential(*stem, *blocks, *head)
    assert_same(*copied(models.resnet(depth, widen=4, classes=7), theirs))


@pytest.mark.parametrize("depth", [16, 40])
def test_wide_resnets_are_torchdistills_but_for_what_shortcuts_see(depth):
    """There they see the features; here, as in the paper's code, what batch norm makes of them."""
    from torchdistill.models.classification.wide_resnet import WideBasicBlock, WideResNet4Cifar

    class Block(WideBasicBlock):
        def forward(self, features):
            active = self.relu(self.bn1(features))
            kept = self.shortcut(active) if len(self.shortcut) else features
            return kept + self.conv2(self.relu(self.bn2(self.conv1(active))))

    theirs = WideResNet4Cifar(depth, 2, 0.0, Block, 7)
    assert_same(*copied(models.wide_resnet(depth, 2, classes=7), theirs))


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
