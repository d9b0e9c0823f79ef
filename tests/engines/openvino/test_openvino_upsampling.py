"""On OpenVINO a doubling of the resolution and the convolution after it are one step."""

from __future__ import annotations

import numpy as np
import pytest

openvino = pytest.importorskip("openvino")

from bagel_engines.openvino.fuse_upsampling import upsample_at_once  # noqa: E402


def resampled(mode="nearest", factors=(1, 1, 2, 2), kernel=3, stride=1, pad=1, taken="floor"):
    """A model that resamples, then convolves 3 channels to 5."""
    from openvino import opset13 as ops

    x = ops.parameter([1, 3, -1, -1], np.float32)
    larger = ops.interpolate(
        x, np.array(factors, np.float32), mode, "scales", coordinate_transformation_mode="asymmetric",
        nearest_mode=taken,
    )  # fmt: skip
    weights = np.random.default_rng(1).standard_normal((5, 3, kernel, kernel)).astype(np.float32)
    y = ops.convolution(larger, weights, [stride, stride], [pad, pad], [pad, pad], [1, 1])
    return openvino.Model([y], [x])


def run(model, x: np.ndarray) -> np.ndarray:
    return openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([x])[0]


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 2), (16, 9)])
def test_one_step_gives_what_two_gave_to_the_border(size):
    x = np.random.default_rng(0).standard_normal((1, 3, *size)).astype(np.float32)
    model = resampled()
    assert upsample_at_once(model) == 1
    assert not {"Interpolate", "Convolution"} & {node.get_type_name() for node in model.get_ordered_ops()}
    np.testing.assert_allclose(run(model, x), run(resampled(), x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "other",
    [
        {"mode": "linear"},
        {"taken": "ceil"},
        {"factors": (1, 1, 3, 3)},
        {"factors": (1, 1, 2, 1)},
        {"kernel": 5, "pad": 2},
        {"stride": 2},
        {"pad": 0},
    ],
)
def test_what_is_not_such_a_pair_is_left_alone(other):
    model = resampled(**other)
    before = [node.get_type_name() for node in model.get_ordered_ops()]
    assert upsample_at_once(model) == 0
    assert [node.get_type_name() for node in model.get_ordered_ops()] == before


def test_every_doubling_of_the_decoder_is_joined(small_artefact):
    model = openvino.Core().read_model(str(small_artefact / "vae_decoder.onnx"))
    assert upsample_at_once(model) == 3
    assert upsample_at_once(model) == 0
