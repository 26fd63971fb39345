"""`python -m proxyd` is `proxyd`. Nothing else happens here."""

import sys

from proxyd.cli import main

if __name__ == "__main__":
    sys.exit(main())
