import copy

import pytest
import torch
from torch import nn
from toys import images, net, train, weights

from kdcourse import models
from kdcourse.teachers import (
    MomentumTeacher,
    count_nonzero,
    fold,
    pack,
    prune,
    prune_width,
    quantize,
    size_on_disk,
    unpack,
)
from kdcourse.training import CrossEntropy, LogitKD

INPUTS = images(8).inputs()


def layers(model):
    return [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def zeros(model):
    return [layer.weight.detach() == 0 for layer in layers(model)]


def equal(masks, others):
    return all(torch.equal(one, other) for one, other in zip(masks, others, strict=True))


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_the_smallest_weights_of_all_layers_are_zero(sparsity):
    model = net(4)
    pruned = prune(model, sparsity)
    every = torch.cat([layer.weight.detach().abs().flatten() for layer in layers(model)])
    gone = round(sparsity * len(every))
    limit = every.sort().values[gone]
    for layer, own in zip(layers(model), layers(pruned), strict=True):
        expected = torch.where(layer.weight.abs() < limit, 0.0, layer.weight)
        assert torch.equal(own.weight, expected)
    assert sum(int(mask.sum()) for mask in zeros(pruned)) == gone
    assert type(layers(model)[0]) is nn.Conv2d  # the model itself is as it was


def test_zeros_stay_zeros_after_training_saving_and_loading(tmp_path):
    dense = net(4)
    pruned = prune(dense, 0.8)
    before = zeros(pruned)
    train(pruned, CrossEntropy() + LogitKD(4), teacher=dense)
    assert equal(zeros(pruned), before)
    torch.save(pruned.state_dict(), tmp_path / "pruned.pt")
    loaded = prune(net(4, seed=9), 0.0)
    loaded.load_state_dict(torch.load(tmp_path / "pruned.pt"))
    assert equal(zeros(loaded), before)
    train(loaded, epochs=1)
    assert equal(zeros(loaded), before)
    assert equal(zeros(fold(loaded)), before)


def test_the_weights_that_are_left_are_trained():
    pruned = prune(net(4), 0.8)
    before = weights(fold(pruned))
    train(pruned, epochs=1)
    assert not torch.equal(weights(fold(pruned))["classifier.weight"], before["classifier.weight"])


def test_a_pruned_model_can_be_pruned_further_copied_and_averaged():
    once = prune(net(4), 0.5)
    once(INPUTS)  # after a forward pass too
    twice = prune(once, 0.9)
    for more, less in zip(zeros(twice), zeros(once), strict=True):
        assert (more | ~less).all()
    assert equal(zeros(copy.deepcopy(twice)), zeros(twice))
    assert equal(zeros(MomentumTeacher(twice).model), zeros(twice))
    torch.testing.assert_close(once.eval()(INPUTS), fold(once).eval()(INPUTS))


def test_channels_last():
    model = net(4).to(memory_format=torch.channels_last)
    assert equal(zeros(prune(model, 0.7)), zeros(prune(net(4), 0.7)))


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan")])
def test_bad_sparsity_is_named(sparsity):
    with pytest.raises(ValueError, match="sparsity"):
        prune(net(), sparsity)


def test_nothing_to_prune():
    with pytest.raises(ValueError, match="no linear"):
        prune(nn.Sequential(nn.ReLU()), 0.5)


@pytest.mark.parametrize("name", ["plain8", "res8", "resnet8", "wrn-10-2"])
def test_width_pruning_leaves_a_narrower_dense_net(name):
    model = models.by_name(name, classes=4, seed=0)
    narrow = prune_width(model, INPUTS, 0.5)
    assert narrow(INPUTS).shape == (8, 4)
    assert models.count_parameters(narrow) < 0.4 * models.count_parameters(model)
    assert all(type(layer) in (nn.Conv2d, nn.Linear) for layer in layers(narrow))
    train(narrow, epochs=1)


def test_half_of_plain8_is_plain4():
    narrow = prune_width(models.plain(8, seed=0), torch.zeros(1, 1, 28, 28), 0.5)
    assert models.count_parameters(narrow) == models.count_parameters(models.plain(4))


def test_no_width_pruned_is_the_same_net():
    model = net(4).eval()
    torch.testing.assert_close(prune_width(model, INPUTS, 0.0)(INPUTS), model(INPUTS))


# --- quantisation


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weights_take_few_values_in_every_channel(bits):
    quantized = quantize(net(4), bits)
    for layer in layers(quantized):
        for channel in layer.weight.detach().flatten(1):
            assert len(channel.unique()) <= 2**bits - 1


def test_eight_bits_change_little_and_two_much():
    model = net(4).eval()
    exact = model(INPUTS).detach()
    errors = [float((quantize(model, b)(INPUTS).detach() - exact).norm()) for b in (8, 4, 2)]
    assert errors[0] < 0.05 * float(exact.norm())
    assert errors == sorted(errors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_of_another_precision_keeps_it(dtype):
    """Rounded as its weights are in float32, and restored to what can be loaded again."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 10)).to(dtype)
    rounded, expected = (quantize(one, 4) for one in (model, copy.deepcopy(model).float()))
    assert torch.equal(rounded[1].weight, expected[1].weight.to(dtype))
    outputs = rounded(INPUTS.to(dtype))
    assert outputs.dtype == dtype
    torch.testing.assert_close(outputs.float(), expected(INPUTS), rtol=0.02, atol=0.02)
    plain = fold(model)
    plain.load_state_dict(unpack(pack(rounded)))
    assert torch.equal(plain[1].weight, rounded[1].weight)


def naive_rounding(row, bits):
    """Whole steps from zero, 2^b − 1 of them between the least and the largest entry, or zero."""
    low, high, levels = min(0.0, *row), max(0.0, *row), 2**bits - 1
    step = (high - low) / levels
    zero = round(-low / step)
    return [(min(max(round(x / step) + zero, 0), levels) - zero) * step for x in row]


@pytest.mark.parametrize("bits", [2, 3, 8, None])
def test_the_inputs_of_a_layer_are_rounded_by_sample(bits):
    rows = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    rows[1], rows[2] = rows[1].abs() + 1, 100 * rows[2]
    layer = quantize(nn.Sequential(nn.Linear(10, 4)), activation_bits=bits)[0]
    seen = rows if bits is None else torch.tensor([naive_rounding(r, bits) for r in rows.tolist()])
    expected = nn.functional.linear(seen, layer.weight, layer.bias)
    torch.testing.assert_close(layer(rows), expected, rtol=1e-4, atol=1e-4)


def test_rounding_has_the_least_error_among_scales():
    weight = torch.randn(1, 200, generator=torch.Generator().manual_seed(0))
    layer = nn.Linear(200, 1, bias=False)
    layer.weight.data = weight
    rounded = quantize(nn.Sequential(layer), 2, None)[0].weight
    best = min(
        float(((weight / s).round().clamp(-1, 1) * s - weight).square().sum())
        for s in torch.linspace(0.1, 3, 300)
    )
    assert float((rounded - weight).detach().square().sum()) <= 1.02 * best


def test_training_moves_the_rounded_weights():
    model = net(4)
    quantized = quantize(model, 3)
    before = weights(fold(quantized))
    train(quantized, CrossEntropy() + LogitKD(4), teacher=model)
    after = weights(fold(quantized))
    assert not torch.equal(after["classifier.weight"], before["classifier.weight"])
    for layer in layers(quantized):
        assert max(len(c.unique()) for c in layer.weight.detach().flatten(1)) <= 7


def test_pruned_and_quantised_zeros_stay_zeros():
    small = quantize(prune(net(4), 0.9), 4)
    before = zeros(prune(net(4), 0.9))
    train(small, epochs=1)
    for now, then in zip(zeros(small), before, strict=True):
        assert (now | ~then).all()
        assert torch.isfinite(now.float()).all()
    assert torch.isfinite(small(INPUTS)).all()


def test_an_answer_does_not_depend_on_the_rest_of_the_batch():
    quantized = quantize(net(4), 4, 4).eval()
    whole = quantized(INPUTS)
    torch.testing.assert_close(quantized(INPUTS[:1]), whole[:1])


@pytest.mark.parametrize("bits", [0, 1, 9, 4.0, True])
def test_bad_bits_are_named(bits):
    with pytest.raises((ValueError, TypeError), match="bits"):
        quantize(net(), bits)
    with pytest.raises((ValueError, TypeError), match="activation_bits"):
        quantize(net(), 8, bits)


def test_what_was_rounded_is_neither_pruned_nor_rounded_again():
    with pytest.raises(ValueError, match="prune first"):
        prune(quantize(net()), 0.5)
    with pytest.raises(ValueError, match="already"):
        quantize(quantize(net()))


# --- size


MADE = {
    "dense": lambda model: model,
    "pruned": lambda model: prune(model, 0.9),
    "rounded": lambda model: quantize(model, 4),
    "both": lambda model: quantize(prune(model, 0.9), 4),
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_nothing_is_lost_on_the_way_to_disk(make):
    model = make(net(8))
    state, restored = fold(model).state_dict(), unpack(pack(model))
    assert state.keys() == restored.keys()
    for name, value in state.items():
        assert torch.equal(restored[name], value), name


def test_compressed_models_are_smaller_on_disk():
    model = models.residual(8, seed=0)
    dense, pruned, rounded, both = (size_on_disk(make(model)) for make in MADE.values())
    assert dense > 4 * models.count_parameters(model) * 0.9  # noise does not compress
    assert both < pruned < 0.5 * dense
    assert both < rounded < 0.5 * dense


def test_count_of_parameters_that_are_not_zero():
    model = net(4)
    whole = count_nonzero(model)
    gone = sum(int(mask.sum()) for mask in zeros(prune(model, 0.9)))
    assert count_nonzero(prune(model, 0.9)) == whole - gone
