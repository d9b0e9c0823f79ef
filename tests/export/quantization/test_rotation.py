"""What a down projection multiplies is rotated before it is rounded to 8 bits: the same product, a smaller error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bagel_export.checkpoint.open import open_checkpoint
from bagel_export.checkpoint.synthetic import Shape, write_checkpoint
from bagel_export.quantization.precision import precision_named
from bagel_export.quantization.quantize import Layout, dequantize, quantize
from bagel_export.quantization.recipe import Treated, recipe_for, rounded_by_row
from bagel_export.quantization.rotation import hadamard, rotated, rotation_for
from bagel_export.reference.streamed import Streamed

DOWN = "language_model.model.layers.0.mlp_moe_gen.down_proj.weight"


def apart(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def rounded_weight(weight: Tensor) -> Tensor:
    layout = Layout("w8a8")
    return torch.from_numpy(dequantize(*quantize(weight.numpy(), layout), layout))


@pytest.mark.parametrize("block", [16, 32, 64, 128])
def test_a_rotation_leaves_the_product_as_it_was(block):
    random = torch.Generator().manual_seed(block)
    x, weight = torch.randn(7, 3 * block, generator=random), torch.randn(5, 3 * block, generator=random)
    torch.testing.assert_close(rotated(x, block) @ rotated(weight, block).T, x @ weight.T, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(hadamard(block) @ hadamard(block), np.eye(block), atol=1e-6)


@pytest.mark.parametrize(
    "inputs, block",
    [(18944, 128), (4736, 128), (4304, 16), (96, 32), (100, 0), (8, 0)],
)
def test_a_block_is_the_largest_power_of_two_that_divides_the_inputs_and_is_worth_it(inputs, block):
    assert rotation_for(DOWN, "w8a8", inputs) == block


@pytest.mark.parametrize(
    "name, form", [(DOWN, "fp8"), (DOWN, "int8"), (DOWN.replace("down", "up"), "w8a8"), ("vae.down_proj_in", "w8a8")]
)
def test_nothing_else_is_rotated(name, form):
    assert rotation_for(name, form, 128) == 0


def test_a_heavy_tailed_input_is_rounded_with_a_quarter_of_the_error():
    random = np.random.default_rng(0)
    x = torch.from_numpy(random.standard_t(2.5, (32, 4096)).astype(np.float32))
    weight = torch.from_numpy(random.standard_normal((64, 4096)).astype(np.float32))
    error: Callable[[Tensor, Tensor], float] = lambda x, w: apart(  # noqa: E731
        rounded_by_row(x) @ rounded_weight(w).T, exact
    )
    exact = x @ weight.T
    turned = error(rotated(x, 128), rotated(weight, 128))
    assert turned < 0.025
    assert turned < 0.3 * error(x, weight)


@pytest.fixture(scope="module")
def wide_mlp(tmp_path_factory):
    shape = Shape().with_llm(hidden_size=256, intermediate_size=1152, num_hidden_layers=1)
    return open_checkpoint(write_checkpoint(tmp_path_factory.mktemp("mlp") / "checkpoint", shape))


def test_an_mlp_rounded_to_eight_bits_is_within_three_percent_because_of_the_rotation(wide_mlp):
    recipe, model = recipe_for(wide_mlp.tensors, precision_named("w8a8")), wide_mlp.meta_model()
    assert recipe[DOWN].rotated == 128
    plain = recipe | {DOWN: replace(recipe[DOWN], rotated=0)}
    (layer,) = model.language_model.model.layers
    rows = F.rms_norm(torch.randn(48, 256, generator=torch.Generator().manual_seed(1)), (256,))

    def run(how) -> Tensor:
        kept = {name: Treated(source, how[name]) for name, source in wide_mlp.tensors.items()} if how else None
        rounding = {name: t.rounding for name, t in (kept or {}).items() if t.rounding}
        with torch.no_grad(), Streamed(model, kept or wide_mlp.tensors, rounding):
            return layer.mlp_moe_gen(rows)

    exact = run(None)
    assert apart(run(recipe), exact) < 0.03
    assert apart(run(recipe), exact) < 0.85 * apart(run(plain), exact)
