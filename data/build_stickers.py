"""Rebuilds `data/stickers/` (atlases and index) from the five npm packages that the drawings come from.

The result is the same bytes for the same package versions, Pillow and resvg_py. Needs `resvg_py`
(`pip install resvg_py`; nothing else in the project uses it) and `npm`, or packages unpacked by hand:

    python data/build_stickers.py                       # fetches with `npm pack NAME@VERSION`
    python data/build_stickers.py --packages FOLDER     # FOLDER/<name>-<version>/package/...
"""

import argparse
import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

from PIL import Image

OUT = Path(__file__).resolve().parent / "stickers"
BANK_CELL, BANK_COLUMNS = 64, 32
TARGET_CELL, TARGET_COLUMNS = 128, 8
RENDER = 512

PACKAGES = {
    "emoji-datasource-google": "16.0.0",
    "emoji-datasource-twitter": "16.0.0",
    "@lobehub/fluent-emoji-3d": "1.1.0",
    "@iconify-json/noto": "1.2.9",
    "@iconify-json/twemoji": "1.2.5",
}

ARTISTS = {
    "fluent": {
        "title": "Fluent Emoji 3D",
        "author": "Microsoft; npm package by LobeHub",
        "license": "MIT",
        "packages": ["@lobehub/fluent-emoji-3d"],
    },
    "noto": {
        "title": "Noto Emoji",
        "author": "Google Inc",
        "license": "Apache-2.0",
        "packages": ["emoji-datasource-google", "@iconify-json/noto"],
    },
    "twemoji": {
        "title": "Twemoji",
        "author": "Twitter, Inc and other contributors (jdecked/twemoji)",
        "license": "CC-BY-4.0",
        "packages": ["emoji-datasource-twitter", "@iconify-json/twemoji"],
    },
}

LEFT_OUT_CATEGORIES = {"People & Body", "Flags", "Symbols", "Component"}

# Target concepts by fine-grained group: short name in emoji-datasource -> class name in the project.
TARGETS = {
    "mammals": {
        "dog": "dog",
        "wolf": "wolf",
        "fox_face": "fox",
        "cat": "cat",
        "tiger": "tiger",
        "lion_face": "lion",
        "bear": "bear",
    },
    "cattle": {
        "ox": "ox",
        "water_buffalo": "water buffalo",
        "bison": "bison",
        "goat": "goat",
        "ram": "ram",
        "sheep": "sheep",
    },
    "birds": {
        "duck": "duck",
        "swan": "swan",
        "goose": "goose",
        "eagle": "eagle",
        "parrot": "parrot",
        "owl": "owl",
    },
    "fish": {
        "fish": "fish",
        "tropical_fish": "tropical fish",
        "blowfish": "blowfish",
        "shark": "shark",
        "dolphin": "dolphin",
    },
    "insects": {
        "ant": "ant",
        "bee": "bee",
        "beetle": "beetle",
        "ladybug": "ladybug",
        "cricket": "cricket",
        "cockroach": "cockroach",
    },
    "fruit": {
        "tangerine": "tangerine",
        "lemon": "lemon",
        "mango": "mango",
        "apple": "apple",
        "peach": "peach",
        "pear": "pear",
    },
    "flowers": {
        "cherry_blossom": "cherry blossom",
        "hibiscus": "hibiscus",
        "sunflower": "sunflower",
        "blossom": "blossom",
        "rose": "rose",
    },
    "vehicles": {
        "car": "car",
        "taxi": "taxi",
        "police_car": "police car",
        "ambulance": "ambulance",
        "fire_engine": "fire engine",
        "minibus": "minibus",
        "pickup_truck": "pickup truck",
    },
}

