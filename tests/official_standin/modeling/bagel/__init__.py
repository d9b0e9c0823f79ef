"""Names under which the app imports the model."""

from .bagel import Bagel, BagelConfig
from .qwen2_navit import Qwen2Config, Qwen2ForCausalLM
from .siglip_navit import SiglipVisionConfig, SiglipVisionModel

__all__ = ["Bagel", "BagelConfig", "Qwen2Config", "Qwen2ForCausalLM", "SiglipVisionConfig", "SiglipVisionModel"]
