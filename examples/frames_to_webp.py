"""Makes an animation: every frame is an edit of the one before it.

python examples/frames_to_webp.py [IMAGE PROMPT]    writes frames.webp
"""

import sys

import bagel_rt

FRAMES, MILLISECONDS = 5, 400

with bagel_rt.load("bagel-nano") as bagel:
    if len(sys.argv) > 2:
        image, words = sys.argv[1], sys.argv[2]
    else:
        image, words = bagel.generate("a red circle on a white background", seed=2).image, "move it to the right"
    frames = []
    for number in range(FRAMES):
        image = bagel.edit(image, words, seed=number).image
        frames.append(image)
        print(f"frame {number + 1} of {FRAMES}: {image.width} x {image.height}")
first, *others = (frame.resize(frames[-1].size) for frame in frames)
first.save("frames.webp", save_all=True, append_images=others, duration=MILLISECONDS, loop=0)
print("frames.webp")
