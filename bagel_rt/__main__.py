# PYTHON_ARGCOMPLETE_OK
"""`python -m bagel_rt` is the command line."""

import sys

from bagel_rt.cli import main

sys.exit(main())
