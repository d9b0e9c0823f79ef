"""Draws a picture for every line of a text file: the model is loaded once, and every prompt has the same seed.

python examples/batch_of_prompts.py [PROMPTS.txt]    writes 01.png, 02.png, ...
"""

import sys
import time
from pathlib import Path

import bagel_rt

PROMPTS = ["a red ring", "two blue squares", "a green triangle on a yellow background"]

prompts = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines() if len(sys.argv) > 1 else PROMPTS
with bagel_rt.load("bagel-nano") as bagel:
    for number, prompt in enumerate(filter(None, prompts), start=1):
        begun = time.perf_counter()
        bagel.generate(prompt, seed=1).save(f"{number:02}.png")
        print(f"{number:02}.png  {prompt}  ({time.perf_counter() - begun:.1f} s)")
