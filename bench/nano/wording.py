"""Sentences as people write them: synonyms, capitals, numbers as digits, no articles, questions without a mark.

They are plain sentences (bench.nano.words, bench.nano.tasks) said in another way. One in HELD_OUT of them is kept for
the score, by its letters alone, and so are some of the words that the model shall say it does not know.
"""

from __future__ import annotations

import random
import re
import zlib
from pathlib import Path

HELD_OUT = 6
NOT_KNOWN = "i do not know that word"
TRIES = 200

# what begins or fills a sentence: (pattern, ways to say it); "" keeps what was said
PHRASES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"^remove (.+)$", (r"delete \1", r"erase \1", r"take away \1", r"get rid of \1", r"remove \1 please")),
    (r"^make the background (\w+)$",
     (r"change the background to \1", r"a \1 background please", r"paint the background \1")),
    (r"^make (.+) (\w+)$", (r"turn \1 \2", r"change \1 to \2", r"paint \1 \2", r"colour \1 \2", r"color \1 \2")),
    (r"^move (.+) to the (left|right|top|bottom)$", (r"shift \1 to the \2", r"put \1 on the \2", r"move \1 \2")),
    (r"^add (.+)$", (r"put in \1", r"insert \1", r"also draw \1", r"add \1 somewhere")),
    (r"^how many (.+) are there\?$", (r"count the \1", r"number of \1?", r"how many \1?", r"how many \1 do you see?")),
    (r"^how many shapes are left without (.+)\?$", (r"how many are left if \1 go?", r"without \1, how many shapes?")),
    (r"^what colour is the background\?$", ("what is the background colour?", "colour of the background?")),
    (r"^what colour is (.+)\?$", (r"which colour is \1?", r"colour of \1?", r"what is the colour of \1?")),
    (r"^what shape is (\w+)\?$", (r"which shape is \1?", r"what is \1 here?", r"the \1 shape is what?")),
    (r"^is there (.+)\?$", (r"do you see \1?", r"can you see \1?", r"is \1 in the picture?", r"is there \1 here?")),
    (r"^is the (.+)\?$", (r"would you say the \1?", r"the \1?")),
    (r"^what is in this picture\?$", ("what's in this picture?", "describe this picture", "what do you see?")),
    (r"^(?:a picture of |an image of |draw )?((?:an? |one |two |three |four ).+)$",
     (r"please draw \1", r"show me \1", r"i want \1", r"paint \1", r"\1 please", r"can you draw \1?", r"photo of \1")),
    (r"^(.+个.+)$", (r"画\1", r"请画\1", r"一张图：\1", r"\1。")),
)  # fmt: skip
SYNONYMS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("circles", ("discs", "dots", "round shapes")), ("circle", ("disc", "dot", "round shape")),
    ("squares", ("boxes",)), ("square", ("box",)), ("rings", ("hoops",)), ("ring", ("hoop",)),
    ("crosses", ("pluses", "plus signs")), ("cross", ("plus", "plus sign")),
    ("triangles", ("triangular shapes",)), ("triangle", ("triangular shape",)),
    ("stars", ("star shapes",)), ("star", ("star shape",)),
    ("red", ("crimson",)), ("cyan", ("turquoise",)), ("purple", ("violet",)), ("gray", ("grey",)),
    ("beige", ("cream",)), ("pink", ("rose",)), ("small", ("little", "tiny")), ("big", ("large", "huge")),
    ("left of", ("to the left of", "on the left of")), ("right of", ("to the right of", "on the right of")),
    ("above", ("over",)), ("below", ("under", "beneath")), ("colour", ("color",)), ("picture", ("image",)),
    ("and", ("with", "&")), ("shapes", ("things", "objects")),
)  # fmt: skip
DIGITS = {"one": "1", "two": "2", "three": "3", "four": "4"}

