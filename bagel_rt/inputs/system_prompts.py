"""What stands first in a context: a system prompt that was given, the artefact's own, or an official one.

The official ones are those of thinking mode (inferencer.py there). Model inputs: change no letter or space.
"""

THINK_THEN_DRAW = (
    "You should first think about the planning process in the mind and then generate the image. \n"
    "The planning process is enclosed within <think> </think> tags, i.e. <think> planning process here </think>"
    " image here"
)
THINK_THEN_ANSWER = (
    "You should first think about the reasoning process in the mind and then provide the user with the answer. \n"
    "The reasoning process is enclosed within <think> </think> tags, i.e. <think> reasoning process here </think>"
    " answer here"
)


def first_of(given: str | None, kept: str | None, official: str | None) -> str | None:
    """The one system prompt of a context: as `given`, else as the artefact keeps it, else the `official` one.

    An empty text given puts the artefact's own aside.
    """
    return given or (kept if given is None else None) or official
