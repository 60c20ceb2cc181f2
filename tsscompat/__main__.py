"""`python -m tsscompat`."""

import sys

from tsscompat.cli import main

sys.exit(main())
