"""Where the embedded data lies: inside an installed wheel, or beside the package in a checkout."""

from pathlib import Path

__all__ = ["data_dir"]


def data_dir() -> Path:
    """Folder of the embedded data (sticker bank, `mini` weights, shipped runs).

    Returns:
        `spgca_lab/_data` in an installed wheel, else `data/` of the checkout.

    Raises:
        FileNotFoundError: if neither exists, naming both.

    Example:
        >>> (data_dir() / "stickers").is_dir()
        True
    """
    package = Path(__file__).resolve().parents[1]
    candidates = (package / "_data", package.parent / "data")
    for folder in candidates:
        if (folder / "stickers").is_dir():
            return folder
    raise FileNotFoundError(
        "The embedded data of spgca_lab is missing: looked for 'stickers/' in "
        + " and ".join(repr(str(folder)) for folder in candidates)
        + ". Reinstall the package, or run from a complete checkout."
    )
