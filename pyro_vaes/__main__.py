"""``python -m pyro_vaes`` is ``pyro-vaes``."""

import sys

from pyro_vaes.cli import main

sys.exit(main())
