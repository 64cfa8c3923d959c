"""What must happen before NumPy is imported: the packages are checked, and the number of threads is set.

Importing this module does both. It ends the process if a package is missing.
"""

import os
import sys

from cli import threads

threads.limit(sys.argv[1:], os.environ)

import cli.requirements  # noqa: E402, F401
