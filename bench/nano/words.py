"""What people say about scenes: prompts in English and Chinese, edits, questions and riddles."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from bench.nano.world import Thing, Wish

NUMBERS = ("zero", "one", "two", "three", "four")
OPENINGS = ("", "", "", "", "a picture of ", "an image of ", "draw ")

CHINESE = {
    "circle": "圆形", "square": "正方形", "triangle": "三角形", "star": "星星", "cross": "十字", "ring": "圆环",
    "red": "红色", "orange": "橙色", "yellow": "黄色", "green": "绿色", "cyan": "青色", "blue": "蓝色",
    "purple": "紫色", "pink": "粉色", "white": "白色", "black": "黑色", "gray": "灰色", "beige": "米色",
    "small": "小", "big": "大", "left of": "左边", "right of": "右边", "above": "上面", "below": "下面",
}  # fmt: skip
CHINESE_NUMBERS = ("零", "一", "两", "三", "四")

COUNT_RIDDLES = (
    ("a car has wheels", 4), ("a dog has legs", 4), ("a square has corners", 4), ("a table has legs", 4),
    ("a tricycle has wheels", 3), ("a traffic light has lamps", 3), ("a triangle has sides", 3),
    ("a bicycle has wheels", 2), ("a person has eyes", 2), ("a bird has wings", 2), ("a unicorn has horns", 1),
)  # fmt: skip
COLOUR_RIDDLES = (
    ("red and yellow make", "orange"), ("a carrot has", "orange"), ("blue and yellow make", "green"),
    ("grass has", "green"), ("red and blue make", "purple"), ("a grape has", "purple"), ("red and white make", "pink"),
    ("a flamingo has", "pink"), ("a banana has", "yellow"), ("the sun has", "yellow"), ("a tomato has", "red"),
    ("blood has", "red"), ("the sky has", "blue"), ("the sea has", "blue"),
)  # fmt: skip
SHAPE_RIDDLES = (
    ("a coin", "circle"), ("a wheel", "circle"), ("a slice of pizza", "triangle"), ("a tent", "triangle"),
    ("a donut", "ring"), ("a tyre", "ring"), ("a plus sign", "cross"), ("a hospital sign", "cross"),
    ("a chess field", "square"), ("a window", "square"), ("what twinkles at night", "star"), ("a starfish", "star"),
)  # fmt: skip


def noun(thing: Thing, number: int = 1) -> str:
    words = [w for w in (thing.size, thing.colour, thing.shape or "shape") if w]
    if number != 1:
        words[-1] += "es" if words[-1].endswith("s") else "s"
    return " ".join(words)


def counted(thing: Thing, number: int) -> str:
    text = noun(thing, number)
    if number != 1:
        return f"{NUMBERS[number]} {text}"
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def groups(things: Sequence[Thing]) -> list[tuple[Thing, int]]:
    """Like descriptions together, in the order of their first."""
    return list(Counter(things).items())


def listed(parts: Sequence[str], conjunction: str = " and ") -> str:
    return ", ".join(parts[:-1]) + (conjunction if len(parts) > 1 else "") + parts[-1]


def describe(wish: Wish) -> str:
    """The plain English of a wish."""
    parts = [counted(t, n) for t, n in groups(wish.things)]
    text = f" {wish.relation} ".join(parts) if wish.relation else listed(parts)
    return text + (f" on a {wish.background} background" if wish.background else "")


def prompt(wish: Wish, rng: random.Random) -> str:
    return rng.choice(OPENINGS) + describe(wish)


def chinese(wish: Wish) -> str:
    """The plain Chinese of a wish."""

    def said(thing: Thing, number: int) -> str:
        colour = CHINESE[thing.colour] + "的" if thing.colour else ""
        return (
            f"{CHINESE_NUMBERS[number]}个{CHINESE.get(thing.size or '', '')}{colour}{CHINESE[thing.shape or 'circle']}"
        )

    parts = [said(t, n) for t, n in groups(wish.things)]
    text = f"{parts[0]}在{parts[1]}的{CHINESE[wish.relation]}" if wish.relation else "和".join(parts)
    return text + (f"，{CHINESE[wish.background]}背景" if wish.background else "")


def riddle(wish: Wish, hidden: str, rng: random.Random) -> str:
    """A prompt that hides one of a wish's facts: `hidden` is number, colour or shape of its single group."""
    ((thing, number),) = groups(wish.things)
    place = f" on a {wish.background} background" if wish.background else ""
    if hidden == "number":
        clue = rng.choice([text for text, n in COUNT_RIDDLES if n == number])
        return f"as many {noun(thing, 2)} as {clue}{place}"
    if hidden == "colour":
        clue = rng.choice([text for text, c in COLOUR_RIDDLES if c == thing.colour])
        return f"{counted(Thing(thing.shape, None, thing.size), number)} in the colour {clue}{place}"
    clue = rng.choice([text for text, s in SHAPE_RIDDLES if s == thing.shape])
    look = "looks" if number == 1 else "look"
    return f"{counted(Thing(None, thing.colour, thing.size), number)} that {look} like {clue}{place}"


def thought(text: str) -> str:
    return f"<think> {text} </think>"