# The same thing as a target in another pose or colour: neither a target nor part of the pretraining.
TWINS = {
    *("dog2", "guide_dog", "service_dog", "cat2", "black_cat", "tiger2", "polar_bear"),
    *("smiley_cat", "smile_cat", "joy_cat", "heart_eyes_cat", "smirk_cat", "kissing_cat", "scream_cat"),
    *("crying_cat_face", "pouting_cat", "cow", "cow2", "green_apple", "lime", "white_flower", "rosette"),
    *("wilted_flower", "oncoming_police_car", "oncoming_taxi", "oncoming_automobile", "blue_car"),
}

# A turned clock face shows another hour: of 24 concepts that the generator would mix up, one is kept.
CLOCKS = {f"clock{hour}{half}" for hour in range(1, 13) for half in ("", "30")} - {"clock10"}


def unpack(folder):
    """Fetch and unpack every package with npm; returns `{name: path of its package folder}`."""
    paths = {}
    for name, version in PACKAGES.items():
        run = ["npm", "pack", f"{name}@{version}", "--silent", "--pack-destination", str(folder)]
        file = folder / subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()[-1]
        with tarfile.open(file) as tar:
            tar.extractall(folder / file.stem, filter="data")
        paths[name] = folder / file.stem / "package"
    return paths


def find(folder):
    """Locate packages already unpacked as `<name>-<version>/package`; returns `{name: path}`."""
    paths = {}
    for name, version in PACKAGES.items():
        plain = name.lstrip("@").replace("/", "-")
        paths[name] = folder / f"{plain}-{version}" / "package"
        if not paths[name].is_dir():
            raise SystemExit(f"{paths[name]} is missing: unpack {name}@{version} there")
    return paths


def fit(image, cell):
    """Crop to what is drawn, scale so that the longer side is `cell - 2`, centre in a cell."""
    image = image.convert("RGBA")
    image = image.crop(image.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox())
    scale = (cell - 2) / max(image.size)
    if image.size != (cell, cell) and scale < 1:
        size = tuple(max(1, round(side * scale)) for side in image.size)
        image = image.resize(size, Image.Resampling.LANCZOS)
    out = Image.new("RGBA", (cell, cell))
    out.paste(image, ((cell - image.width) // 2, (cell - image.height) // 2))
    return out


def fluent(paths, unified):
    """The Fluent drawing of a code point sequence, or None."""
    folder = paths["@lobehub/fluent-emoji-3d"] / "assets"
    for name in (unified.lower(), unified.lower().replace("-fe0f", "")):
        if (folder / f"{name}.webp").exists():
            return Image.open(folder / f"{name}.webp")
    return None


def datasource(paths, artist, entry):
    """The 64 px drawing of emoji-datasource, or None."""
    vendor = {"noto": "google", "twemoji": "twitter"}[artist]
    file = paths[f"emoji-datasource-{vendor}"] / "img" / vendor / "64" / entry["image"]
    return Image.open(file) if entry[f"has_img_{vendor}"] and file.exists() else None


class Vectors:
    """SVG drawings of an Iconify package, by code point."""

    def __init__(self, package):
        self.icons = json.loads((package / "icons.json").read_text())
        self.chars = json.loads((package / "chars.json").read_text())

    def draw(self, unified):
        """Rasterise a code point sequence at `RENDER` pixels."""
        import resvg_py

        low = unified.lower()
        name = self.chars.get(low) or self.chars[low.replace("-fe0f", "")]
        name = self.icons.get("aliases", {}).get(name, {}).get("parent", name)
        icon = self.icons["icons"][name]
        width = icon.get("width", self.icons["width"])
        height = icon.get("height", self.icons["height"])
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}">{icon["body"]}</svg>'
        )
        png = resvg_py.svg_to_bytes(svg_string=svg, width=RENDER, height=RENDER, skip_system_fonts=True)
        return Image.open(io.BytesIO(bytes(png)))


