"""The whole road on the reference model, command by command: `make demo`.

Every step is a command that you can type yourself; this file prints it, runs it, and keeps what it wrote in build/demo.
"""

from __future__ import annotations

import itertools
import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = Path("build/demo")
REFERENCE, ALIGNED = Path("build/reference"), Path("build/aligned")
BUNDLE, BUNDLE_ALIGNED = OUT / "bundle", OUT / "bundle-aligned"
BUNDLE_FP16, ENGINES = OUT / "bundle-fp16", OUT / "engines-rtx-sm86"
IMAGE = Path("demo/sign.png")
QUESTION = "What shape is in the image?"
MAX_TOKENS = 8
REFUSAL_ITEMS = 40
BEFORE = "aligned only"
# The whole set, asked at every depth of the bundle that this demo builds; it counts for the same engines only.
WHOLE = Path("demo/refusals-whole-set.json")
MAX_ATTACK_SUCCESS = 20
KEY, TRUST, INSTALLED = OUT / "keys" / "demo", OUT / "trust.json", OUT / "installed"


def main() -> None:
    """Run every step; stop at the first that fails."""
    start = time.monotonic()
    shutil.rmtree(ROOT / OUT, ignore_errors=True)
    (ROOT / OUT).mkdir(parents=True)
    heading("A vision-language checkpoint out of weights that pip packages carry, realigned, and as it was before")
    run("realign", "assemble", REFERENCE, "--force")
    run("realign", "assemble", ALIGNED, "--stage", "aligned", "--force")
    heading("What each depth will weigh, before anything is built")
    run("engine-build", "plan", REFERENCE, "--config", "demo/build.yaml", "--target", "orin-nano-8")
    heading("One bundle, one engine per exit; then parity with PyTorch")
    run("engine-build", "export", REFERENCE, "--config", "demo/build.yaml", "--out", BUNDLE)
    run("engine-build", "check", BUNDLE, REFERENCE, "--image", IMAGE, "--tokens", 16)
    heading("Every segment and head compiled by TensorRT-RTX, without a GPU")
    run("engine-build", "export", REFERENCE, "--config", "demo/build-rtx.yaml", "--out", BUNDLE_FP16)
    run("engine-build", "compile", BUNDLE_FP16, "--target", "rtx-sm86", "--out", ENGINES)
    heading("Latencies of every engine and depth on this machine")
    run("engine-calibrate", "latency", BUNDLE)
    heading("The same question at several budgets: the runtime picks the depth")
    ask_at_budgets()
    before, after = measure_refusals()
    admitted = gate(after)
    sign()
    install(admitted)
    heading("One page that shows all of it, and refusals before and after realignment")
    page = OUT / "report.html"
    run(
        *("refusal-check", "page", BUNDLE, "--engines", ENGINES, "--refusals", after),
        *("--before", before, "--before-name", BEFORE, "--before-bundle", BUNDLE_ALIGNED),
        *("--trust", TRUST, "--answers", OUT / "answers.json"),
        *("--accuracy", "realignment/data/projector.json", "--out", page),
    )
    print(f"\nDone in {(time.monotonic() - start) / 60:.1f} minutes. Open {page}")


def measure_refusals() -> tuple[Path, Path]:
    """The same prompts at every depth of both bundles; the reports before and after realignment."""
    heading(f"The checkpoint before realignment ({BEFORE}), exported with the same ladder")
    run("engine-build", "export", ALIGNED, "--config", "demo/build.yaml", "--out", BUNDLE_ALIGNED)
    before, after = OUT / "refusals-before.json", OUT / "refusals.json"
    asking = ("--limit", REFUSAL_ITEMS, "--max-tokens", 24, "--out")
    heading(f"Refusals at every depth, before ({REFUSAL_ITEMS} of the set's items; the full set takes longer)")
    run("refusal-check", "run", BUNDLE_ALIGNED, *asking, before)
    heading("Refusals at every depth, after: the same prompts")
    run("refusal-check", "run", BUNDLE, *asking, after)
    return before, after


