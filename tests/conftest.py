"""Settings of all tests."""

from hypothesis import settings

# Machines that run tests are loaded, and first examples compile: time limits would only flake.
settings.register_profile("csaq", deadline=None)
settings.load_profile("csaq")
