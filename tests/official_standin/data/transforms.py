"""The image transform: a resize, then a tensor in -1..1."""

import torch

from bagel_rt.artefact.manifest import ResizeRule
from bagel_rt.inputs.images import resize, to_pixels


class ImageTransform:
    def __init__(self, max_image_size: int, min_image_size: int, image_stride: int):
        self._rule = ResizeRule(max_image_size, min_image_size, image_stride)

    def resize_transform(self, image):
        return resize(self._rule, image)

    def __call__(self, image) -> torch.Tensor:
        return torch.from_numpy(to_pixels(self.resize_transform(image)))
