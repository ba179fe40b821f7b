"""What a profile says about each depth, and what it predicts for a request: as values and as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jetson_runtime.errors import BudgetError, ConfigError, InputError
from jetson_runtime.ladder import Budget, Ladder
from jetson_runtime.policy import choose
from jetson_runtime.profile import LatencyProfile

__all__ = [
    "DepthTimes",
    "Question",
    "depth_table",
    "depth_times",
    "ladder_of",
    "machine_lines",
    "predict",
    "prediction_table",
]


@dataclass(frozen=True)
class DepthTimes:
    """One depth's warm times in milliseconds at one quantile, for a question about an image."""

    name: str
    vision: int
    decoder: int
    quantile: str
    prompt_tokens: int
    vision_ms: float
    prefill_ms: float
    first_token_ms: float
    per_token_ms: float
    tokens_per_second: float


@dataclass(frozen=True)
class Question:
    """A request to predict; `prompt_tokens` counts the image's tokens too."""

    prompt_tokens: int
    image: bool
    max_tokens: int
    budgets_ms: tuple[float, ...] = ()


def ladder_of(profile: LatencyProfile) -> tuple[Ladder, int, int]:
    """The ladder, image prompt length and capacity that a profile was measured with.

    Raises:
        InputError: the profile does not say.
    """
    try:
        model = profile.model
        return Ladder.from_dicts(model["ladder"]), int(model["image_prompt_tokens"]), int(model["kv_capacity"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            "the profile does not say which depths it was measured for",
            found=f"{type(error).__name__}: {error}",
            remedy="name the bundle instead of the file, or run 'engine-calibrate latency' again",
        ) from None


def depth_times(profile: LatencyProfile, quantile: str) -> list[DepthTimes]:
    """Every depth's times at a quantile ("p50", "p90" or "p99"), shallowest first; the first token's is the sum."""
    ladder, tokens, _ = ladder_of(profile)
    times = []
    for depth in ladder:
        vision = profile.phase_ms("vision", depth.vision, quantile=quantile)
        prefill = profile.phase_ms("prefill", depth.decoder, tokens, quantile=quantile)
        step = profile.phase_ms("decode", depth.decoder, quantile=quantile)
        times.append(
            DepthTimes(
                depth.name,
                depth.vision,
                depth.decoder,
                quantile,
                tokens,
                vision,
                prefill,
                vision + prefill,
                step,
                1e3 / step,
            )
        )
    return times


def depth_table(profile: LatencyProfile) -> str:
    """The table that the commands print: medians, with the 99th percentiles that the policy counts on."""
    typical, slow = depth_times(profile, "p50"), depth_times(profile, "p99")
    head = ("depth", "vision", "decoder", "vision ms", f"prefill@{typical[0].prompt_tokens} ms", "first token ms",
            "(p99)", "per token ms", "(p99)", "tokens/s")  # fmt: skip
    lines = [
        (p50.name, str(p50.vision), str(p50.decoder), f"{p50.vision_ms:.1f}", f"{p50.prefill_ms:.1f}",
         f"{p50.first_token_ms:.1f}", f"({p99.first_token_ms:.1f})", f"{p50.per_token_ms:.2f}",
         f"({p99.per_token_ms:.2f})", f"{p50.tokens_per_second:.1f}")
        for p50, p99 in zip(typical, slow, strict=True)
    ]  # fmt: skip
    return _table(head, lines)


def machine_lines(profile: LatencyProfile) -> str:
    """What the profile was measured on, in one or two lines; only what is known."""
    machine = profile.machine
    cpu, mode = _mapping(machine.get("cpu")), _mapping(machine.get("power_mode"))
    facts = {
        "device": machine.get("device") or cpu.get("model"),
        "cores": cpu.get("cores_usable"),
        "power mode": mode.get("name"),
        "backend": profile.backend,
        "threads": profile.method.get("threads"),
        "measured": profile.method.get("measured_at"),
    }
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def predict(profile: LatencyProfile, question: Question) -> dict[str, Any]:
    """What every depth would take for a request, and which depth each budget gets; admissions are not looked at.

    Raises:
        ConfigError: a request that the bundle could not take.
    """
    ladder, _, capacity = ladder_of(profile)
    _check(question, profile.model, capacity)
    request: dict[str, Any] = {
        "prompt_tokens": question.prompt_tokens,
        "image": question.image,
        "tokens": question.max_tokens,
    }
    depths = [
        {
            **depth.to_dict(),
            "first_token_ms": profile.first_token_ms(depth, prompt_tokens=question.prompt_tokens, image=question.image),
            "answer_ms": profile.answer_ms(depth, **request),
        }
        for depth in ladder
    ]
    budgets = []
    for budget_ms in question.budgets_ms:
        try:
            choice = choose(ladder, profile, Budget(answer_ms=budget_ms), **request)
            budgets.append({"budget_ms": budget_ms, "depth": choice.depth.name, "answer_ms": choice.predicted_ms})
        except BudgetError as error:
            budgets.append({"budget_ms": budget_ms, "depth": None, "answer_ms": error.predicted_ms})
    return {"request": asdict(question), "depths": depths, "budgets": budgets}


def _check(question: Question, model: Mapping[str, Any], capacity: int) -> None:
    least = int(model.get("image_tokens", 0)) + 1 if question.image else 1
    if not least <= question.prompt_tokens <= capacity:
        raise ConfigError(
            "--prompt-tokens can't be predicted",
            found=f"{question.prompt_tokens} tokens",
            expected=f"{least} to {capacity} tokens" + (" (the image's are among them)" if question.image else ""),
        )
    # The last token of an answer needs no place in the cache.
    room = capacity - question.prompt_tokens + 1
    if not 1 <= question.max_tokens <= room:
        raise ConfigError(
            "--max-tokens can't be predicted",
            found=f"{question.max_tokens} tokens",
            expected=f"1 to {room} tokens: what the KV cache of {capacity} has left behind the prompt",
        )


def prediction_table(prediction: Mapping[str, Any]) -> str:
    """The text of `predict`'s result."""
    request = prediction["request"]
    lines = [
        (item["name"], f"{item['first_token_ms']:.0f}", f"{item['answer_ms']:.0f}") for item in prediction["depths"]
    ]
    kind = "an image and a question" if request["image"] else "a text"
    text = (
        f"predicted (p99) for {kind} of {request['prompt_tokens']} tokens, answer of {request['max_tokens']} tokens\n"
        + _table(("depth", "first token ms", "answer ms"), lines)
    )
    choices = [
        (f"{item['budget_ms']:g}", item["depth"] or f"none ({item['answer_ms'] - item['budget_ms']:.0f} ms too slow)")
        for item in prediction["budgets"]
    ]
    return text + ("\n\n" + _table(("budget ms", "depth"), choices) if choices else "")


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in (head, *lines)) for column in range(len(head))]

    def cells(line: Sequence[str]) -> Iterator[str]:
        yield line[0].ljust(widths[0])
        yield from (text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True))

    return "\n".join("  ".join(cells(line)).rstrip() for line in (head, *lines))
