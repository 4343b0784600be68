"""Write where the repository lives into every link that needs it: make address REPO=owner/name

The address stands in pyproject.toml. Its copies are in the notebooks, for Colab knows a notebook only by its place on
GitHub, and in the README.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main(repo: str) -> str:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        return f"the address is written owner/name, not {repo!r}: make address REPO=owner/name"
    project = ROOT / "pyproject.toml"
    old = re.search(r'^Repository = "https://github.com/(.+?)"', project.read_text(encoding="utf8"), re.M)[1]
    for path in (project, ROOT / "README.md", *sorted((ROOT / "notebooks").glob("*.ipynb"))):
        text = path.read_text(encoding="utf8")
        path.write_text(re.sub(rf"(github(?:\.com)?/){re.escape(old)}\b", rf"\g<1>{repo}", text), encoding="utf8")
    return ""


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:])) or 0)