def atlas(sprites, cell, columns):
    """Lay equal cells out in rows."""
    rows = -(-len(sprites) // columns)
    sheet = Image.new("RGBA", (cell * columns, cell * rows))
    for i, sprite in enumerate(sprites):
        sheet.paste(sprite, (i % columns * cell, i // columns * cell))
    return sheet


def save(sheet, file, **options):
    """Write a WebP atlas; returns its entry for the index."""
    sheet.save(file, method=6, **options)
    return {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def build(paths):
    """Write the six atlases and `index.json`."""
    entries = json.loads((paths["emoji-datasource-google"] / "emoji.json").read_text())
    twitter = json.loads((paths["emoji-datasource-twitter"] / "emoji.json").read_text())
    has_twitter = {entry["unified"]: entry for entry in twitter}
    groups = {short: (group, name) for group, names in TARGETS.items() for short, name in names.items()}
    vectors = {name: Vectors(paths[f"@iconify-json/{name}"]) for name in ("noto", "twemoji")}
    concepts, bank, targets = [], {a: [] for a in ARTISTS}, {a: [] for a in ARTISTS}
    target_entries = []
    for entry in sorted(entries, key=lambda e: e["sort_order"]):
        short, unified = entry["short_name"], entry["unified"]
        if entry["category"] in LEFT_OUT_CATEGORIES or short in TWINS | CLOCKS or unified not in has_twitter:
            continue
        if short in groups:
            target_entries.append(entry)
            continue
        drawn = {
            "fluent": fluent(paths, unified),
            "noto": datasource(paths, "noto", entry),
            "twemoji": datasource(paths, "twemoji", has_twitter[unified]),
        }
        if any(image is None for image in drawn.values()):
            continue
        for artist, image in drawn.items():
            bank[artist].append(fit(image, BANK_CELL))
        concepts.append(
            {"name": short, "codepoint": unified.lower(), "group": entry["subcategory"], "target": False}
        )
    order = list(groups)
    for entry in sorted(target_entries, key=lambda e: order.index(e["short_name"])):
        group, name = groups[entry["short_name"]]
        targets["fluent"].append(fit(fluent(paths, entry["unified"]), TARGET_CELL))
        for artist, source in vectors.items():
            targets[artist].append(fit(source.draw(entry["unified"]), TARGET_CELL))
        concepts.append({"name": name, "codepoint": entry["unified"].lower(), "group": group, "target": True})
    if len(target_entries) != len(groups):
        raise SystemExit(f"missing targets: {set(groups) - {e['short_name'] for e in target_entries}}")

    OUT.mkdir(parents=True, exist_ok=True)
    index = {"artists": {}}
    for artist, about in ARTISTS.items():
        about = {**about, "packages": [f"{name}@{PACKAGES[name]}" for name in about["packages"]]}
        about["bank"] = save(
            atlas(bank[artist], BANK_CELL, BANK_COLUMNS), OUT / f"{artist}-bank.webp", quality=BANK_QUALITY
        )
        about["targets"] = save(
            atlas(targets[artist], TARGET_CELL, TARGET_COLUMNS), OUT / f"{artist}-targets.webp", lossless=True
        )
        index["artists"][artist] = about
    index["bank"] = {"cell": BANK_CELL, "columns": BANK_COLUMNS}
    index["targets"] = {"cell": TARGET_CELL, "columns": TARGET_COLUMNS}
    for kind in (False, True):
        for cell, concept in enumerate(c for c in concepts if c["target"] is kind):
            concept["cell"] = cell
    rows = ",\n".join("  " + json.dumps(concept) for concept in concepts)
    head = json.dumps(index, indent=1)[:-2]
    (OUT / "index.json").write_text(f'{head},\n "concepts": [\n{rows}\n ]\n}}\n')
    print(f"{len(bank['noto'])} pretraining concepts, {len(target_entries)} targets")
    print(f"{sum(f.stat().st_size for f in OUT.iterdir()) / 1e6:.2f} MB in {OUT.name}/")


BANK_QUALITY = 92


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=Path, help="folder of packages already unpacked")
    args = parser.parse_args()
    if args.packages:
        build(find(args.packages))
    else:
        with tempfile.TemporaryDirectory() as folder:
            build(unpack(Path(folder)))


if __name__ == "__main__":
    main()
