"""Settings of all tests."""

import signal
from pathlib import PurePath

import pytest
from hypothesis import settings

# Files that take longest, longest first: begun first, they leave no process idle at the end.
SLOWEST = (
    "cli/test_docs_commands.py", "parity/test_logits.py", "export/test_calibrated.py",
    "export/test_crash_safety.py", "malformed/test_gguf_fuzz.py", "export/test_ranks.py",
    "export/test_methods_serq.py", "export/test_methods_csaq.py", "export/test_hf_quantizer.py",
    "export/test_hf_pipeline.py", "cli/test_calibrate.py", "cli/test_convert_calibrated.py",
    "export/test_methods_run.py", "export/test_frontier.py", "server/test_fuzz.py",
    "server/test_page.py", "server/test_run.py", "parity/test_conversion.py",
    "export/test_hf_speculative.py", "cli/test_demo.py", "cli/test_run.py",
)  # fmt: skip

# Machines that run tests are loaded, and first examples compile: time limits would only flake.
settings.register_profile("csaq", deadline=None)
settings.load_profile("csaq")

# A shell that starts tests in the background leaves Ctrl-C ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: place.get("/".join(PurePath(item.path).parts[-2:]), len(SLOWEST)))
