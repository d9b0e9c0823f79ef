"""Reads prompt, seed and options back from a PNG that bagel-rt wrote, and draws the same picture again.

python examples/settings_from_png.py [PICTURE.png]    writes again.png
"""

import sys

import numpy as np
from PIL import Image

import bagel_rt
from bagel_rt.results import read_metadata

with bagel_rt.load("bagel-nano") as bagel:
    path = sys.argv[1] if len(sys.argv) > 1 else "first.png"
    if len(sys.argv) < 2:
        bagel.generate("a green ring above a red square", seed=7).save(path)
    record = read_metadata(path)
    print(f"{path}: {record['prompt']!r}, seed {record['seed']}, drawn by {record['model']} on {record['engine']}")
    options = {name: value for name, value in record["options"].items() if value is not None}
    again = bagel.generate(record["prompt"], **options)
    again.save("again.png")
    same = np.array_equal(np.asarray(Image.open(path)), np.asarray(again.image))
    print(f"again.png is {'the same picture' if same else 'another picture: another model or engine?'}")
