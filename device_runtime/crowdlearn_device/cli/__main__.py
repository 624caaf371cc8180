"""`python -m crowdlearn_device.cli`."""

import sys

from . import main

sys.exit(main())
