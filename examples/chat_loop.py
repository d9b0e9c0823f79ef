"""A chat in the terminal: type text and get an answer, /image FILE to show a picture, /draw to have one drawn.

python examples/chat_loop.py    (end it with Ctrl-D) writes drawn-1.png, ...
"""

import sys
from itertools import count

import bagel_rt

names = (f"drawn-{number}.png" for number in count(1))
with bagel_rt.load("bagel-nano") as bagel, bagel.session(seed=1) as session:
    for line in map(str.strip, sys.stdin):
        try:
            if line.startswith("/image "):
                session.add_image(line.removeprefix("/image ").strip())
            elif line == "/draw":
                session.generate_image().save(name := next(names))
                print(name)
            elif line:
                session.add_text(line)
                for event in session.stream_text(max_tokens=200):
                    print(event.text if isinstance(event, bagel_rt.TextPiece) else "\n", end="", flush=True)
        except bagel_rt.BagelError as error:  # the session is as it was before the line
            print(error)
