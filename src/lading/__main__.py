"""``python -m lading`` is the command ``lading``."""

import sys

from lading.cli import main

sys.exit(main())
