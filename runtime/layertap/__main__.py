"""`python -m layertap`."""

import sys

from .cli import main

sys.exit(main())