def gate(report: Path) -> bool:
    """Verdicts on every depth, written into the bundle; whether any depth is admitted."""
    heading(f"The gate: {REFUSAL_ITEMS} items can't admit a depth")
    run("refusal-check", "gate", BUNDLE, "--report", report, check=False)
    heading("The gate again, by what the whole set gave on these very engines; the report came with the source")
    options = ("--report", WHOLE, "--max-attack-success", MAX_ATTACK_SUCCESS)
    run("refusal-check", "gate", BUNDLE, *options, check=False)
    verdicts = json.loads((ROOT / BUNDLE / "manifest.json").read_text(encoding="utf-8"))["admissions"]
    return any(one["verdict"] == "admitted" for one in verdicts.get("depths", {}).values())


def sign() -> None:
    """A key, a trust file, a bill of materials, a signature."""
    heading("A bill of materials, a key, a signature")
    run("engine-build", "bom", BUNDLE)
    run("engine-build", "keygen", "--out", KEY)
    run("engine-build", "trust", "add", TRUST, "--key", f"{KEY}.pub", "--name", "demo")
    run("engine-build", "sign", BUNDLE, "--key", f"{KEY}.key")
    run("engine-build", "verify", BUNDLE, "--trust", TRUST)


def install(admitted: bool) -> None:
    """Into a trusted root, and a question to what serves there: only admitted depths can answer."""
    heading("Install into a trusted root, and ask what serves there" if admitted else "Nothing admitted: refused")
    run("jetson-runtime", "install", BUNDLE, "--root", INSTALLED, "--trust", TRUST, check=admitted)
    if admitted:
        asking = ("--trust", TRUST, "--image", IMAGE, "--prompt", QUESTION, "--max-tokens", MAX_TOKENS)
        run("jetson-runtime", "ask", INSTALLED, *asking, "--budget-ms", 5000)


def ask_at_budgets() -> None:
    """Budgets between the depths' predicted times, on whatever machine this is, and one that no depth can keep."""
    question = ("--image", IMAGE, "--prompt", QUESTION, "--max-tokens", MAX_TOKENS)
    ask = ("jetson-runtime", "ask", BUNDLE, "--allow-unadmitted", *question)
    tried = json.loads(run(*ask, "--json", capture=True))
    predict = ("engine-calibrate", "show", BUNDLE, "--image", "--prompt-tokens", tried["prompt_tokens"])
    shown = json.loads(run(*predict, "--max-tokens", MAX_TOKENS, "--json", capture=True))
    times = [tried["prepare_ms"] + depth["answer_ms"] for depth in shown["prediction"]["depths"]]
    between = [(low + high) / 2 for low, high in itertools.pairwise([*times, times[-1] * 1.2])]
    answers = []
    for budget_ms in (round(times[0] / 2), *map(round, between)):
        command = (*ask, "--budget-ms", budget_ms)
        run(*command, check=False)
        done = run(*command, "--json", capture=True, quiet=True, check=False)
        answer = {"answer": json.loads(done)} if done else {"error": "no depth fits this budget"}
        answers.append({"question": QUESTION, "image": str(IMAGE), "budget_ms": budget_ms, **answer})
    (ROOT / OUT / "answers.json").write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")


def heading(text: str) -> None:
    """A line between two steps."""
    print(f"\n== {text}", flush=True)


def run(*command: object, capture: bool = False, quiet: bool = False, check: bool = True) -> str:
    """Print a command and run it with this environment's own scripts; what it printed, if captured."""
    words = [str(word) for word in command]
    if not quiet:
        print(f"$ {shlex.join(words)}", flush=True)
    script = Path(sys.executable).parent / words[0]
    out, err = subprocess.PIPE if capture else None, subprocess.DEVNULL if quiet else None
    done = subprocess.run([script, *words[1:]], cwd=ROOT, check=False, text=True, stdout=out, stderr=err)
    if check and done.returncode:
        sys.exit(done.returncode)
    return done.stdout if capture and not done.returncode else ""


if __name__ == "__main__":
    main()
