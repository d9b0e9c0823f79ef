"""Edits one image in five ways. The image is read once: each edit is a fork of the session that has read it.

python examples/five_edits_of_one_image.py [IMAGE]    writes edit-1.png to edit-5.png
"""

import sys

import bagel_rt

EDITS = ["make it red", "make it green", "make it yellow", "make it small", "put it on a black background"]
GUIDANCE = {"cfg_text_scale": 4.0, "cfg_img_scale": 2.0, "cfg_interval": (0.0, 1.0), "cfg_renorm_type": "text_channel"}

with bagel_rt.load("bagel-nano") as bagel:
    image = sys.argv[1] if len(sys.argv) > 1 else bagel.generate("a big blue square", seed=1).image
    with bagel.session(seed=1) as reading:
        reading.add_image(image)
        for number, words in enumerate(EDITS, start=1):
            with reading.fork() as editing:
                editing.add_text(words)
                editing.generate_image(**GUIDANCE).save(f"edit-{number}.png")
            print(f"edit-{number}.png  {words}")
        print(f"ViT calls for {len(EDITS)} edits: {bagel.graphs.calls['vit']}")
