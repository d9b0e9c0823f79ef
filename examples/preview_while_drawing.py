"""Saves what a picture looks like while it is drawn: a stream is a for loop over events.

python examples/preview_while_drawing.py [PROMPT]    writes preview-10.png, preview-20.png, ..., finished.png
"""

import sys

import bagel_rt

prompt = sys.argv[1] if len(sys.argv) > 1 else "a blue square left of a yellow triangle"
with bagel_rt.load("bagel-nano") as bagel:
    for event in bagel.stream(prompt, seed=31):
        if isinstance(event, bagel_rt.Step) and event.done % 10 == 0:
            # decodes the picture that the step is heading for; leave the loop to cancel the drawing
            bagel.preview(event).save(f"preview-{event.done}.png")
            print(f"step {event.done} of {event.total}, time {event.t:.2f}: preview-{event.done}.png")
        if isinstance(event, bagel_rt.Done):
            event.result.save("finished.png")
            print("finished.png")
