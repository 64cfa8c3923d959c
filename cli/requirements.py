"""The packages that the commands need. Importing this module ends the process with one sentence if one is missing."""

import importlib.util
import sys

OLDEST_PYTHON = (3, 10)
PACKAGES = {  # module -> package
    "numpy": "numpy",
    "regex": "regex",
    "fire": "fire",
    "tqdm": "tqdm",
    "requests": "requests",
    "safetensors": "safetensors",
    "google_crc32c": "google-crc32c",
    "platformdirs": "platformdirs",
}


def problem():
    """Return a sentence about what is missing, "" if nothing is. It must run on Python versions that are too old."""
    if sys.version_info < OLDEST_PYTHON:
        return "Python {}.{} is too old: use Python {}.{} or later".format(*sys.version_info[:2], *OLDEST_PYTHON)
    missing = [package for module, package in PACKAGES.items() if not is_installed(module)]
    if missing:
        return "packages are missing: pip install " + " ".join(missing)
    try:
        import numpy  # noqa: F401, which every command uses
    except ImportError as error:
        return "the package numpy is installed but cannot be imported ({})".format(" ".join(str(error).split())[:200])
    return ""


def is_installed(module):
    """Return whether a module can be found, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # ValueError: the module is None in sys.modules
        return False


try:
    sentence = problem()
except KeyboardInterrupt:
    sys.exit(130)
if sentence:
    sys.stderr.write("Error: " + sentence + "\n")
    sys.exit(1)
