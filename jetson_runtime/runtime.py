"""The Python API, in the words that the automotive world drafts: load, describe, invoke, cancel, unload."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jetson_runtime import generate
from jetson_runtime.backends import open_backend
from jetson_runtime.bundle import Bundle, open_bundle
from jetson_runtime.chain import Chain
from jetson_runtime.enforcement import Enforcement
from jetson_runtime.errors import BackendError, BundleError, InputError
from jetson_runtime.generate import Job, Token
from jetson_runtime.image import open_image
from jetson_runtime.ladder import Budget, Depth, OperatingPoint, Schedule
from jetson_runtime.policy import choose
from jetson_runtime.profile import LatencyProfile
from jetson_runtime.prompt import Prompt
from jetson_runtime.sampling import sampler
from jetson_runtime.trust import Trust

__all__ = ["Answer", "Request", "Runtime", "load"]


@dataclass(frozen=True)
class Request:
    """One question. `image` is a path or the bytes of a picture file.

    `depth` pins a depth instead of the policy; `schedule` pins one that changes under way, such as `d4>d1@prefill`.
    """

    prompt: str
    image: Path | bytes | None = None
    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    depth: str | None = None
    schedule: str | None = None


@dataclass(frozen=True)
class Answer:
    """What came of a request. `finish_reason` is stop, length, deadline or cancelled; times count from the request.

    `depth` is where the answer began; `schedule` is what changed it under way, None where it stayed there.
    `prepare_ms` went into waiting, the prompt and the picture before a depth was chosen; `predicted_ms` includes it.
    """

    text: str
    tokens: tuple[Token, ...]
    depth: Depth
    schedule: Schedule | None
    finish_reason: str
    prompt_tokens: int
    prepare_ms: float
    predicted_ms: float | None
    first_token_ms: float | None
    elapsed_ms: float

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        schedule = None if self.schedule is None else self.schedule.to_dict()
        return {**asdict(self), "schedule": schedule}


class Runtime:
    """A loaded bundle. Requests run one at a time; others wait, and their waiting counts against their budget."""

    def __init__(
        self,
        bundle: Bundle,
        backend: str,
        profile: LatencyProfile | None,
        threads: int | None,
        *,
        allow_unadmitted: bool = False,
    ) -> None:
        self.enforcement = Enforcement.of(bundle, allow_unadmitted=allow_unadmitted)
        self.bundle = bundle
        self.profile = profile
        self._backend = open_backend(backend, bundle, profile, threads)
        self._chain: Chain | None = Chain(bundle, self._backend)
        self._prompter = bundle.prompter()
        self._preprocess = bundle.preprocessing()
        self._lock = threading.Lock()
        self._cancelled = threading.Event()

    @property
    def chain(self) -> Chain:
        """The loaded engines, for tools that measure.

        Raises:
            BackendError: the bundle is unloaded.
        """
        if self._chain is None:
            raise BackendError("the bundle is unloaded", remedy="load it again")
        return self._chain

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.unload()

    def describe(self) -> dict[str, Any]:
        """What is loaded: model, digests, signers, backend, ladder, limits, profile, verdicts."""
        manifest = self.bundle.manifest
        return {
            "model": {"id": manifest.model.id, "version": manifest.model.version},
            "release": manifest.release,
            "bundle_digest": self.bundle.digest,
            "engines_digest": manifest.engines_digest,
            "signed": self.bundle.signed,
            "signers": list(self.bundle.signers),
            "backend": self._backend.name,
            "target": dict(manifest.target),
            "precision": manifest.precision,
            "ladder": manifest.ladder.to_dicts(),
            "kv_capacity": manifest.model.kv_capacity,
            "image_size": manifest.model.image_size,
            "image_tokens": manifest.model.image_tokens,
            "profile": None if self.profile is None else dict(self.profile.machine),
            **self.enforcement.to_dict(),
        }

    def invoke(
        self, request: Request, budget: Budget | None = None, *, on_token: Callable[[Token], None] | None = None
    ) -> Answer:
        """Answer a request within its budget; `on_token` is called with each token as it is made.

        Without a budget the answer takes the deepest admitted depth, or what the request pins, and as long as it needs.

        Raises:
            InputError: a request that can't be used. AdmissionError: it pins what is not admitted.
            BudgetError: no admitted depth fits. BackendError: an engine failed.
        """
        started_ms = self._backend.now_ms()
        with self._lock:
            chain = self.chain
            self._cancelled.clear()
            job, prepare_ms, predicted_ms = self._prepare(request, budget, started_ms)
            tokens: list[Token] = []
            finish_reason = ""
            for item in generate.run(chain, self._prompter, job, self._cancelled.is_set):
                if isinstance(item, str):
                    finish_reason = item
                    break
                tokens.append(item)
                if on_token is not None:
                    on_token(item)
        return Answer(
            text=self._prompter.tokenizer.decode([token.id for token in tokens], skip_special_tokens=True).strip(),
            tokens=tuple(tokens),
            depth=job.point.start,
            schedule=job.point if isinstance(job.point, Schedule) else None,
            finish_reason=finish_reason,
            prompt_tokens=len(job.prompt.token_ids),
            prepare_ms=prepare_ms,
            predicted_ms=predicted_ms,
            first_token_ms=tokens[0].at_ms if tokens else None,
            elapsed_ms=self._backend.now_ms() - started_ms,
        )

    def cancel(self) -> None:
        """End the answer in progress after its current token; safe from any thread."""
        self._cancelled.set()

    def unload(self) -> None:
        """Give engines and memory back, once the answer in progress has ended."""
        with self._lock:
            self._chain = None
            self._backend.close()

    def _prepare(self, request: Request, budget: Budget | None, started_ms: float) -> tuple[Job, float, float | None]:
        """The job, the time that preparing it took, and the predicted time of the whole answer."""
        if request.max_tokens < 1:
            raise InputError("max_tokens can't be used", found=request.max_tokens, expected="1 or more")
        sample = sampler(request.temperature, request.top_p, request.seed)
        prompt = self._prompter(request.prompt, with_image=request.image is not None)
        pixels = None if request.image is None else self._preprocess(open_image(request.image))
        limit = min(request.max_tokens, self._room(prompt))
        points = self._points(request)
        prepare_ms = self._backend.now_ms() - started_ms
        if budget is None:
            return Job(prompt, pixels, points[-1], limit, sample, started_ms), prepare_ms, None
        if self.profile is None:
            raise InputError(
                "a budget can't be kept without a latency profile",
                found=f"{self.bundle.path} has none",
                remedy="run 'engine-calibrate latency' on the bundle, or leave the budget out",
            )
        choice = choose(
            points,
            self.profile,
            budget,
            prompt_tokens=len(prompt.token_ids),
            image=pixels is not None,
            tokens=limit,
            spent_ms=prepare_ms,
        )
        deadline_ms = started_ms + budget.total_ms(limit)
        job = Job(prompt, pixels, choice.depth, limit, sample, started_ms, deadline_ms, self.profile.step_ms)
        return job, prepare_ms, prepare_ms + choice.predicted_ms

    def _points(self, request: Request) -> Sequence[OperatingPoint]:
        """What the request may be answered with, shallowest first: what it pins, or every admitted depth."""
        ladder = self.bundle.manifest.ladder
        if request.depth is not None and request.schedule is not None:
            raise InputError(
                "a request can't pin both a depth and a schedule",
                found=f"depth {request.depth}, schedule {request.schedule}",
                expected="one of them",
                remedy="leave one out",
            )
        if request.depth is None and request.schedule is None:
            return self.enforcement.depths()
        pinned = ladder[request.depth] if request.depth is not None else ladder.schedule(str(request.schedule))
        self.enforcement.check(pinned)
        return [pinned]

    def _room(self, prompt: Prompt) -> int:
        """How many tokens fit behind the prompt: the last one of an answer needs no cache entry."""
        capacity, count = self.bundle.manifest.model.kv_capacity, len(prompt.token_ids)
        if count > capacity:
            raise InputError(
                "the prompt is longer than the KV cache",
                found=f"{count} tokens" + (" with the image's" if prompt.image_at is not None else ""),
                expected=f"at most {capacity} tokens (kv_capacity)",
                remedy="shorten the prompt, or export with a larger kv_capacity",
            )
        return capacity - count + 1


def load(
    path: Path | str,
    *,
    backend: str = "onnxruntime",
    profile: Path | str | None = None,
    threads: int | None = None,
    trust: Trust | Path | str | None = None,
    allow_unadmitted: bool = False,
) -> Runtime:
    """Open a bundle, check every byte of it, and load its engines.

    `profile` is a profile file or the name of one in the bundle; None takes the only one that fits the backend.
    `trust` is a trust file: only a bundle that its keys signed is then loaded. The runtime uses admitted depths and
    schedules only; `allow_unadmitted` lifts that for development and for measuring, but not for a signed bundle.

    Raises:
        BundleError, DigestError, SignatureError: see `open_bundle`. ConfigError: no trust file.
        AdmissionError: see `Enforcement.of`. BackendError, MissingExtraError: see `open_backend`.
    """
    bundle = open_bundle(Path(path), trust if trust is None or isinstance(trust, Trust) else Trust.read(Path(trust)))
    chosen = _profile(bundle, backend, profile)
    return Runtime(bundle, backend, chosen, threads, allow_unadmitted=allow_unadmitted)


def _profile(bundle: Bundle, backend: str, wanted: Path | str | None) -> LatencyProfile | None:
    profiles = bundle.profiles()
    chosen: LatencyProfile | None
    if wanted is not None:
        chosen = profiles[str(wanted)] if str(wanted) in profiles else LatencyProfile.read(Path(wanted))
    else:
        fitting = [name for name, item in profiles.items() if backend == "simulated" or item.backend == backend]
        if len(fitting) > 1:
            raise InputError(
                f"{bundle.path} has several latency profiles",
                found=", ".join(fitting),
                remedy="name one with --profile",
            )
        chosen = profiles[fitting[0]] if fitting else None
    if chosen is not None and chosen.engines_digest != bundle.manifest.engines_digest:
        raise BundleError(
            "the latency profile was measured on other engines",
            found=f"engines digest {chosen.engines_digest[:16]}…",
            expected=f"{bundle.manifest.engines_digest[:16]}…",
            remedy="run 'engine-calibrate latency' on this bundle",
        )
    return chosen
