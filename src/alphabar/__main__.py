"""`python -m alphabar`, which `accelerate launch -m alphabar` needs."""

import sys

from alphabar.cli import main

if __name__ == "__main__":
    sys.exit(main())
