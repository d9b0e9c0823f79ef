import sys

from bagel_rt.cli import main

sys.exit(main())
