"""Asks one question about several images at once.

python examples/ask_about_images.py [QUESTION IMAGE ...]    prints the answer
"""

import sys

import bagel_rt

with bagel_rt.load("bagel-nano") as bagel:
    if len(sys.argv) > 2:
        question, images = sys.argv[1], sys.argv[2:]
    else:
        question = "what colour is the square?"
        images = [bagel.generate(prompt, seed=1).image for prompt in ("a red ring", "a blue square")]
    answer = bagel.ask(question, images, max_tokens=100)
    print(f"{question} (about {len(images)} images)")
    print(answer.text)
    print(f"{len(answer.token_ids)} tokens, seed {answer.seed}")
