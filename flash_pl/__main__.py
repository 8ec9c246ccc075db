"""``python -m flash_pl`` is ``flash-pl``."""

import sys

from flash_pl.cli import main

if __name__ == "__main__":
    sys.exit(main())
