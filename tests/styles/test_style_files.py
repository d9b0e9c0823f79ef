"""Style files: what is built in, and what a mistake in each field is answered."""

from __future__ import annotations

from dataclasses import fields

import pytest

from bagel_rt.errors import InputError
from bagel_rt.styles.files import BUILT_IN, read_style, read_values, style_named, style_of
from bagel_rt.styles.style import ContextRules, JudgeRules, SizeRules, TurnRules
from bagel_rt.styles.tables import IMAGE, TEXT, ReasonKeywords

# table, key, value in TOML, words of the message
MISTAKES = [
    ("", "name", '""', "name is ''; a text of one character or more is expected"),
    ("", "system", "1", "system must be a str, not int"),
    ("", "sistem", '""', "unknown key 'sistem'; did you mean system?"),
    ("turns", "next", '"tags"', "[turns] next is 'tags'; allowed: tag, token, always, never, judge"),
    ("turns", "picture_tag", '""', "[turns] picture_tag is ''; a text of one character"),
    ("turns", "picture_token", "7", "[turns] picture_token must be a str, not int"),
    ("turns", "end_token", "[]", "[turns] end_token must be a str, not list"),
    ("turns", "ends", '"x"', "[turns] ends is 'x'; a list is expected"),
    ("turns", "stop_at", '["a", ""]', "[turns] stop_at[1] is ''; a text of one character"),
    ("turns", "answer", '[["<a>"]]', "[turns] answer[0] is ['<a>']; two texts are expected"),
    ("turns", "most_turns", "0", "[turns] most_turns is 0; an integer of 1 or more is expected"),
    ("turns", "strip", '"yes"', "[turns] strip is 'yes'; True or False is expected"),
    ("turns", "failed_pictures", '"go on"', "[turns] failed_pictures is 'go on'; allowed: stop, skip"),
    ("contexts", "kept", "1", "[contexts] kept is 1; True or False is expected"),
    ("contexts", "text_view", '"both"', "[contexts] text_view is 'both'; allowed: vit, vae, vae+vit"),
    ("contexts", "text_view", '"vit"', "make them equal, or say kept = false"),
    ("contexts", "picture_view", '"VIT"', "[contexts] picture_view is 'VIT'; allowed: vit, vae, vae+vit"),
    ("contexts", "negatives", '"none"', "[contexts] negatives is 'none'; allowed: base, rebuilt, frozen, apart"),
    ("contexts", "order", '"any"', "[contexts] order is 'any'; allowed: images first, prompt first"),
    ("contexts", "before_picture", "0", "[contexts] before_picture must be a str, not int"),
    ("contexts", "after_picture", "0", "[contexts] after_picture must be a str, not int"),
    ("sizes", "vae", "[1024, 512]", "[sizes] vae is [1024, 512]; three integers are expected"),
    ("sizes", "vit", "[224, 980, 14]", "[sizes] vit is [224, 980, 14]; the least side must not be above the most"),
    ("sizes", "height", "512", "[sizes] height is 512, width None; name both, or neither"),
    ("sizes", "width", "1.5", "[sizes] width is 1.5; an integer of 1 or more is expected"),
    ("judge", "texts", "0", "[judge] texts is 0; an integer of 1 or more is expected"),
    ("judge", "suggestion", '"<s>"', "[judge] suggestion is '<s>'; two texts are expected"),
    ("judge", "good", '[""]', "[judge] good[0] is ''; a text of one character"),
    ("judge", "rounds", "-1", "[judge] rounds is -1; an integer of 1 or more is expected"),
    ("text", "max_tokens", "0", "[text] max_tokens is 0; an integer of 1 or more is expected"),
    ("text", "temperature", "1", "[text] unknown option 'temperature'; did you mean text_temperature?"),
    ("image", "cfg_interval", "[1.0, 0.0]", "[image] cfg_interval is (1.0, 0.0); the lower bound"),
    ("image", "think", "true", "[image] unknown option 'think'"),
]


