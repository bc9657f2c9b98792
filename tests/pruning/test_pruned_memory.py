"""Count, compare, choose and the arena of the packed file say the same of one network's memory."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from bitskip.activations import peak_activation_bytes
from bitskip.lower import lower
from bitskip.memory import bits_to_bytes, buffers, peak, place
from bitskip.nn import build
from bitskip.nn.count import count_module
from bitskip.program import Program, program_schedule
from bitskip.pruning import Analysis, analyse, compare, plan_shortcuts, remove_shortcuts
from bitskip.spec import named_spec
from bitskip.zoo import model_path, zoo_names

BITS = {"u8": 8, "i8": 8, "f32": 32, "i32": 32, "bits": 1}
EXECUTORS = ("naive", "in_place")


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build(named_spec(name)).eval()


def without(model: nn.Module, gone: list[str], example: torch.Tensor) -> nn.Module:
    analysis = analyse(model, example)
    keep = [name for name in analysis.by_id() if name not in gone]
    return remove_shortcuts(model, plan_shortcuts(model, analysis, keep, shorten=False))


def peaks_of(analysis: Analysis, removed: tuple[str, ...] = ()) -> dict[str, int]:
    assert analysis.activations is not None
    return {executor: analysis.activations.peak(removed, executor).size for executor in EXECUTORS}


def test_a_target_that_is_met_already_takes_nothing() -> None:
    model, example = network("resnet14-w1a1"), torch.zeros(1, 3, 32, 32)
    analysis = analyse(model, example)
    signs, reals = 64 * 32 * 32 // 8, 64 * 32 * 32 * 4
    assert peaks_of(analysis)["naive"] == 2 * reals + 2 * signs == 540_672
    assert plan_shortcuts(model, analysis, target_peak=560_000, shorten=False).closed == ()


def test_a_rewired_network_is_counted_as_it_is() -> None:
    model, example = network("resnet14-w1a1-x0.25"), torch.zeros(2, 3, 32, 32)
    gone = [name for name in analyse(model, example).by_id() if name.endswith(":1")]
    pruned = without(model, gone, example)
    signs, reals = 16 * 32 * 32 // 8, 16 * 32 * 32 * 4
    gain = {gain.name: gain for gain in compare(model, pruned, example)}["peak activations, naive"]
    assert (gain.before, gain.after) == (2 * reals + 2 * signs, reals + 2 * signs) == (135_168, 69_632)
    assert gain.remark == ""
    padded = 32 * 32 * 8  # bits lie in words of 64 a pixel
    arenas = [lower(network).arena_bytes for network in (model, pruned)]
    assert arenas == [90_112, 81_920] == [reals + 2 * padded + 16 * 16 * 16 * 4 // 2, reals + 2 * padded]


REWIRED = [
    ("resnet14-full-all-x0.25", ["stage1.block1", "stage3.block2"]),
    ("resnet14-w1a1-x0.25", ["stage1.block1:1", "stage2.block1:1", "stage2.block2:2"]),
    ("resnet14-hybrid-all-x0.25", ["stage2.block1"]),
]


@pytest.mark.parametrize(("name", "gone"), REWIRED)
def test_what_is_promised_is_what_is_counted_afterwards(name: str, gone: list[str]) -> None:
    model, example = network(name), torch.zeros(1, 3, 32, 32)
    pruned = without(model, gone, example)
    promised, found = analyse(model, example), analyse(pruned, example)
    assert peaks_of(promised, tuple(gone)) == peaks_of(found)
    assert peaks_of(found) == count_module(pruned, (3, 32, 32)).peak_activation_bytes
    assert promised.activations is not None
    assert found.activations is not None
    assert promised.activations.traffic(gone) == found.activations.traffic()
    gains = {gain.name: gain.after for gain in compare(model, pruned, example)}
    assert {e: gains[f"peak activations, {e}"] for e in EXECUTORS} == peaks_of(found)
    # The arena holds the same buffers; the picture is the caller's, bits are padded to words.
    program = lower(pruned)
    plain = {
        number: bits_to_bytes(tensor.shape[0] * tensor.shape[1] * tensor.shape[2], BITS[tensor.dtype])
        for number, tensor in enumerate(program.tensors)
    }
    outputs = [output.tensor for output in program.outputs]
    counted = program_schedule(program.tensors, program.ops, outputs, sizes=plain)
    assert peak(counted, in_place=True).size == peaks_of(found)["in_place"]


@pytest.mark.parametrize("head", ["fp32", "int8"])
def test_int8_layers_take_a_byte_a_value_everywhere(head: str) -> None:
    full = named_spec("resnet14-full-all-x0.25")
    spec = dataclasses.replace(full, precision=("int8",) * 3, stem_precision="int8", head_precision=head)
    torch.manual_seed(0)
    model, example = build(spec).eval(), torch.zeros(1, 3, 32, 32)
    counted = count_module(model, (3, 32, 32)).peak_activation_bytes
    assert peaks_of(analyse(model, example)) == peak_activation_bytes(spec) == counted
    assert counted["naive"] == 3 * 16 * 32 * 32  # a block's input, and a convolution's input and output
    gone = ["stage1.block1", "stage3.block2"]
    pruned = without(model, gone, example)
    promised = peaks_of(analyse(model, example), tuple(gone))
    assert promised == peaks_of(analyse(pruned, example))
    assert promised == count_module(pruned, (3, 32, 32)).peak_activation_bytes
    pictures = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    for network in (model, pruned):
        program = lower(network, activations="int8", calibration=pictures)
        assert program.arena_bytes == count_module(network, (3, 32, 32)).peak_activation_bytes["in_place"]


def test_a_network_of_another_library_is_promised_what_is_counted() -> None:
    from torchvision.models.resnet import resnet18

    torch.manual_seed(0)
    model, example = resnet18(weights=None).eval(), torch.zeros(2, 3, 64, 64)
    gone = ["layer1.0", "layer2.0", "layer2.1"]
    pruned = without(model, gone, example)
    assert peaks_of(analyse(model, example), tuple(gone)) == peaks_of(analyse(pruned, example))
    assert peaks_of(analyse(pruned, example)) == count_module(pruned, (3, 64, 64)).peak_activation_bytes


@pytest.mark.parametrize("name", ["resnet14-w1a1", "resnet14-hybrid-all-x0.25", "resnet20", "resnet50"])
def test_spec_module_and_analysis_agree(name: str) -> None:
    spec = named_spec(name)
    example = torch.zeros(1, 3, spec.input_size, spec.input_size)
    counted = count_module(build(spec), tuple(example.shape[1:])).peak_activation_bytes
    assert peaks_of(analyse(build(spec), example)) == peak_activation_bytes(spec) == counted


@pytest.mark.parametrize("name", zoo_names())
def test_the_arena_of_a_zoo_file_is_the_peak_of_its_ops(name: str) -> None:
    program = Program.load(model_path(name))
    made = program_schedule(program.tensors, program.ops, [output.tensor for output in program.outputs])
    offsets, arena = place(buffers(made), 64)
    assert arena == program.arena_bytes == peak(made, in_place=True).size
    assert offsets == {number: t.offset for number, t in enumerate(program.tensors) if number}


def test_pruning_twice_brings_nothing_back() -> None:
    model, example = network("resnet14-w1a1-x0.25"), torch.zeros(1, 3, 32, 32)
    once = without(model, ["stage1.block1:1"], example)
    twice = without(once, ["stage1.block1"], example)
    left = [len(analyse(network, example).shortcuts) for network in (model, once, twice)]
    assert left == [12, 11, 10]


@pytest.mark.parametrize("gone", [["stage1.block1", "stage1.block2"], ["stage3.block2"]])
def test_what_a_shortened_shortcut_takes_is_promised_too(gone: list[str]) -> None:
    model, example = network("resnet14-full-all-x0.25"), torch.zeros(1, 3, 32, 32)
    analysis = analyse(model, example)
    assert analysis.activations is not None
    keep = [name for name in analysis.by_id() if name not in gone]
    plan = plan_shortcuts(model, analysis, keep, shorten=True)
    assert plan.ids("shorten") == tuple(gone)
    counted = count_module(remove_shortcuts(model, plan), (3, 32, 32)).peak_activation_bytes
    promised = {e: analysis.activations.peak((), e, shortened=gone).size for e in EXECUTORS}
    assert promised == counted


def test_a_target_peak_counts_what_is_shortened_as_shortened() -> None:
    model, example = network("resnet14-full-all-x0.25"), torch.zeros(1, 3, 32, 32)
    target = 2 * 16 * 32 * 32 * 4
    plan = plan_shortcuts(model, analyse(model, example), target_peak=target, shorten=True)
    assert plan.ids("remove") == ()
    counted = count_module(remove_shortcuts(model, plan), (3, 32, 32)).peak_activation_bytes["naive"]
    assert counted is not None
    assert counted <= target
