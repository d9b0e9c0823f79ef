"""The model's incremental interface: tensors are prepared by one method and consumed by another, one sample each."""

from itertools import pairwise
from types import SimpleNamespace

import torch
from torch import nn

from bagel_export.reference.bagel import PositionEmbedding, TimestepEmbedder
from bagel_export.reference.sampling import guided, scales, schedule
from bagel_export.reference.vision import GeluMLP
from bagel_rt.inputs.images import patchify, position_ids
from bagel_rt.options.image_options import ImageOptions


class BagelConfig(SimpleNamespace):
    pass


class Bagel(nn.Module):
    def __init__(self, language_model, vit_model, config: BagelConfig):
        super().__init__()
        self.config, self.language_model, self.vit_model = config, language_model, vit_model
        hidden, self.latent_patch_size = config.llm_config.hidden_size, config.latent_patch_size
        self.latent_channel = config.vae_config.z_channels
        self.latent_downsample = config.vae_config.downsample * config.latent_patch_size
        width = self.latent_channel * config.latent_patch_size**2
        self.time_embedder = TimestepEmbedder(hidden)
        self.vae2llm, self.llm2vae = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.latent_pos_embed = PositionEmbedding(config.max_latent_size, hidden)
        self.connector = GeluMLP(config.vit_config.hidden_size, hidden, hidden)
        self.vit_pos_embed = PositionEmbedding(config.vit_max_num_patch_per_side, hidden)

    # Preparing

    def _common(self, curr_kvlens, positions):
        (past,) = curr_kvlens
        return {
            "packed_indexes": torch.arange(past, past + len(positions)),
            "packed_key_value_indexes": torch.arange(past),
            "key_values_lens": torch.tensor([past], dtype=torch.int),
            "packed_position_ids": torch.tensor(positions),
            "packed_seqlens": torch.tensor([len(positions)], dtype=torch.int),
        }

    def _markers(self, new_token_ids, count):
        ids = [new_token_ids["start_of_image"], new_token_ids["end_of_image"]]
        return {"packed_text_ids": torch.tensor(ids), "packed_text_indexes": torch.tensor([0, count + 1])}

    def prepare_prompts(self, curr_kvlens, curr_rope, prompts, tokenizer, new_token_ids):
        (text,), (past,), (rope,) = prompts, curr_kvlens, curr_rope
        ids = [new_token_ids["bos_token_id"], *tokenizer.encode(text), new_token_ids["eos_token_id"]]
        made = {
            "text_token_lens": torch.tensor([len(ids)], dtype=torch.int),
            "packed_text_ids": torch.tensor(ids),
            "packed_text_position_ids": torch.arange(rope, rope + len(ids)),
            "packed_text_indexes": torch.arange(past, past + len(ids)),
            "packed_key_value_indexes": torch.arange(past),
            "key_values_lens": torch.tensor([past], dtype=torch.int),
        }
        return made, [past + len(ids)], [rope + len(ids)]

    def prepare_vit_images(self, curr_kvlens, curr_rope, images, transforms, new_token_ids):
        (image,), (past,), (rope,) = images, curr_kvlens, curr_rope
        pixels, patch = transforms(image), self.config.vit_config.patch_size
        grid = (pixels.shape[1] // patch, pixels.shape[2] // patch)
        rows = torch.from_numpy(patchify(pixels.numpy(), patch))
        made = {
            **self._common(curr_kvlens, [rope] * (len(rows) + 2)),
            **self._markers(new_token_ids, len(rows)),
            "packed_vit_tokens": rows,
            "packed_vit_position_ids": torch.from_numpy(position_ids(grid, self.config.vit_max_num_patch_per_side)),
            "packed_vit_token_indexes": torch.arange(1, len(rows) + 1),
            "vit_token_seqlens": torch.tensor([len(rows)], dtype=torch.int),
        }
        return made, [past + len(rows) + 2], [rope + 1]

    def prepare_vae_images(self, curr_kvlens, curr_rope, images, transforms, new_token_ids, timestep=0):
        (image,), (past,), (rope,) = images, curr_kvlens, curr_rope
        pixels = transforms(image)
        high, wide = (side // self.latent_downsample for side in pixels.shape[1:])
        made = {
            **self._common(curr_kvlens, [rope] * (high * wide + 2)),
            **self._markers(new_token_ids, high * wide),
            "padded_images": pixels[None],
            "patchified_vae_latent_shapes": [(high, wide)],
            "packed_vae_position_ids": torch.from_numpy(position_ids((high, wide), self.config.max_latent_size)),
            "packed_timesteps": torch.tensor([timestep]),
            "packed_vae_token_indexes": torch.arange(1, high * wide + 1),
        }
        return made, [past + high * wide + 2], [rope + 1]

    def prepare_vae_latent(self, curr_kvlens, curr_rope, image_sizes, new_token_ids):
        ((height, width),), (rope,) = image_sizes, curr_rope
        high, wide = height // self.latent_downsample, width // self.latent_downsample
        count = high * wide
        return {
            **self._common(curr_kvlens, [rope] * (count + 2)),
            **self._markers(new_token_ids, count),
            "packed_init_noises": torch.randn(count, self.latent_channel * self.latent_patch_size**2),
            "packed_vae_position_ids": torch.from_numpy(position_ids((high, wide), self.config.max_latent_size)),
            "packed_vae_token_indexes": torch.arange(1, count + 1),
        }

    def prepare_vae_latent_cfg(self, curr_kvlens, curr_rope, image_sizes):
        ((height, width),), (rope,) = image_sizes, curr_rope
        count = (height // self.latent_downsample) * (width // self.latent_downsample)
        common = self._common(curr_kvlens, [rope] * (count + 2))
        return {
            "cfg_packed_position_ids": common["packed_position_ids"],
            "cfg_key_values_lens": common["key_values_lens"],
            "cfg_packed_query_indexes": common["packed_indexes"],
            "cfg_packed_key_value_indexes": common["packed_key_value_indexes"],
        }

    def prepare_start_tokens(self, curr_kvlens, curr_rope, new_token_ids):
        (past,), (rope,) = curr_kvlens, curr_rope
        return {
            "packed_start_tokens": torch.tensor([new_token_ids["bos_token_id"]]),
            "packed_query_position_ids": torch.tensor([rope]),
            "key_values_lens": torch.tensor([past], dtype=torch.int),
            "packed_key_value_indexes": torch.arange(past),
        }

    # Consuming

    def _sequence(self, packed_text_ids, packed_text_indexes, indexes, rows):
        markers = self.language_model.model.embed_tokens(packed_text_ids)
        sequence = markers.new_zeros(len(markers) + len(rows), markers.shape[1])
        sequence[packed_text_indexes] = markers
        sequence[indexes] = rows
        return sequence

    def forward_cache_update_text(
        self,
        past_key_values,
        packed_text_ids,
        packed_text_position_ids,
        text_token_lens,
        packed_text_indexes,
        packed_key_value_indexes,
        key_values_lens,
    ):
        return self.language_model.forward_inference(
            packed_query_sequence=self.language_model.model.embed_tokens(packed_text_ids),
            query_lens=text_token_lens,
            packed_query_position_ids=packed_text_position_ids,
            packed_query_indexes=packed_text_indexes,
            past_key_values=past_key_values,
            packed_key_value_indexes=packed_key_value_indexes,
            key_values_lens=key_values_lens,
            update_past_key_values=True,
            is_causal=True,
            mode="und",
        ).past_key_values

    def _image_pass(self, past_key_values, sequence, made, **more):
        return self.language_model.forward_inference(
            packed_query_sequence=sequence,
            query_lens=made["packed_seqlens"],
            packed_query_position_ids=made["packed_position_ids"],
            packed_query_indexes=made["packed_indexes"],
            past_key_values=past_key_values,
            packed_key_value_indexes=made["packed_key_value_indexes"],
            key_values_lens=made["key_values_lens"],
            is_causal=False,
            **more,
        )

    def forward_cache_update_vit(self, past_key_values, **made):
        ids, count = made["packed_vit_position_ids"], int(made["vit_token_seqlens"])
        features = self.vit_model(
            packed_pixel_values=made["packed_vit_tokens"],
            packed_flattened_position_ids=ids,
            cu_seqlens=torch.tensor([0, count], dtype=torch.int),
            max_seqlen=count,
        )
        rows = self.connector(features) + self.vit_pos_embed(ids)
        indexes = made["packed_vit_token_indexes"]
        sequence = self._sequence(made["packed_text_ids"], made["packed_text_indexes"], indexes, rows)
        out = self._image_pass(past_key_values, sequence, made, update_past_key_values=True, mode="und")
        return out.past_key_values

    def forward_cache_update_vae(self, vae_model, past_key_values, **made):
        latent = vae_model.encode(made["padded_images"])
        tokens = torch.from_numpy(patchify(latent[0].numpy(), self.latent_patch_size))
        out = self._latent_pass(past_key_values, tokens, made["packed_timesteps"], made, update_past_key_values=True)
        return out.past_key_values

    def _latent_pass(self, past_key_values, tokens, t, made, update_past_key_values):
        indexes, texts = made["packed_vae_token_indexes"], made["packed_text_indexes"]
        embedded = self.vae2llm(tokens) + self.time_embedder(t) + self.latent_pos_embed(made["packed_vae_position_ids"])
        sequence = self._sequence(made["packed_text_ids"], texts, indexes, embedded)
        more = {"mode": "gen", "packed_vae_token_indexes": indexes, "packed_text_indexes": texts}
        return self._image_pass(past_key_values, sequence, made, update_past_key_values=update_past_key_values, **more)

    def generate_image(self, past_key_values, num_timesteps=24, timestep_shift=1.0, cfg_interval=(0, 1), **made):
        options = ImageOptions(
            cfg_text_scale=made.pop("cfg_text_scale"),
            cfg_img_scale=made.pop("cfg_img_scale"),
            cfg_interval=tuple(cfg_interval),
            cfg_renorm_min=made.pop("cfg_renorm_min"),
            cfg_renorm_type=made.pop("cfg_renorm_type"),
        )
        x, times = made.pop("packed_init_noises"), schedule(num_timesteps, timestep_shift)
        for t, after in pairwise(times):
            text, image = scales(options, t)
            v = self._forward_flow(
                x_t=x,
                timestep=t.repeat(len(x)),
                past_key_values=past_key_values,
                cfg_text_scale=text,
                cfg_img_scale=image,
                options=options,
                **made,
            )
            x = x - v * (t - after)
        return (x,)

    def _forward_flow(self, x_t, timestep, past_key_values, cfg_text_scale, cfg_img_scale, options, **made):
        def velocity(cache, positions):
            branch = {**made, "packed_position_ids": positions}
            out = self._latent_pass(cache, x_t, timestep, branch, update_past_key_values=False)
            return self.llm2vae(out.packed_query_sequence)[made["packed_vae_token_indexes"]]

        cond, text, image = velocity(past_key_values, made["packed_position_ids"]), None, None
        if cfg_text_scale > 1.0:
            text = velocity(made["cfg_text_past_key_values"], made["cfg_text_packed_position_ids"])
        if cfg_img_scale > 1.0:
            image = velocity(made["cfg_img_past_key_values"], made["cfg_img_packed_position_ids"])
        return guided(cond, text, image, options, timestep[0])

    def generate_text(
        self,
        past_key_values,
        packed_key_value_indexes,
        key_values_lens,
        packed_start_tokens,
        packed_query_position_ids,
        max_length,
        do_sample=False,
        temperature=1.0,
        end_token_id=None,
    ):
        tokens, written = packed_start_tokens, []
        while len(written) < max_length:
            written.append(tokens)
            out = self.language_model.forward_inference(
                packed_query_sequence=self.language_model.model.embed_tokens(tokens),
                query_lens=torch.ones_like(tokens),
                packed_query_position_ids=packed_query_position_ids,
                packed_query_indexes=key_values_lens,
                past_key_values=past_key_values,
                key_values_lens=key_values_lens,
                packed_key_value_indexes=packed_key_value_indexes,
                update_past_key_values=True,
                is_causal=True,
                mode="und",
            )
            past_key_values = out.past_key_values
            logits = self.language_model.lm_head(out.packed_query_sequence)
            if do_sample:
                tokens = torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1)[:, 0]
            else:
                tokens = logits.argmax(dim=-1)
            packed_query_position_ids, key_values_lens = packed_query_position_ids + 1, key_values_lens + 1
            if tokens[0] == end_token_id:
                break
        return torch.stack(written)
