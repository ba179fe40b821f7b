"""Schedules: answers that leave the decoder earlier under way, on ONNX Runtime with a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from profiles import made_up_profile
from tiny import build_config

import jetson_runtime
from engine_builder.export import export
from engine_builder.reference import drawn_picture
from jetson_runtime import Answer, Budget, Request, Runtime, Schedule, Token
from jetson_runtime.bundle import open_bundle
from jetson_runtime.cli import main
from jetson_runtime.errors import InputError
from jetson_runtime.files import write_json
from jetson_runtime.image import open_image

LADDER = [
    {"name": "d1", "vision": 2, "decoder": 2},
    {"name": "d2", "vision": 3, "decoder": 2},
    {"name": "d3", "vision": 3, "decoder": 4},
]
NAMES = [f"d3>d1@{point}" for point in ("vision", "prefill", 1, 4)]
MAX_TOKENS = 8


@pytest.fixture(scope="module")
def path(tiny_llava: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("schedules") / "bundle"
    export(tiny_llava("clip-llama"), build_config(precision="fp32", target="cpu", ladder=LADDER), out)
    return out


@pytest.fixture(scope="module")
def profile(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("profile") / "profile.json"
    write_json(file, made_up_profile(open_bundle(path)).to_dict())
    return file


@pytest.fixture(scope="module")
def runtime(path: Path, profile: Path) -> Runtime:
    return jetson_runtime.load(path, profile=profile, allow_unadmitted=True)


def ask(runtime: Runtime, **pinned: str) -> Answer:
    """An answer whose tokens differ from exit to exit: the weights are random, so it is sampled, not greedy."""
    request = Request("hello", image=drawn_picture(), max_tokens=MAX_TOKENS, temperature=3.0, seed=5, **pinned)
    return runtime.invoke(request)


def ids(answer: Answer) -> list[int]:
    return [token.id for token in answer.tokens]


def driven_by_hand(runtime: Runtime, schedule: Schedule) -> list[int]:
    """Prefill at the deep exit, steps at whichever the schedule says, written out without the token loop."""
    from jetson_runtime.sampling import sampler

    prompt = runtime.bundle.prompter()("hello", with_image=True)
    pixels = runtime.bundle.preprocessing()(open_image(drawn_picture()))
    deep, low = schedule.start.decoder, schedule.then.decoder
    drop = {"vision": 0, "prefill": 1}.get(str(schedule.at)) if isinstance(schedule.at, str) else schedule.at + 1
    exits = [deep if n < drop else low for n in range(MAX_TOKENS)]
    sample = sampler(3.0, 1.0, 5)
    logits = runtime.chain.prefill(
        prompt.token_ids, exits[0], pixels=pixels, image_at=prompt.image_at, vision_exit=schedule.start.vision
    )
    tokens: list[int] = []
    for n in range(MAX_TOKENS):
        token = sample(logits)
        if token in runtime.bundle.manifest.model.stop_token_ids:
            break
        tokens.append(token)
        if n + 1 < MAX_TOKENS:
            logits = runtime.chain.step(token, len(prompt.token_ids) + n, exits[n + 1])
    return tokens


@pytest.mark.parametrize("name", NAMES)
def test_a_schedule_answers_as_a_chain_driven_by_hand(runtime: Runtime, name: str) -> None:
    schedule = runtime.bundle.manifest.ladder.schedule(name)
    answer = ask(runtime, schedule=name)
    assert ids(answer) == driven_by_hand(runtime, schedule)
    assert (answer.depth.name, answer.schedule) == ("d3", schedule)
    assert len(answer.tokens) > 5, "the answer ends before the last drop: it shows nothing"


def test_every_token_says_the_depth_it_came_from(runtime: Runtime) -> None:
    spoke = {name: [token.depth for token in ask(runtime, schedule=name).tokens] for name in NAMES}
    for name, first in zip(NAMES, (0, 1, 2, 5), strict=True):
        assert spoke[name] == ["d3"] * first + ["d1"] * (len(spoke[name]) - first)


def test_the_drop_changes_the_answer_and_not_before_it(runtime: Runtime) -> None:
    deep = ids(ask(runtime, depth="d3"))
    answers = {name: ids(ask(runtime, schedule=name)) for name in NAMES}
    assert len({tuple(answer) for answer in [deep, *answers.values()]}) == 5
    assert answers["d3>d1@prefill"][:1] == deep[:1]
    assert answers["d3>d1@1"][:2] == deep[:2]
    assert answers["d3>d1@4"][:5] == deep[:5]


def test_equal_operations_give_equal_answers(runtime: Runtime) -> None:
    ladder = runtime.bundle.manifest.ladder
    groups: dict[object, list[list[int]]] = {}
    for depth in ladder:
        groups.setdefault(depth.operation, []).append(ids(ask(runtime, depth=depth.name)))
    for schedule in ladder.schedules():
        groups.setdefault(schedule.operation, []).append(ids(ask(runtime, schedule=schedule.name)))
    assert all(answer == group[0] for group in groups.values() for answer in group)
    assert max(len(group) for group in groups.values()) > 2
    assert len({tuple(group[0]) for group in groups.values()}) > 4


@pytest.mark.parametrize("name", NAMES[1:])
def test_after_the_drop_the_deeper_caches_are_never_read(runtime: Runtime, name: str) -> None:
    expected = ids(ask(runtime, schedule=name))
    chain = runtime.chain
    deeper = [cache for segment, _ in chain._decoder if segment.first > 2 for cache in _caches(runtime, segment)]
    assert deeper
    spoken = []

    def poison(token: Token) -> None:
        spoken.append(token.depth)
        # From the last token of the deep exit on, whatever the deep caches hold must not matter.
        if len(spoken) == drop:
            for cache in deeper:
                cache.write(np.full(cache.shape, np.nan, np.float32))

    drop = {"prefill": 1, "1": 2, "4": 5}[name.split("@")[1]]
    request = Request(
        "hello", image=drawn_picture(), max_tokens=MAX_TOKENS, temperature=3.0, seed=5, schedule=name
    )  # fmt: skip
    answer = runtime.invoke(request, on_token=poison)
    for cache in deeper:
        cache.write(np.zeros(cache.shape, np.float32))
    assert ids(answer) == expected
    assert spoken[drop - 1 : drop + 1] == ["d3", "d1"]


def _caches(runtime: Runtime, segment: object) -> list[object]:
    from jetson_runtime.chain import _cache_names

    return [runtime.chain._caches[name] for name in _cache_names(segment)]


def test_a_schedule_is_pinned_by_name_and_not_with_a_depth(runtime: Runtime) -> None:
    with pytest.raises(InputError, match="both a depth and a schedule"):
        ask(runtime, depth="d1", schedule="d3>d1@4")
    with pytest.raises(InputError, match=r"d2>d1, d3>d1, d3>d2, each with one of @vision, @prefill, @1, @4, @16"):
        ask(runtime, schedule="d1>d3@4")


def test_a_schedule_keeps_a_budget_by_its_own_times(path: Path, profile: Path) -> None:
    simulated = jetson_runtime.load(path, backend="simulated", profile=profile, allow_unadmitted=True)
    request = Request("hello", max_tokens=6, schedule="d3>d1@1")
    answer = simulated.invoke(request, Budget(answer_ms=1000))
    # The prompt and one step at 4 blocks, four steps at 2 blocks: 4 + 2 + 4 ms.
    assert answer.predicted_ms == pytest.approx(10.0)
    assert answer.elapsed_ms <= 10.0
    with pytest.raises(InputError, match="both"):
        simulated.invoke(Request("hello", depth="d1", schedule="d3>d1@1"), Budget(answer_ms=1000))


def test_the_last_steps_need_only_the_shallow_exits_time(path: Path, profile: Path) -> None:
    simulated = jetson_runtime.load(path, backend="simulated", profile=profile, allow_unadmitted=True)
    budget = Budget(answer_ms=10.0)
    answer = simulated.invoke(Request("hello", max_tokens=6, schedule="d3>d1@1"), budget)
    assert answer.finish_reason == "length"
    assert len(answer.tokens) == 6


def test_the_command_line_pins_a_schedule_and_says_it(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ask", str(path), "--prompt", "hello", "--max-tokens", "3", "--schedule", "d3>d1@1", "--allow-unadmitted"]
    assert main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["schedule"] == {"name": "d3>d1@1", "start": "d3", "then": "d1", "at": 1}
    assert said["depth"]["name"] == "d3"
    assert main(words) == 0
    assert "depth      d3 (vision 3, decoder 4), schedule d3>d1@1" in capsys.readouterr().out
