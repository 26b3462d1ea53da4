"""Trains, resumes and tests recipes: `python scripts/fit.py` lists them."""

import sys

from dlkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