@pytest.mark.parametrize("table, key, value, words", MISTAKES, ids=[f"{t}.{k}={v}" for t, k, v, _ in MISTAKES])
def test_a_mistake_in_a_style_file_is_named_with_file_table_and_key(tmp_path, table, key, value, words):
    path = tmp_path / "mine.toml"
    head = "" if key == "name" else 'name = "mine"\n'
    path.write_text(head + (f"[{table}]\n" if table else "") + f"{key} = {value}\n")
    with pytest.raises(InputError) as seen:
        read_style(path)
    assert str(seen.value).startswith(f"{path}: ")
    assert words in str(seen.value)


def test_every_field_of_a_style_has_a_mistake_above():
    named = {(table, key) for table, key, _, _ in MISTAKES}
    rules = {"turns": TurnRules, "contexts": ContextRules, "sizes": SizeRules, "judge": JudgeRules}
    assert not {(table, one.name) for table, made in rules.items() for one in fields(made)} - named


@pytest.mark.parametrize(
    "text, words",
    [
        ("name = ", "not readable as TOML: Invalid value (at end of document)"),
        ("", "key 'name' is missing"),
        ('name = "a"\nturns = 1', "[turns] it is 1; a table is expected"),
        ('name = "a"\n[picture]', "unknown key 'picture'"),
    ],
)
def test_a_file_that_is_no_style_is_refused_by_its_name(tmp_path, text, words):
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(InputError, match=r"s\.toml: ") as seen:
        read_values(tmp_path / "s.toml")
    assert words in str(seen.value)


def test_a_style_that_is_not_there_names_those_that_are():
    with pytest.raises(InputError, match="did you mean zebra-cot"):
        style_named("zebra")
    with pytest.raises(InputError, match="built in are generic, zebra-cot, thinkmorph, mathcanvas, unicot"):
        style_named("nothing.toml")
    with pytest.raises(InputError, match="style must be a name, a path or a Style, not int"):
        style_named(3)  # type: ignore[arg-type]


def test_built_in_styles_say_what_the_public_fine_tunes_do():
    zebra, morph, canvas, unicot = (style_named(name) for name in BUILT_IN[1:])
    assert (zebra.turns.next, zebra.contexts.kept, zebra.contexts.text_view) == ("always", False, "vit")
    assert zebra.contexts.order == "prompt first"
    assert zebra.sizes.vit == (980, 512, 14)
    assert (canvas.turns.next, canvas.turns.most_turns, canvas.contexts.negatives) == ("token", 10, "apart")
    assert (canvas.sizes.height, canvas.turns.strip, canvas.turns.failed_pictures) == (512, True, "skip")
    assert (morph.turns.next, morph.turns.most_turns, morph.contexts.negatives) == ("tag", 6, "frozen")
    assert morph.system.startswith("\nLet's think")
    assert morph.system.endswith("</answer>.\n")
    assert (unicot.turns.next, unicot.judge.rounds) == ("judge", 3)
    assert unicot.image_options().timestep_shift == 4.0


def test_what_no_file_names_is_as_in_an_edit_behind_pictures_and_as_in_generate_before_the_first():
    style = style_of({"name": "mine"}, "here")
    assert style.image_options(edits=True).cfg_renorm_type == "text_channel"
    assert style.image_options(edits=False).cfg_renorm_type == "global"


def test_editors_know_every_option_of_a_loop():
    assert set(ReasonKeywords.__annotations__) | {"max_tokens"} == {*TEXT, *IMAGE}


def test_the_answer_stands_between_the_tags_that_are_found_first_else_it_is_the_text():
    style = style_named("generic")
    assert style.answer_in("so <answer> two </answer>.") == "two"
    assert style.answer_in("so <answer> two") == "two"
    assert style.answer_in("Final Answer: 7 ") == "7"
    assert style.answer_in(" seven ") == "seven"
