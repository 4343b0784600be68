"""Make adaln_lab/assets/emoji from three npm packages (maintainers only; needs Pillow, which matplotlib brings).

    npm pack emoji-datasource-twitter@16.0.0 emoji-datasource-google@16.0.0 emojilib@4.0.3
    python -m benchmarks.emoji_data FOLDER     # that holds the three .tgz files

One noun is one picture in each of two styles: both packages draw the same list. A split is a rule over the sorted
list of names, so that the same packages give the same files, byte by byte.
"""

import io
import json
import re
import sys
import tarfile
from collections import Counter
from pathlib import Path

from PIL import Image

from adaln_lab.data.emoji import COLUMNS, SAME, SILENT, WORDS
from adaln_lab.data.emoji import TILE as SIZE

ASSET = Path(__file__).parents[1] / "adaln_lab" / "assets" / "emoji"
STYLES = {"twemoji": "twitter", "noto": "google"}  # our name -> the packages'
# with text in the picture, or many that differ by less than a pixel
LEFT_OUT = re.compile(r"o_clock|thirty|facing right|^family")
TONES = {"1F3FB": "light", "1F3FD": "medium", "1F3FF": "dark"}
TONED = {"waving_hand", "raised_hand", "thumbs_up", "thumbs_down", "ok_hand", "victory_hand", "raised_fist", "ear"}
TONED |= {"clapping_hands", "folded_hands", "writing_hand", "flexed_biceps", "nose", "foot"}
# keywords that say more about prejudice than about pictures, or are rude
UNFIT = {"african", "arab", "arabian", "arabs", "asian", "chinese", "crap", "fat", "gay", "lesbian", "mexican", "shit"}
UNFIT |= {"shitface", "simp", "terrorism", "turd", "ugly", "virgin"}
COLOURS = {
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "brown",
    "black",
    "white",
    "grey",
    "pink",
    *TONES.values(),
}
NEW_PAIRS = (  # a colour and a thing, never seen together, each seen with others
    "green heart", "orange heart", "blue circle", "brown circle", "yellow square", "purple square",
    "blue book", "medium thumbs up", "dark waving hand",
)  # fmt: skip


def main(folder: Path) -> None:
    files = {}  # (package, name) -> content
    for package in ("emojilib", *(f"emoji-datasource-{published}" for published in STYLES.values())):
        with tarfile.open(next(folder.glob(f"{package}-*.tgz"))) as tar:
            wanted = [m for m in tar.getmembers() if re.search(r"/64/|emoji\.json|en-US\.json", m.name)]
            files |= {(package, m.name.removeprefix("package/")): tar.extractfile(m).read() for m in wanted}

    keywords = json.loads(files["emojilib", "dist/emoji-en-US.json"])
    nouns = {}
    for entry in json.loads(files["emoji-datasource-twitter", "emoji.json"]):
        if entry["category"] in ("Flags", "Component") or not (entry["has_img_twitter"] and entry["has_img_google"]):
            continue
        if entry["category"] == "Symbols" and entry["subcategory"] != "geometric":
            continue
        own = keywords["".join(chr(int(part, 16)) for part in entry["unified"].split("-"))]
        if LEFT_OUT.search(own[0]):
            continue
        drawn = {own[0]: entry["image"]}
        for code, tone in TONES.items() if own[0] in TONED else ():
            drawn[f"{tone} {own[0]}"] = entry["skin_variations"][code]["image"]
        for name, image in drawn.items():
            name = re.sub("[^a-z0-9]+", " ", name.lower()).strip()
            nouns.setdefault(name, dict(category=entry["category"], image=image, keywords=own[1:]))
    words = {name: list(dict.fromkeys(SAME.get(w, w) for w in name.split() if w not in SILENT)) for name in nouns}
    known = {word for row in words.values() for word in row}
    merge = lambda word: word[:-1] if word.endswith("s") and word[:-1] in known else word  # noqa: E731
    words = {name: tuple(merge(word) for word in row)[:WORDS] for name, row in words.items()}
    first = {}
    for name in sorted(nouns):
        if words[name]:
            first.setdefault(words[name], name)  # of two names with the same words the first stays
    names = sorted(first.values())
    split = splits(names, words)

    ASSET.mkdir(parents=True, exist_ok=True)
    for style, published in STYLES.items():
        sheet = Image.new("RGB", (COLUMNS * SIZE, -(-len(names) // COLUMNS) * SIZE), "white")
        for i, name in enumerate(names):
            data = files[f"emoji-datasource-{published}", f"img/{published}/64/{nouns[name]['image']}"]
            picture = Image.open(io.BytesIO(data)).convert("RGBA")
            white = Image.new("RGBA", picture.size, "white")
            small = Image.alpha_composite(white, picture).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX)
            sheet.paste(small, (i % COLUMNS * SIZE, i // COLUMNS * SIZE))
        sheet.save(ASSET / f"{style}.webp", lossless=True, quality=100, method=6)
    vocabulary = {word for name in names for word in words[name]}
    rows = [[name, " ".join(words[name]), nouns[name]["category"], split[name]] for name in names]
    found = []
    for name in names:
        for place, keyword in enumerate(nouns[name]["keywords"]):
            if re.fullmatch("[a-z]{3,}", keyword) and keyword not in vocabulary | SILENT | UNFIT:
                found.append((len(words[name]), place, name, keyword))
    other = {}  # a keyword stands for the shortest name that has it, early in its list
    for _, _, name, keyword in sorted(found):
        other.setdefault(keyword, " ".join(words[name]))
    lines = ",\n".join(json.dumps(row) for row in rows)
    spoken = json.dumps(other, sort_keys=True)
    (ASSET / "names.json").write_text(f'{{"nouns": [\n{lines}\n],\n"other_words": {spoken}\n}}\n')
    print(len(names), "nouns", len(vocabulary), "words", Counter(split.values()), len(other), "other words")


def splits(names: list[str], words: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """Name -> which pictures training sees: both, twemoji, noto (that one only), new_pair or new_noun (none)."""
    found = {name: "both" for name in names}
    for pair in NEW_PAIRS:
        found[pair] = "new_pair"
    often = Counter(word for name in names for word in words[name])
    # nouns whose every word other nouns have, too, so that a reader of words can make something of them
    plain = [name for name in names if not COLOURS & set(words[name])]
    told = [name for name in plain if len(words[name]) > 1 and min(often[word] for word in words[name]) >= 3]
    for name in told[4::12]:
        found[name] = "new_noun"
    rest = [name for name in plain if found[name] == "both"]
    for name in rest[2::20]:
        found[name] = "twemoji"
    for name in rest[12::20]:
        found[name] = "noto"
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
