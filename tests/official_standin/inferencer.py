"""The control flow of a call, by the official names."""

from copy import deepcopy

import torch
from modeling.bagel.qwen2_navit import NaiveCache

from bagel_rt.inputs.images import to_image, unpatchify
from bagel_rt.inputs.pictures import open_image
from bagel_rt.inputs.system_prompts import THINK_THEN_ANSWER, THINK_THEN_DRAW


class InterleaveInferencer:
    def __init__(self, model, vae_model, tokenizer, vae_transform, vit_transform, new_token_ids):
        self.model, self.vae_model, self.tokenizer = model, vae_model, tokenizer
        self.vae_transform, self.vit_transform, self.new_token_ids = vae_transform, vit_transform, new_token_ids

    def init_gen_context(self):
        layers = self.model.config.llm_config.num_hidden_layers
        return {"kv_lens": [0], "ropes": [0], "past_key_values": NaiveCache(layers)}

    def _entered(self, context, prepare, forward, **given):
        made, lengths, ropes = prepare(
            curr_kvlens=context["kv_lens"], curr_rope=context["ropes"], new_token_ids=self.new_token_ids, **given
        )
        return {"kv_lens": lengths, "ropes": ropes, "past_key_values": forward(context["past_key_values"], made)}

    def update_context_text(self, text, context):
        forward = lambda cache, made: self.model.forward_cache_update_text(cache, **made)  # noqa: E731
        return self._entered(context, self.model.prepare_prompts, forward, prompts=[text], tokenizer=self.tokenizer)

    def update_context_image(self, image, context, vae=True):
        model = self.model
        if vae:
            forward = lambda cache, made: model.forward_cache_update_vae(self.vae_model, cache, **made)  # noqa: E731
            given = {"images": [image], "transforms": self.vae_transform}
            context = self._entered(context, model.prepare_vae_images, forward, **given)
        forward = lambda cache, made: model.forward_cache_update_vit(cache, **made)  # noqa: E731
        return self._entered(context, model.prepare_vit_images, forward, images=[image], transforms=self.vit_transform)

    def gen_text(self, context, max_length, do_sample, temperature):
        context = deepcopy(context)
        made = self.model.prepare_start_tokens(context["kv_lens"], context["ropes"], self.new_token_ids)
        ids = self.model.generate_text(
            past_key_values=context["past_key_values"],
            max_length=max_length,
            do_sample=do_sample,
            temperature=temperature,
            end_token_id=self.new_token_ids["eos_token_id"],
            **made,
        )
        return self.tokenizer.decode(ids[:, 0]).split("<|im_end|>")[0].split("<|im_start|>")[1]

    def gen_image(self, image_shape, context, cfg_text_precontext, cfg_img_precontext, **options):
        made = self.model.prepare_vae_latent(
            curr_kvlens=context["kv_lens"],
            curr_rope=context["ropes"],
            image_sizes=[image_shape],
            new_token_ids=self.new_token_ids,
        )
        for name, other in (("cfg_text", cfg_text_precontext), ("cfg_img", cfg_img_precontext)):
            branch = self.model.prepare_vae_latent_cfg(
                curr_kvlens=other["kv_lens"], curr_rope=other["ropes"], image_sizes=[image_shape]
            )
            made |= {
                f"{name}_past_key_values": other["past_key_values"],
                f"{name}_packed_position_ids": branch["cfg_packed_position_ids"],
                f"{name}_packed_query_indexes": branch["cfg_packed_query_indexes"],
                f"{name}_key_values_lens": branch["cfg_key_values_lens"],
                f"{name}_packed_key_value_indexes": branch["cfg_packed_key_value_indexes"],
            }
        latent = self.model.generate_image(past_key_values=context["past_key_values"], **options, **made)[0]
        stride = self.model.latent_downsample
        grid = (image_shape[0] // stride, image_shape[1] // stride)
        planes = torch.from_numpy(unpatchify(latent.numpy(), grid, self.model.latent_patch_size))[None]
        return to_image(self.vae_model.decode(planes)[0].numpy())

    def interleave_inference(
        self,
        input_lists,
        think=False,
        understanding_output=False,
        max_think_token_n=1000,
        do_sample=False,
        text_temperature=0.3,
        cfg_text_scale=3.0,
        cfg_img_scale=1.5,
        cfg_interval=(0.4, 1.0),
        timestep_shift=3.0,
        num_timesteps=50,
        cfg_renorm_min=0.0,
        cfg_renorm_type="global",
        image_shapes=(1024, 1024),
    ):
        cond, cfg_text, cfg_img = (self.init_gen_context() for _ in range(3))
        if think:
            prompt = THINK_THEN_ANSWER if understanding_output else THINK_THEN_DRAW
            cond = self.update_context_text(prompt, cond)
            cfg_img = self.update_context_text(prompt, cfg_img)
        for item in input_lists:
            if isinstance(item, str):
                cfg_text = deepcopy(cond)
                cond = self.update_context_text(item, cond)
                cfg_img = self.update_context_text(item, cfg_img)
            else:
                item = self.vae_transform.resize_transform(open_image(item))
                cond = self.update_context_image(item, cond, vae=not understanding_output)
                image_shapes, cfg_text = item.size[::-1], deepcopy(cond)
        made = []
        if understanding_output or think:
            made.append(self.gen_text(cond, max_think_token_n, do_sample, text_temperature))
        if understanding_output:
            return made
        if think:
            cond = self.update_context_text(made[0], cond)
        options = {
            "cfg_text_scale": cfg_text_scale,
            "cfg_img_scale": cfg_img_scale,
            "cfg_interval": cfg_interval,
            "timestep_shift": timestep_shift,
            "num_timesteps": num_timesteps,
            "cfg_renorm_min": cfg_renorm_min,
            "cfg_renorm_type": cfg_renorm_type,
        }
        return [*made, self.gen_image(image_shapes, cond, cfg_text, cfg_img, **options)]
