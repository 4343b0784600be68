"""Draw the package from its imports into ARCHITECTURE.md, as text that GitHub shows as a picture.

    python tests/architecture.py

FLOORS says which rooms belong together; every arrow is read from the code. An arrow goes from what is imported to who
imports it, the way that data goes. An arrow that follows from others is left out.
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "adaln_lab"
PAGE = ROOT / "ARCHITECTURE.md"
FLOORS = {
    "tools": {"environment", "files", "proof", "stopwatch"},
    "pictures": {"scenes", "datasets", "scene_reader"},
    "parts": {"layers", "norms", "residual", "embed", "conditioning"},
    "models": {"dit", "blocks", "unet", "schemes"},
    "drawing": {"plots", "widgets"},
    "training": {"flow", "muon", "distributed", "train", "checkpoint", "recipes", "failures", "session"},
    "sampling": {"samplers", "interventions"},
    "looking inside": {"probes", "wakeup", "dataflow", "diagrams", "xray"},
    "measuring": {"judge", "sweep", "compare", "baselines", "bench"},
    "the learner": {"exercises"},
    "the shell": {"__main__"},
}
START, END = "```mermaid\n", "```\n"


def imported(path: Path) -> set[str]:
    """Names in a file's imports, as far as they are written."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: write imports in full"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def room(path: Path) -> str:
    """A file of the package, or the folder in which it lies."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def arrows() -> set[tuple[str, str]]:
    """(from, to) for each two floors where a room of the second imports one of the first."""
    floor = {name: title for title, rooms in FLOORS.items() for name in rooms}
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        used = {name.split(".")[1] for name in imported(path) if name.startswith("adaln_lab.")}
        found |= {(floor[name], floor[room(path)]) for name in used if name in floor and room(path) in floor}
    return {(low, high) for low, high in found if low != high}


def needed(all_arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Without the arrows that a longer way replaces."""
    reach = set(all_arrows)
    for middle in FLOORS:
        reach |= {(a, c) for a, b in reach if b == middle for b2, c in reach if b2 == middle}
    return {(a, c) for a, c in all_arrows if not any((a, b) in reach and (b, c) in reach for b in FLOORS)}


def mermaid() -> str:
    """The drawing: floors from top to bottom, arrows downward."""
    key = {title: title.replace(" ", "_") for title in FLOORS}
    lines = ["flowchart TD"]
    for title, rooms in FLOORS.items():
        lines.append(f'    {key[title]}["<b>{title}</b><br>{", ".join(sorted(rooms))}"]')
    order = list(FLOORS)
    for low, high in sorted(needed(arrows()), key=lambda pair: tuple(map(order.index, pair))):
        lines.append(f"    {key[low]} --> {key[high]}")
    return "\n".join(lines) + "\n"


def main() -> int:
    before, _, rest = PAGE.read_text(encoding="utf8").partition(START)
    PAGE.write_text(before + START + mermaid() + END + rest.partition(END)[2], encoding="utf8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
