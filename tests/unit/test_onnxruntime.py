"""ONNX Runtime is imported without its telemetry, unless the environment asks for it."""

from __future__ import annotations

import os
import sys
from types import ModuleType

import pytest

from memora._onnxruntime import import_onnxruntime


@pytest.mark.parametrize(
    ("given", "then", "disabled"),
    [
        (None, "1", 1),
        ("", "1", 1),
        ("1", "1", 1),
        ("2", "1", 1),  # which ONNX Runtime takes for no
        ("0", "0", 0),
        (" False", " False", 0),
    ],
)
def test_only_an_explicit_no_keeps_the_telemetry(
    monkeypatch: pytest.MonkeyPatch, given: str | None, then: str, disabled: int
) -> None:
    calls: list[None] = []
    earlier = ModuleType("onnxruntime")  # as if the application had imported it
    earlier.disable_telemetry_events = lambda: calls.append(None)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onnxruntime", earlier)
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "")  # so that it is put back
    if given is None:
        monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    else:
        monkeypatch.setenv("ORT_DISABLE_TELEMETRY", given)

    assert import_onnxruntime.__wrapped__() is earlier
    assert os.environ["ORT_DISABLE_TELEMETRY"] == then
    assert len(calls) == disabled
