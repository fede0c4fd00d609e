"""The small vision transformer: as PyTorch builds one, with all of its layers in sight."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.optim import AdamW
from toys import CLASSES, train
from toys import net as conv_net

from kdcourse import AttentionTransfer, CrossEntropy, FeatureHint, Saliency, models
from kdcourse.models import vision_transformer
from kdcourse.training import FoldedTeacher


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


PIXELS = drawn(4, 1, 28, 28)


@pytest.fixture
def net():
    return vision_transformer(12, 2, 3, seed=0).eval()


def test_a_block_is_pytorchs(net):
    theirs = nn.TransformerEncoderLayer(
        12, 3, 24, 0.0, "gelu", batch_first=True, norm_first=True
    ).eval()
    ours, tokens = net.stage2, drawn(4, 50, 12)
    pairs = [
        (theirs.self_attn.out_proj, ours.attention.projection),
        (theirs.norm1, ours.attention.norm),
        (theirs.norm2, ours.mlp[0]),
        (theirs.linear1, ours.mlp[1]),
        (theirs.linear2, ours.mlp[3]),
    ]
    for other, own in pairs:
        other.load_state_dict(own.state_dict())
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(ours.attention.vectors.weight)
        theirs.self_attn.in_proj_bias.copy_(ours.attention.vectors.bias)
    torch.testing.assert_close(ours(tokens), theirs(tokens), rtol=1e-5, atol=1e-5)


def test_layers(net):
    layers = ["stem", "stage1", "stage2", "stage2.attention.matrix", "embedding", "classifier"]
    with models.capture(net, layers) as shown:
        logits = net(PIXELS)
    assert [tuple(shown[name].shape) for name in layers] == [
        *[(4, 50, 12)] * 3,
        *((4, 3, 50, 50), (4, 12), (4, 10)),
    ]
    torch.testing.assert_close(shown["stage2.attention.matrix"].sum(3), torch.ones(4, 3, 50))
    assert torch.equal(shown["classifier"], logits)
    assert torch.equal(shown["stem"][:, 0], net.stem.class_token[:, 0].expand(4, -1))


def test_layers_are_seen_in_inference_too_and_change_nothing(net):
    layers = [name for name, _ in net.named_modules() if name]
    expected = net(PIXELS)
    with torch.inference_mode():
        plain = net(PIXELS)
        with models.capture(net, layers) as shown:
            watched = net(PIXELS)
    assert shown.keys() == set(layers)
    assert torch.equal(plain, watched)
    assert torch.equal(plain, expected)


def test_patches_are_tokens_from_left_to_right_and_top_to_bottom(net):
    pixels = torch.zeros(1, 1, 28, 28)
    pixels[:, :, 4:8, 8:12] = 1  # the patch in row 1 and column 2
    with torch.no_grad():
        changed = net.stem(pixels) - net.stem(torch.zeros_like(pixels))
    assert changed.abs().amax(2).nonzero().tolist() == [[0, 1 + 1 * 7 + 2]]


def test_positions_are_interpolated_for_other_sizes(net):
    with torch.no_grad():
        net.stem.patches.weight.zero_()
        net.stem.patches.bias.zero_()
        net.stem.positions.copy_(torch.arange(7.0).expand(1, 12, 7, 7))  # the column
        tokens = net.stem(torch.zeros(1, 1, 56, 28))[0, 1:]
        assert net(torch.zeros(2, 1, 32, 20)).shape == (2, 10)
    assert torch.equal(tokens, torch.arange(7.0).repeat(14)[:, None].expand(-1, 12))


def test_what_the_positions_are_for(net):
    """Without them, the classifier would not see where the patches are."""
    shuffled = PIXELS.unflatten(2, (7, 4)).flip(2).flatten(2, 3)
    with torch.no_grad():
        assert not torch.allclose(net(shuffled), net(PIXELS), atol=1e-5)
        net.stem.positions.zero_()
        torch.testing.assert_close(net(shuffled), net(PIXELS), rtol=1e-4, atol=1e-5)


def test_vmap_over_nets_equals_a_loop():
    nets = [vision_transformer(8, 1, 2, seed=seed).eval() for seed in range(3)]
    weights, buffers = stack_module_state(nets)

    def called(weights, buffers):
        return functional_call(nets[0], (weights, buffers), (PIXELS,))

    found = vmap(called)(weights, buffers)
    torch.testing.assert_close(found, torch.stack([one(PIXELS) for one in nets]))


def test_it_can_be_a_teacher_whose_layers_nobody_asks_for(net):
    torch.testing.assert_close(FoldedTeacher(net)(PIXELS), net(PIXELS))


def test_it_compiles_in_one_graph(net):
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(PIXELS), net(PIXELS))


def test_gradients_can_be_differentiated_again():
    net = vision_transformer(4, 1, 2, classes=3, seed=0).double()
    inputs = drawn(1, 1, 8, 8).double().requires_grad_()
    with torch.no_grad():  # larger ones than at the start
        net.stem.positions.mul_(50)
    assert torch.autograd.gradgradcheck(lambda x: net(x).square().sum(), inputs)


def test_it_learns_and_is_taught_by_layers(device):
    student = models.by_name("vit-small", classes=CLASSES, seed=1)
    tokens = {"channel_dim": (-1, 1), "class_token": (True, False)}
    objective = CrossEntropy() + Saliency() + 0.1 * FeatureHint("stage2", **tokens)
    objective = objective + AttentionTransfer(["stage3"], **tokens)
    rate = {"optimizer": partial(AdamW, lr=3e-3), "epochs": 4, "batch_size": 16}
    history = train(student, objective, teacher=conv_net(seed=2), device=device, **rate)
    assert history["cross_entropy"][-1] < 0.7 * history["cross_entropy"][0]
