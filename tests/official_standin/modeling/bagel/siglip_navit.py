"""The ViT, built with a convolution that becomes a Linear layer before weights are loaded."""

import json
from types import SimpleNamespace

from torch import nn

from bagel_export.config import ViTConfig
from bagel_export.reference.vision import VisionEmbeddings, VisionModel


class SiglipVisionConfig(SimpleNamespace):
    @classmethod
    def from_json_file(cls, path: str) -> "SiglipVisionConfig":
        with open(path, encoding="utf-8") as stream:
            return cls(**json.load(stream))


class Embeddings(VisionEmbeddings):
    def __init__(self, config: ViTConfig, grid: int):
        super().__init__(config, grid)
        self.patch_embedding = nn.Conv2d(3, config.hidden_size, config.patch_size, config.patch_size)

    def convert_conv2d_to_linear(self, config, meta=False):
        size = config.patch_size**2 * 3
        self.patch_embedding = nn.Linear(size, config.hidden_size, device="meta" if meta else None)


class SiglipVisionModel(VisionModel):
    def __init__(self, config: SiglipVisionConfig):
        names = ("hidden_size", "intermediate_size", "num_attention_heads", "patch_size", "image_size")
        sizes = {name: vars(config)[name] for name in names}
        own = ViTConfig(**sizes, num_hidden_layers=config.num_hidden_layers + 1)  # the reference drops the last itself
        super().__init__(own, own.grid)
        self.vision_model.embeddings = Embeddings(own, own.grid)

    def forward(self, packed_pixel_values, packed_flattened_position_ids, cu_seqlens, max_seqlen):
        return super().forward(packed_pixel_values, packed_flattened_position_ids)
