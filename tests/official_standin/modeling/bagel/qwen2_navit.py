"""The decoder's incremental interface, over the reference's layers."""

import json
from types import SimpleNamespace

import torch

from bagel_export.config import LLMConfig
from bagel_export.reference.language import LanguageModel, rope_tables


class NaiveCache:
    def __init__(self, num_layers: int):
        self.key_cache = dict.fromkeys(range(num_layers))
        self.value_cache = dict.fromkeys(range(num_layers))


class Qwen2Config(SimpleNamespace):
    @classmethod
    def from_json_file(cls, path: str) -> "Qwen2Config":
        with open(path, encoding="utf-8") as stream:
            return cls(**json.load(stream))


class Qwen2ForCausalLM(LanguageModel):
    def __init__(self, config: Qwen2Config):
        names = LLMConfig.__dataclass_fields__
        super().__init__(LLMConfig(**{name: value for name, value in vars(config).items() if name in names}))
        self.llm = config

    def forward_inference(
        self,
        packed_query_sequence,
        query_lens,
        packed_query_position_ids,
        packed_query_indexes,
        past_key_values,
        key_values_lens,
        packed_key_value_indexes,
        update_past_key_values=True,
        is_causal=True,
        mode="und",
        packed_vae_token_indexes=None,
        packed_text_indexes=None,
    ):
        rows, count = packed_query_sequence, len(packed_query_sequence)
        gen = packed_vae_token_indexes if mode == "gen" else torch.zeros(0, dtype=torch.long)
        und = packed_text_indexes if mode == "gen" else torch.arange(count)
        order = torch.cat([und, gen])
        config = self.llm
        cos, sin = rope_tables(
            packed_query_position_ids, config.hidden_size // config.num_attention_heads, config.rope_theta
        )
        of_und, of_gen = rows[und], rows[gen]
        kept = NaiveCache(len(self.model.layers))
        for i, layer in enumerate(self.model.layers):
            past_k, past_v = past_key_values.key_cache[i], past_key_values.value_cache[i]
            if past_k is None:
                empty = torch.zeros(0, config.num_key_value_heads, cos.shape[1])
                past_k, past_v = empty, empty
            mask = torch.ones(len(und), len(past_k) + count, dtype=torch.bool)
            if is_causal:
                mask = mask.tril(len(past_k))
            past = past_k.transpose(0, 1), past_v.transpose(0, 1)
            if mode == "gen":
                of_und, of_gen, k, v = layer.step(
                    of_und, of_gen, (cos[und], sin[und]), (cos[gen], sin[gen]), *past, mask
                )
            else:
                of_und, k, v = layer.step_und(of_und, (cos, sin), *past, mask)
            kept.key_cache[i] = torch.cat([past_k, torch.zeros_like(k).index_copy(0, order, k)])
            kept.value_cache[i] = torch.cat([past_v, torch.zeros_like(v).index_copy(0, order, v)])
        normed = torch.cat([self.model.final_norm(of_und, gen=False), self.model.final_norm(of_gen, gen=True)])
        return SimpleNamespace(
            packed_query_sequence=torch.zeros_like(rows).index_copy(0, order, normed),
            past_key_values=kept if update_past_key_values else past_key_values,
        )
