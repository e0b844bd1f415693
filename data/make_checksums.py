"""Write `checksums.json` anew, the SHA-256 of every shipped file: `python data/make_checksums.py`.

To be run after any of the other scripts here has built something; a file that differs from its sum is refused when it
is read.
"""

from pathlib import Path

from spgca_lab.data import shipped

if __name__ == "__main__":
    root = Path(__file__).resolve().parent
    print(f"{shipped.rewrite(root)} files in {shipped.CHECKSUMS}")
