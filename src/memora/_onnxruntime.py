"""Import of ONNX Runtime without its telemetry.

From version 1.29 on, the import writes a device identifier and a database of events under HOME, and
starts threads that send the events to the vendor. Those threads also make a forked child abort when
it exits.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import onnxruntime

_VARIABLE = "ORT_DISABLE_TELEMETRY"


@cache
def import_onnxruntime() -> Any:
    """Import ONNX Runtime with `ORT_DISABLE_TELEMETRY=1`, unless the environment says 0.

    If the application has already imported ONNX Runtime, further events are suppressed, but the
    files, the threads and the first event of that import remain.

    Raises:
        ImportError: ONNX Runtime is not installed, or has no build for this system.
    """
    wanted = os.environ.get(_VARIABLE, "").strip().lower() in {"0", "false", "no", "off"}
    if not wanted:
        os.environ[_VARIABLE] = "1"  # read once, by the import
    import onnxruntime  # noqa: PLC0415 - takes longer than all of Memora

    if not wanted:
        # For an earlier import, and for builds that ignore the variable and report to Windows.
        onnxruntime.disable_telemetry_events()
    return onnxruntime


def open_session(weights: Path) -> onnxruntime.InferenceSession:
    """Load a model, to run on the CPU in the caller's thread."""
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    # A second thread saves 0.2 of 1.6 ms for a short query but costs a busy server throughput, and
    # the threads of a pool would be missing after a fork.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return runtime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
