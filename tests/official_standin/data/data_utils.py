"""Special tokens by the official names."""


def add_special_tokens(tokenizer):
    names = {
        "bos_token_id": "<|im_start|>",
        "eos_token_id": "<|im_end|>",
        "start_of_image": "<|vision_start|>",
        "end_of_image": "<|vision_end|>",
    }
    return tokenizer, {name: tokenizer.id_of(token) for name, token in names.items()}, 0
