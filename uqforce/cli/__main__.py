"""`python -m uqforce.cli`."""

import sys

from uqforce.cli import main

sys.exit(main())
