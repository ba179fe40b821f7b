"""Claim: the runtime gives no token from a depth or schedule that the gate did not admit."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.claims import Measured, claim
from jetson_runtime import Budget, Request, Runtime, Token, load
from jetson_runtime.bundle import open_bundle
from jetson_runtime.errors import AdmissionError, BudgetError
from jetson_runtime.files import write_json
from jetson_runtime.ladder import OperatingPoint

LADDER = [
    {"name": "d1", "vision": 1, "decoder": 2},
    {"name": "d2", "vision": 2, "decoder": 2},
    {"name": "d3", "vision": 2, "decoder": 3},
    {"name": "d4", "vision": 3, "decoder": 4},
]
REQUESTS = {"simulated": 12_000, "onnxruntime": 600}
BUNDLES = 6
SEED = 0


@claim(
    "gate.unadmitted",
    "random requests that got a token from a depth or schedule that is not admitted, mixed admissions, two backends",
    "requests",
    "<=",
    0,
)
def unadmitted() -> Measured:
    """Beside it: the same requests with `allow_unadmitted`, where the same count must find some."""
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    with tempfile.TemporaryDirectory() as folder:
        for number, (path, admitted) in enumerate(mixed_bundles(Path(folder), BUNDLES)):
            for backend, requests in REQUESTS.items():
                options: dict[str, Any] = {"backend": backend, "profile": path.parent / "profile.json"}
                for allow, count in ((False, requests // BUNDLES), (True, requests // BUNDLES // 20)):
                    with load(path, allow_unadmitted=allow, **options) as runtime:
                        found = drive(runtime, admitted, count, random.Random(f"{SEED}/{number}"))
                    totals[f"{backend}, allow_unadmitted" if allow else backend].update(found)
    violations = sum(totals[name]["violations"] for name in REQUESTS)
    return Measured(violations, {name: dict(sorted(total.items())) for name, total in totals.items()})


def mixed_bundles(folder: Path, count: int) -> Iterator[tuple[Path, frozenset[str]]]:
    """Copies of a tiny bundle, each with a random part of its depths and schedules admitted, and what is admitted."""
    from engine_builder.export import export
    from tests.admitting import with_verdicts
    from tests.profiles import made_up_profile
    from tests.tiny import KINDS, build_config, save_model, save_processor

    (folder / "checkpoint").mkdir()
    save_model(folder / "checkpoint", *KINDS["clip-llama"])
    save_processor(folder / "checkpoint")
    bare = folder / "bare"
    export(folder / "checkpoint", build_config(precision="fp32", target="cpu", ladder=LADDER), bare)
    ladder = open_bundle(bare).manifest.ladder
    names = [each.name for each in (*ladder, *ladder.schedules())]
    drawn = random.Random(SEED)
    for number in range(count):
        depths = drawn.sample([each.name for each in ladder], drawn.randint(1, 3))
        admitted = frozenset([*depths, *(name for name in names if ">" in name and drawn.random() < 0.4)])
        path = folder / str(number) / "bundle"
        with_verdicts(bare, path, *admitted)
        write_json(path.parent / "profile.json", made_up_profile(open_bundle(path)).to_dict())
        yield path, admitted
    shutil.rmtree(bare)


def drive(runtime: Runtime, admitted: frozenset[str], count: int, drawn: random.Random) -> Counter[str]:
    """Ask `count` random requests and count what came of them.

    A violation is a request that got a token although what answered it is not admitted, or although the engines were
    left at other exits than those of what answered it. The exits are noted where the engines are run.
    """
    found: Counter[str] = Counter(requests=0, answered=0, tokens=0, violations=0)
    ladder = runtime.bundle.manifest.ladder
    points: list[OperatingPoint] = [*ladder, *ladder.schedules()]
    with noted(runtime) as exits:
        for _ in range(count):
            request, budget = draw(points, drawn)
            exits.clear()
            given: list[Token] = []
            found["requests"] += 1
            try:
                answer = runtime.invoke(request, budget, on_token=given.append)
            except (AdmissionError, BudgetError) as error:
                found[type(error).__name__] += 1
                found["violations"] += bool(given or exits)
                continue
            point = answer.depth if answer.schedule is None else answer.schedule
            left = [(point.vision if request.image else None, point.decoder_exit(0))]
            left += [(None, point.decoder_exit(step)) for step in range(1, len(exits))]
            found["answered"] += 1
            found["tokens"] += len(given)
            found["violations"] += bool(given) and (point.name not in admitted or exits != left)
    return found


def draw(points: Sequence[OperatingPoint], drawn: random.Random) -> tuple[Request, Budget | None]:
    """A request that pins nothing, a depth or a schedule, with or without a picture, and a budget or none."""
    from engine_builder.reference import drawn_picture

    pinned: dict[str, Any] = {}
    if drawn.random() < 0.6:
        point = drawn.choice(points)
        pinned["schedule" if ">" in point.name else "depth"] = point.name
    request = Request(
        "hello there"[: drawn.randint(1, 11)],
        image=drawn_picture() if drawn.random() < 0.3 else None,
        max_tokens=drawn.randint(1, 8),
        temperature=drawn.choice((0.0, 2.0)),
        seed=drawn.randint(0, 99),
        **pinned,
    )
    budgets = (
        None,
        Budget(answer_ms=2 ** drawn.uniform(0, 12)),
        Budget(first_token_ms=2 ** drawn.uniform(0, 12), per_token_ms=2 ** drawn.uniform(-1, 6)),
    )
    return request, drawn.choice(budgets)


@contextmanager
def noted(runtime: Runtime) -> Iterator[list[tuple[int | None, int]]]:
    """A list that grows by (vision exit, decoder exit) with every run of the chain."""
    chain = runtime.chain
    exits: list[tuple[int | None, int]] = []
    prefill, step = chain.prefill, chain.step

    def noting_prefill(token_ids: Sequence[int], decoder_exit: int, **image: Any) -> Any:
        exits.append((image["vision_exit"] if image["pixels"] is not None else None, decoder_exit))
        return prefill(token_ids, decoder_exit, **image)

    def noting_step(token_id: int, position: int, decoder_exit: int) -> Any:
        exits.append((None, decoder_exit))
        return step(token_id, position, decoder_exit)

    noting = {"prefill": noting_prefill, "step": noting_step}
    vars(chain).update(noting)
    try:
        yield exits
    finally:
        for name in noting:
            del vars(chain)[name]
