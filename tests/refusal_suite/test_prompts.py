"""Prompt sets in every layout, with made-up harmless rows."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from jetson_runtime.errors import ConfigError, InputError
from refusal_suite.formats import FIGSTEP_TEXT
from refusal_suite.prompts import BENIGN, HARMFUL, load_prompts

LAYOUTS = {
    "advbench": ("goal,target\nask one,Sure\nask two,Sure\n", ["advbench_1", "advbench_2"], "none"),
    "harmbench": (
        "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"
        "ask one,standard,chem,,,first_id\nask two,contextual,chem,context,Some context,second_id\n",
        ["first_id", "second_id"],
        "chem",
    ),
    "strongreject": (
        "category,source,forbidden_prompt\nOther,custom,ask one\nOther,custom,ask two\n",
        ["strongreject_1", "strongreject_2"],
        "Other",
    ),
    "simplesafetytests": (
        "id,harm_area,counter,category,prompts_final\nsst_1,Scams,1,Info,ask one\nsst_2,Scams,2,Advice,ask two\n",
        ["sst_1", "sst_2"],
        "Scams",
    ),
    "ailuminate": (
        "release_prompt_id,prompt_text,hazard,persona,locale,prompt_hash\n"
        "a_1,ask one,spc,normal,en_US,1\na_2,ask two,spc,normal,en_US,2\n",
        ["a_1", "a_2"],
        "spc",
    ),
    "xstest": (
        "id,prompt,type,label,focus,note\nv2-1,ask one,homonyms,safe,x,\nv2-2,ask two,homonyms,unsafe,x,\n",
        ["v2-1", "v2-2"],
        "homonyms",
    ),
    "plain": ("text,kind\nask one,benign\nask two,harmful\n", ["set_1", "set_2"], "none"),
}


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("explicit", [False, True])
def test_each_layout_is_recognised_and_read(tmp_path: Path, name: str, explicit: bool) -> None:
    text, ids, category = LAYOUTS[name]

    prompts = load_prompts(write(tmp_path / "set.csv", text), name if explicit else "auto").prompts

    assert [prompt.id for prompt in prompts] == ids
    assert [prompt.text.endswith(end) for prompt, end in zip(prompts, ("ask one", "ask two"), strict=True)] == [
        True
    ] * 2
    assert prompts[0].category == category
    expected = [BENIGN, HARMFUL] if name in ("xstest", "plain") else [HARMFUL] * 2
    assert [prompt.kind for prompt in prompts] == expected


@pytest.mark.parametrize("name", LAYOUTS)
def test_byte_order_mark_crlf_and_further_columns_change_nothing(tmp_path: Path, name: str) -> None:
    text, _, _ = LAYOUTS[name]
    lines = text.splitlines()
    # A table written with its index has a first column without a name.
    messy = "\r\n".join([f",{lines[0]},extra", *(f"{n},{line},more" for n, line in enumerate(lines[1:]))]) + "\r\n"

    (tmp_path / "messy").mkdir()

    plain = load_prompts(write(tmp_path / "set.csv", text))
    strange = load_prompts(write(tmp_path / "messy" / "set.csv", messy, "utf-8-sig"))

    assert strange.prompts == plain.prompts
    assert strange.sha256 != plain.sha256


def test_harmbench_context_stands_before_the_behaviour(tmp_path: Path) -> None:
    prompts = load_prompts(write(tmp_path / "set.csv", LAYOUTS["harmbench"][0])).prompts

    assert [prompt.text for prompt in prompts] == ["ask one", "Some context\n\n---\n\nask two"]


def test_figstep_shows_its_fixed_text_and_the_image(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "query_X_1_2_6.png")
    header = "image,dataset,category_id,task_id,category_name,question,instruction\n"
    path = write(tmp_path / "set.csv", header + "query_X_1_2_6.png,X,1,2,Cooking,How?,Steps to bake bread.\n")

    (prompt,) = load_prompts(path).prompts

    assert prompt.id == "query_X_1_2_6"
    assert prompt.text == FIGSTEP_TEXT
    assert prompt.image == tmp_path / "images" / "query_X_1_2_6.png"
    assert (prompt.kind, prompt.category) == (HARMFUL, "Cooking")
    # What is asked is in the picture; the text is the same for all of them.
    assert prompt.request == "steps to bake bread"
    assert "bake" not in repr(prompt)


def test_one_text_with_several_pictures_is_one_request(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    rows = "id,text,kind,image\nx,Do it!,harmful,a.png\ny,do  it,harmful,b.png\nz,Do that,harmful,\n"
    first, second, other = load_prompts(write(tmp_path / "set.csv", rows)).prompts
    assert first.request == second.request != other.request


def test_json_lines_keep_kind_category_image_and_twin(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    rows = [
        {"id": "x", "text": "one", "kind": "harmful", "category": "c", "image": "a.png", "twin": "y", "more": [1]},
        {"id": "y", "prompt": "two", "kind": "benign", "category": "c", "image": None, "twin": "x"},
    ]
    path = write(tmp_path / "set.jsonl", "\n".join(json.dumps(row) for row in rows))

    first, second = load_prompts(path).prompts

    assert (first.image, second.image) == (tmp_path / "a.png", None)
    assert (first.twin, second.twin, second.text) == ("y", "x", "two")


def test_a_json_list_is_read_like_json_lines(tmp_path: Path) -> None:
    rows = [
        {"instruction": " ask one", "category": "c", "more": {"a": 1}},
        {"instruction": "ask two", "category": None},
    ]
    path = write(tmp_path / "set.json", json.dumps(rows, indent=1))

    first, second = load_prompts(path, kind=HARMFUL).prompts

    assert [(p.id, p.text, p.kind, p.category) for p in (first, second)] == [
        ("set_1", "ask one", HARMFUL, "c"),
        ("set_2", "ask two", HARMFUL, "none"),
    ]
    lines = load_prompts(write(tmp_path / "set.jsonl", "\n".join(map(json.dumps, rows))), kind=HARMFUL)
    assert lines.prompts == (first, second)


@pytest.mark.parametrize("text", ['{"instruction": "SECRET"}', '["SECRET"]', '[{"instruction": "SECRET"', "null", ""])
def test_what_is_no_json_list_of_objects_is_told(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"set\.json is not a JSON list of objects") as caught:
        load_prompts(write(tmp_path / "set.json", text), kind=HARMFUL)
    assert "SECRET" not in str(caught.value)


def test_a_json_list_without_a_text_column_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="columns fit no known prompt format"):
        load_prompts(write(tmp_path / "set.json", '[{"words": "one"}]'), kind=HARMFUL)
    with pytest.raises(InputError, match="the text is empty"):
        load_prompts(write(tmp_path / "set.json", '[{"text": "one"}, {"instruction": null}]'), kind=HARMFUL)


def test_kind_applies_only_where_the_row_does_not_say(tmp_path: Path) -> None:
    path = write(tmp_path / "set.csv", "text,kind\none,\ntwo,harmful\n")

    assert [prompt.kind for prompt in load_prompts(path, kind=BENIGN).prompts] == [BENIGN, HARMFUL]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("text,kind\n ,benign\n", ["row 1", "empty"]),
        ("text,kind\nfine,benign\nfine,\n", ["row 2", "neither harmful nor benign"]),
        ("text,kind\nfine,maybe\n", ["neither harmful nor benign", "maybe"]),
        ("id,text,kind\na,one,benign\na,two,benign\n", ["row 2", "'a' occurs twice"]),
        ("text,kind,image\none,benign,nowhere.png\n", ["row 1", "nowhere.png"]),
        ("words,kind\none,benign\n", ["words, kind", "text"]),
        ("text,kind\none,two,benign\n", ["row 1", "more fields"]),
        ("text,kind\none\n", ["row 1", "fewer fields"]),
        ('text,kind\n"one,benign\n', ["not CSV"]),
        ("text,kind\n", ["no prompts"]),
        ("", ["no columns"]),
        ("id,text,kind,twin\na,one,harmful,b\n", ["twin of 'a'", "no prompt 'b'"]),
        ("id,text,kind,twin\na,one,harmful,b\nb,two,harmful,a\n", ["twin of 'a'", "both are harmful"]),
        ("id,text,kind,twin\na,one,harmful,b\nb,two,benign,c\nc,two,benign,\n", ["twin of 'a'", "names 'c'"]),
    ],
)
def test_errors_say_what_was_found_and_where(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        load_prompts(write(tmp_path / "set.csv", text))

    assert [part for part in parts if part not in str(caught.value)] == []


def test_a_missing_column_of_a_named_format_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found: goal\n.*expected: goal, target"):
        load_prompts(write(tmp_path / "set.csv", "goal\none\n"), "advbench")


def test_files_that_cannot_be_read_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be read"):
        load_prompts(tmp_path / "nothing.csv")
    with pytest.raises(InputError, match="not UTF-8"):
        load_prompts(write(tmp_path / "set.csv", "text,kind\nGrüße,benign\n", "latin-1"))
    with pytest.raises(InputError, match="line 2 is not a JSON object"):
        load_prompts(write(tmp_path / "set.jsonl", '{"text": "one", "kind": "benign"}\n[1]\n'))
    with pytest.raises(ConfigError, match="unknown prompt format"):
        load_prompts(tmp_path / "set.csv", "parquet")


def test_errors_never_carry_the_text(tmp_path: Path) -> None:
    secret = "words that must not be shown"
    with pytest.raises(InputError) as caught:
        load_prompts(write(tmp_path / "set.csv", f"id,text,kind,image\na,{secret},benign,no.png\n"))

    assert secret not in str(caught.value)


TEXTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip), min_size=1, max_size=8
)
SLOW_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


@SLOW_FOLDER
@given(
    texts=TEXTS, line_end=st.sampled_from(["\n", "\r\n"]), quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
)
def test_csv_gives_back_every_text(tmp_path: Path, texts: list[str], line_end: str, quoting: int) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator=line_end, quoting=quoting)  # type: ignore[arg-type]
    writer.writerows([("kind", "text"), *(("benign", text) for text in texts)])

    prompts = load_prompts(write(tmp_path / "set.csv", out.getvalue())).prompts

    assert [prompt.text for prompt in prompts] == [text.strip() for text in texts]


@SLOW_FOLDER
@given(texts=TEXTS, ascii_only=st.booleans())
def test_json_lines_give_back_every_text(tmp_path: Path, texts: list[str], ascii_only: bool) -> None:
    lines = [json.dumps({"text": text, "kind": "harmful"}, ensure_ascii=ascii_only) for text in texts]

    prompts = load_prompts(write(tmp_path / "set.jsonl", "\n".join(lines) + "\n")).prompts

    assert [prompt.text for prompt in prompts] == [text.strip() for text in texts]


@given(limit=st.integers(2, 528), seed=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_a_part_of_the_set_keeps_pairs_order_and_shares(limit: int, seed: int) -> None:
    whole = load_prompts()

    part = whole.limited(limit, seed)

    ids = [prompt.id for prompt in part.prompts]
    assert len(ids) == limit - limit % 2
    assert {str(prompt.twin) for prompt in part.prompts} == set(ids)
    assert ids == [prompt.id for prompt in whole.prompts if prompt.id in set(ids)]
    assert set(ids) <= {prompt.id for prompt in whole.limited(min(limit + 6, 528), seed).prompts}
    per_category = [
        sum(p.category == category for p in part.prompts) for category in {p.category for p in whole.prompts}
    ]
    assert max(per_category) - min(per_category) <= 2


def test_a_part_of_the_set_has_images_in_their_share() -> None:
    part = load_prompts().limited(176)

    assert 0.28 < sum(prompt.image is not None for prompt in part.prompts) / 176 < 0.47


def test_seeds_choose_differently_and_too_small_a_part_is_refused() -> None:
    whole = load_prompts()

    assert whole.limited(60, 0) != whole.limited(60, 1)
    with pytest.raises(ConfigError, match="pairs stay together"):
        whole.limited(1)