# What bagel-nano was never taught the meaning of. Asked about one, it is to say so.
UNKNOWN = tuple(Path(__file__).with_name("unknown_words.txt").read_text(encoding="utf-8").split())
UNKNOWN_COLOURS = ("magenta", "maroon", "olive", "teal", "indigo", "khaki", "lavender", "silver", "golden", "brown",
                   "plaid", "striped", "transparent", "coral", "ivory", "mauve", "ochre", "salmon")  # fmt: skip
SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]


def sentence_held_out(text: str) -> bool:
    return zlib.crc32(text.encode()) % HELD_OUT == 0


def word_held_out(word: str) -> bool:
    return zlib.crc32(word.encode()) % 4 == 0


def as_people(text: str, rng: random.Random, held_out: bool) -> str:
    """A plain sentence in other words: one of those kept for the score, or one of the rest. As it was where none is
    found."""
    for _ in range(TRIES):
        if (said := _as_people(text, rng)) != text and sentence_held_out(said) == held_out:
            return said
    return text


def _as_people(text: str, rng: random.Random) -> str:
    """Two to four of the ways in which a sentence may differ, at random."""
    ways = rng.sample((_phrased, _synonyms, _digits, _bare, _unmarked, _cased), rng.randint(2, 4))
    for way in (_phrased, _synonyms, _digits, _bare, _unmarked, _cased):  # letters last: the others look for words
        text = way(text, rng) if way in ways else text
    return text


def _phrased(text: str, rng: random.Random) -> str:
    for pattern, ways in PHRASES:
        if re.match(pattern, text):
            return re.sub(pattern, rng.choice(ways), text)
    return text


def _synonyms(text: str, rng: random.Random) -> str:
    """Each word that has some, replaced in half of the sentences; never a replacement's own words."""
    chosen = {word: rng.choice(others) for word, others in SYNONYMS if rng.random() < 0.5}
    if not chosen:
        return text
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, chosen)) + r")\b")
    return pattern.sub(lambda found: chosen[found[1]], text)


def _digits(text: str, rng: random.Random) -> str:
    return re.sub(r"\b(one|two|three|four)\b", lambda found: DIGITS[found[1]], text)


def _bare(text: str, rng: random.Random) -> str:
    return re.sub(r"\b(?:a|an|the) ", "", text)


def _unmarked(text: str, rng: random.Random) -> str:
    return text[:-1] if text.endswith("?") else text + rng.choice((".", "!", ""))


def _cased(text: str, rng: random.Random) -> str:
    return rng.choice((str.capitalize, str.capitalize, str.upper, str.title))(text)


def unknown_word(rng: random.Random, held_out: bool, colour: bool = False) -> str:
    """A word to be asked about that the model was not taught: of those kept for the score, or of the rest, which are
    words that exist and words that do not."""
    while True:
        invented = not held_out and rng.random() < 0.4
        word = "".join(rng.choices(SYLLABLES, k=rng.randint(2, 4))) if invented else _word(rng, colour)
        if word_held_out(word) == held_out:
            return word


def _word(rng: random.Random, colour: bool) -> str:
    return rng.choice(UNKNOWN_COLOURS if colour else UNKNOWN)


def about_unknown(known: str, rng: random.Random, held_out: bool) -> str:
    """A question about something the model was not taught a word for. known: a shape it does know, beside it."""
    kind = rng.choice(("colour", "count", "presence", "relation", "coloured", "shape"))
    word = unknown_word(rng, held_out, kind in ("coloured", "shape"))
    article = "an" if word[0] in "aeiou" else "a"
    return {
        "colour": f"what colour is the {word}?",
        "count": f"how many {_plural(word)} are there?",
        "presence": f"is there {article} {word}?",
        "relation": f"is the {word} {rng.choice(('left of', 'right of', 'above', 'below'))} the {known}?",
        "coloured": f"is there {article} {word} {known}?",
        "shape": f"what shape is {word}?",
    }[kind]


def _plural(word: str) -> str:
    return word + ("es" if word.endswith(("s", "x", "sh", "ch")) else "s")
