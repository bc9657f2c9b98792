"""TorchScript and programs of torch.export: counted as any module, refused where layers are wanted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitskip.errors import LoweringError, PruningError
from bitskip.graph.foreign_forms import foreign_form
from bitskip.lower import lower
from bitskip.nn.count import count_module
from bitskip.pruning import analyse

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit")  # torch deprecates torch.jit

SHAPE = (3, 8, 8)
EXAMPLE = torch.zeros(1, *SHAPE)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return torch.relu(self.conv(x) + x).mean((2, 3))


def scripted() -> Any:
    return torch.jit.script(Residual().eval())


def traced() -> Any:
    return torch.jit.trace(Residual().eval(), EXAMPLE)


def exported() -> Any:
    return torch.export.export(Residual().eval(), (EXAMPLE,)).module()


FORMS = {"TorchScript": scripted, "TorchScript, traced": traced, "a program of torch.export": exported}


@pytest.mark.parametrize("name", FORMS)
def test_shortcuts_and_layers_are_not_looked_for_in_vain(name: str) -> None:
    model, form = FORMS[name](), name.partition(",")[0]
    assert foreign_form(model) == form
    with pytest.raises(
        PruningError, match=f"the model is {form}, in which shortcuts cannot be read; give the"
    ):
        analyse(model, EXAMPLE)
    with pytest.raises(
        LoweringError, match=f"the network is {form}, in which layers cannot be read; give the"
    ):
        lower(model, input_shape=SHAPE)
    for module in (Residual(), torch.fx.symbolic_trace(Residual()), nn.Sequential(model)):
        assert foreign_form(module) is None


@pytest.mark.parametrize("name", FORMS)
def test_a_part_of_such_a_form_is_named(name: str) -> None:
    form = name.partition(",")[0]
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(FORMS[name]()))
    assert f"'1.0' is {form}: shortcuts in it are not seen" in analyse(model, EXAMPLE).notes
    with pytest.raises(LoweringError, match=rf"'1.0' is {form}, in which layers cannot be read"):
        lower(model, input_shape=SHAPE)


def test_they_are_counted_as_the_module_is() -> None:
    macs = 4 * 3 * 3 * 3 * 8 * 8 + 4 * 4 * 3 * 3 * 8 * 8
    expected = count_module(Residual(), SHAPE)
    assert expected.macs == macs
    for make in FORMS.values():
        cost = count_module(make(), SHAPE)
        assert [(row.name, row.macs, row.parameters) for row in cost.layers] == [
            (row.name, row.macs, row.parameters) for row in expected.layers
        ]
        assert (cost.peak_activation_bytes, cost.notes) == (expected.peak_activation_bytes, ())
        inside = count_module(nn.Sequential(nn.Conv2d(3, 3, 1), make()), SHAPE)
        assert inside.macs == 3 * 3 * 8 * 8 + macs


def test_frozen_weights_are_unknown() -> None:
    cost = count_module(torch.jit.freeze(scripted()), SHAPE)
    assert (cost.parameters, cost.weight_bytes) == (None, None)
    assert cost.macs == count_module(Residual(), SHAPE).macs
    assert "are packed by RecursiveScriptModule: unknown" in cost.notes[0]
