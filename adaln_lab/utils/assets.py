"""Files that come with the package: trained models, tables, records. adaln_lab/assets/README.md describes them."""

import json
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).parents[1] / "assets"


def asset(name: str) -> Path:
    """The path of a file or folder such as "dit_digits". ValueError with the similar names if there is none."""
    path = ASSETS / name
    if not path.exists():
        family = path.name.partition("_")[0] if "_" in path.name else ""
        there = sorted(p.name for p in path.parent.glob(f"{family}*{path.suffix}"))
        raise ValueError(f"no asset is called {name!r}; there are {', '.join(there) or 'none of this kind'}")
    return path


def stored(name: str) -> dict[str, Any] | None:
    """The table or record NAME.json, or None if it was not measured yet."""
    path = ASSETS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf8")) if path.is_file() else None
