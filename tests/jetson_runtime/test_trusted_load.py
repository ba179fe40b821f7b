"""`--trust` and `load(trust=...)`: a bundle runs only if the trust file's keys signed it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from admitting import with_verdicts
from signing import key, raw_public, signed, trust, trust_file

from jetson_runtime import load
from jetson_runtime.cli import main
from jetson_runtime.errors import ConfigError
from jetson_runtime.trust import key_id

pytest.importorskip("onnxruntime")


@pytest.fixture
def bundle(tiny_bundle: Callable[[str, str], Path], tmp_path: Path) -> Path:
    return with_verdicts(tiny_bundle("dinov2-llama", "fp32"), tmp_path / "bundle", "d1", "d2")


def test_a_loaded_bundle_names_its_signers(bundle: Path, tmp_path: Path) -> None:
    file = trust_file(tmp_path / "trust.json", 1)
    signed(bundle, 1)
    for given in (file, str(file), trust(1)):
        with load(bundle, trust=given) as runtime:
            facts = runtime.describe()
        assert facts["signed"] is True and facts["signers"] == [key_id(raw_public(key(1)))]
    with load(bundle) as runtime:
        assert (runtime.describe()["signed"], runtime.describe()["signers"]) == (True, [])
    with pytest.raises(ConfigError, match="there is no trust file"):
        load(bundle, trust=tmp_path / "nothing.json")


def test_the_commands_refuse_what_is_not_signed_by_the_right_key(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, other = trust_file(tmp_path / "trust.json", 1), trust_file(tmp_path / "other.json", 2)
    describe = ["describe", str(bundle), "--json", "--trust"]
    ask = ["ask", str(bundle), "--prompt", "hi", "--max-tokens", "1", "--trust"]
    assert main([*describe, str(file)]) == 3
    assert "is not signed" in capsys.readouterr().err
    signed(bundle, 1)
    assert main([*describe, str(file)]) == 0
    assert json.loads(capsys.readouterr().out)["signers"] == [key_id(raw_public(key(1)))]
    assert main([*ask, str(file)]) == 0
    assert main([*ask, str(other)]) == 3
    assert "is not in the trust file" in capsys.readouterr().err
