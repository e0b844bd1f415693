"""`python -m spgca_lab` is `spgca-lab`."""

import sys

from spgca_lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
