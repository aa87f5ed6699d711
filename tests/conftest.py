"""Settings of all tests."""

import signal

from hypothesis import settings

# Machines that run tests are loaded, and first examples compile: time limits would only flake.
settings.register_profile("csaq", deadline=None)
settings.load_profile("csaq")

# A shell that starts tests in the background leaves Ctrl-C ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
