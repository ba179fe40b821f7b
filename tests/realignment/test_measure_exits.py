"""`realign measure` on a LLaVA-1.5-shaped checkpoint: CLIP and Llama, four layers each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from engine_builder.reference import Reference  # noqa: E402
from jetson_runtime.errors import ConfigError, InputError  # noqa: E402
from jetson_runtime.ladder import Depth  # noqa: E402
from realignment import measure, measure_command  # noqa: E402
from realignment.cli import main  # noqa: E402
from realignment.exit_report import rates, table  # noqa: E402
from realignment.measure import chosen_pictures, measure_depths, with_pictures  # noqa: E402
from realignment.towers import Towers  # noqa: E402
from refusal_suite.judge import LABELS, judge  # noqa: E402
from refusal_suite.prompts import Prompt, PromptSet, load_prompts  # noqa: E402

FULL = (3, 4)
EVERY = [(1, 4), (2, 4), (3, 4), (4, 4), (3, 1), (3, 2), (3, 3)]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Nothing here is large enough to share between threads, and waiting for one another costs much."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.sched_getaffinity", lambda process: {0})
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tiny_llava: Callable[[str], Path]) -> Path:
    return tiny_llava("clip-llama")


@pytest.fixture(scope="module")
def towers(folder: Path) -> Towers:
    return Towers(folder)


@pytest.fixture(scope="module")
def part() -> PromptSet:
    return with_pictures(load_prompts().limited(12))


def verdict(text: str, prompt: str) -> str:
    """Random weights neither refuse nor comply, so that labels by the words would all be the same."""
    return LABELS[(sum(text.encode()) + len(prompt)) % 3]


@pytest.fixture
def by_content(monkeypatch: pytest.MonkeyPatch) -> None:
    from refusal_suite.judge import Verdict

    monkeypatch.setattr(measure, "judge", lambda text, prompt: Verdict(verdict(text, prompt), "content"))


@pytest.mark.usefixtures("by_content")
@pytest.mark.parametrize("depth", [FULL, (1, 2), (None, 3)])
def test_the_verdicts_are_those_on_transformers_own_answers(
    folder: Path, towers: Towers, part: PromptSet, depth: Any
) -> None:
    reference, vision = Reference(folder), depth[0] or 3
    expected = {}
    for prompt in part.prompts:
        image = None if depth[0] is None or prompt.image is None else prompt.image.read_bytes()
        answer = reference.text(Depth("d", vision, depth[1]), prompt.text, image, 6)
        expected[prompt.id] = verdict(answer, prompt.text)[0]
    [result] = measure_depths(towers, [part], [depth], max_tokens=6, batch=2)
    assert result.labels == expected
    assert len(set(expected.values())) == 3
    for kind, counts in (("harmful", result.harmful), ("benign", result.benign)):
        labels = [expected[prompt.id] for prompt in part.prompts if prompt.kind == kind]
        assert counts == {"n": len(labels), **{label: labels.count(label[0]) for label in LABELS}}


def test_the_judge_is_the_one_of_refusal_check(
    towers: Towers, part: PromptSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {prompt.text: "I can't help with that." for prompt in part.prompts if prompt.kind == "harmful"}
    monkeypatch.setattr(measure, "judge", lambda text, prompt: judge(said.get(prompt, "Take the second exit."), prompt))
    [result] = measure_depths(towers, [part], [FULL], max_tokens=2)
    assert result.harmful["refusal"] == result.harmful["n"] == 6
    assert result.benign["compliance"] == result.benign["n"] == 6


def test_every_prompt_has_a_picture_that_its_id_decides() -> None:
    whole = load_prompts()
    filled = {prompt.id: prompt for prompt in with_pictures(whole).prompts}
    assert {prompt.image for prompt in filled.values()} == set(chosen_pictures(whole))
    for prompt in whole.prompts:
        assert filled[prompt.id].image == (prompt.image or filled[prompt.id].image)
        if prompt.twin is not None and prompt.image is None:
            assert filled[prompt.twin].image == filled[prompt.id].image
    few = with_pictures(whole.limited(8), chosen_pictures(whole))
    assert all(filled[prompt.id] == prompt for prompt in few.prompts)


def test_a_set_without_pictures_borrows_them() -> None:
    bare = PromptSet("bare", "0", (Prompt("a", "What is this?", "benign", "none"),))
    assert with_pictures(bare).prompts[0].image in chosen_pictures(load_prompts())


def test_pictures_are_seen_once_for_all_exits(towers: Towers, part: PromptSet, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, list[int]]] = []
    shown = Towers.shown

    def counted(self: Towers, pictures: Any, exits: Any) -> Any:
        asked.append((len(pictures), list(exits)))
        return shown(self, pictures, exits)

    monkeypatch.setattr(Towers, "shown", counted)
    depths = [(1, 4), (3, 4), (3, 2), (None, 2)]
    whole = list(measure_depths(towers, [part], depths, max_tokens=2))
    assert asked == [(len({prompt.image for prompt in part.prompts}), [1, 3])]
    monkeypatch.setattr(measure, "_ROOM", 1)
    assert list(measure_depths(towers, [part], depths, max_tokens=2)) == whole
    assert [exits for _, exits in asked[1:]] == [[1], [3]]


def command(*words: object) -> int:
    return main(["measure", *map(str, words)])


def test_the_command_goes_through_every_exit_and_on_after_a_kill(
    folder: Path, reference_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out, killed = tmp_path / "out", tmp_path / "killed"
    settings = ("--limit", 4, "--questions", 7, "--max-tokens", 3, "--cache", reference_cache)
    assert command(folder, *settings, "--out", out) == 0
    told = capsys.readouterr().out
    assert len([line for line in told.splitlines() if line[:1].isdigit() and line.split()[1].isdigit()]) == len(EVERY)
    report = json.loads((out / "measure.json").read_text(encoding="utf-8"))
    assert [(depth["vision"], depth["decoder"]) for depth in report["depths"]] == EVERY
    assert report["full_depth"] == {"vision": 3, "decoder": 4}
    assert all(depth["vqa"]["n"] == len(depth["vqa"]["hits"]) == 7 for depth in report["depths"])
    assert (out / "exits.svg").read_text(encoding="utf-8").startswith("<?xml")
    texts = [prompt.text for prompt in load_prompts().prompts]
    assert not any(text in (out / "measure.json").read_text(encoding="utf-8") for text in texts)

    results = measure_command.measure_depths

    def stops(*args: Any, **options: Any) -> Any:
        for number, result in enumerate(results(*args, **options)):
            if number == 3:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(measure_command, "measure_depths", stops)
    assert command(folder, *settings, "--out", killed) == 130
    asked: list[Any] = []

    def counted(towers: Towers, sets: Any, depths: Any, **options: Any) -> Any:
        asked.extend(depths)
        return results(towers, sets, depths, **options)

    monkeypatch.setattr(measure_command, "measure_depths", counted)
    assert command(folder, *settings, "--out", killed) == 6
    assert command(folder, *settings, "--out", killed, "--resume") == 0
    assert asked == EVERY[3:]
    for name in ("measure.json", "exits.svg"):
        assert (killed / name).read_bytes() == (out / name).read_bytes()

    changed = (*settings[:5], 4, *settings[6:])
    capsys.readouterr()
    assert command(folder, *changed, "--out", killed, "--resume") == 2
    assert "'max_tokens' differs" in capsys.readouterr().err


def test_chosen_depths_and_text_alone_as_json(folder: Path, capsys: Any) -> None:
    settings = ("--limit", 2, "--max-tokens", 2, "--json")
    assert command(folder, *settings, "--depths", "2:1,4:3,2:1", "--text-alone") == 0
    report = json.loads(capsys.readouterr().out)
    found = [(depth["vision"], depth["decoder"]) for depth in report["depths"]]
    assert found == [(2, 1), (4, 3), (None, 1), (None, 3)]
    assert all("labels" not in depth and depth["vqa"] is None for depth in report["depths"])
    assert command(folder, *settings, "--vision-exits", "1,2", "--decoder-exits", "2") == 0
    report = json.loads(capsys.readouterr().out)
    assert [(depth["vision"], depth["decoder"]) for depth in report["depths"]] == [(1, 4), (2, 4), (3, 2)]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--vision-exits", "1,5"), 2, "these vision exits don't fit"),
        (("--depths", "1:5"), 2, "these decoder exits don't fit"),
        (("--depths", "1:1", "--vision-exits", "1"), 2, "can't be combined"),
        (("--resume",), 2, "--resume needs --out"),
        (("--prompts", "nowhere.csv"), 2, "can't be read"),
    ],
)
def test_what_does_not_fit_is_said(words: tuple[str, ...], code: int, message: str, folder: Path, capsys: Any) -> None:
    assert command(folder, "--limit", 2, *words) == code
    assert message in capsys.readouterr().err


def test_a_checkpoint_without_a_projector_is_refused(folder: Path, tmp_path: Path, capsys: Any) -> None:
    from safetensors.torch import load_file, save_file

    assert command(tmp_path) == 3
    assert "is not a checkpoint" in capsys.readouterr().err
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    tensors = load_file(broken / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if "projector" not in name}
    save_file(kept, broken / "model.safetensors", metadata={"format": "pt"})
    assert command(broken, "--limit", 2) == 3
    assert "lacks the projector" in capsys.readouterr().err


def test_a_picture_that_cannot_be_read_and_an_id_given_twice_are_refused(
    towers: Towers, part: PromptSet, tmp_path: Path
) -> None:
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    torn = PromptSet("torn", "0", (Prompt("a", "What is this?", "benign", "none", tmp_path / "torn.png"),))
    with pytest.raises(InputError, match="not a picture"):
        next(measure_depths(towers, [torn], [FULL]))
    with pytest.raises(InputError, match="occurs twice"):
        next(measure_depths(towers, [part, part], [FULL]))
    with pytest.raises(ConfigError, match="decoder exits"):
        next(measure_depths(towers, [part], [(None, 9)]))


def test_another_file_in_the_place_is_not_taken_for_a_measurement(folder: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "measure.json").write_text('{"schema": "other"}', encoding="utf-8")
    assert command(folder, "--limit", 2, "--out", tmp_path, "--resume") == 2
    assert "is not a measurement" in capsys.readouterr().err


def test_the_table_follows_from_the_counts() -> None:
    depth = {
        "vision": None,
        "decoder": 2,
        "harmful": {"n": 4, "refusal": 1, "compliance": 3, "incoherent": 0},
        "benign": {"n": 0, "refusal": 0, "compliance": 0, "incoherent": 0},
        "vqa": None,
        "labels": {},
    }
    found = rates(depth)
    assert found["attack_success"]["rate"] == 0.75
    assert found["refusal"]["hits"] == 1
    assert "over_refusal" not in found and "visual_accuracy" not in found
    report = {"depths": [depth], "questions": None, "prompt_sets": [{"n": {"harmful": 4, "benign": 0}}]}
    row = table(report).splitlines()[-1]
    assert row.startswith("text alone  2 ")
    assert "75.0 (30.1 to 95.4)" in row and row.endswith("none asked")
