"""Add the links that need the repository's place on GitHub: make address REPO=owner/name

As shipped, the course does not know where it will live, so it has no link to itself. This adds them: a badge and the
pages in the README, in each notebook a link to Colab and the line that installs the course there, and the project's URL
in pyproject.toml. Another address replaces the first. On GitHub, REPO is the repository of the workflow.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
COLAB = "https://colab.research.google.com"
README_LINE = re.compile(r"^(\[!\[Open.*\) )?(?=Letters and terms: )", re.M)
TITLE_LINE = re.compile(r"^(\*\*Letters and terms:\*\* \[glossary\]\(glossary\.md\)\.).*$", re.M)
URLS = re.compile(r'\n\[project\.urls\]\nRepository = "https://github\.com/(.*)"\n')


def first_cell(repo: str | None) -> str:
    """The first code cell of every notebook: is the course installed here? On Colab, install it where we can."""
    fetch = f'if "google.colab" in sys.modules:\n    %pip install --quiet git+https://github.com/{repo}\n'
    upload = '        " On Colab, upload its folder first, then: %pip install ./adaln-lab"\n'
    return f"""import sys
from importlib.util import find_spec

{fetch if repo else ""}if find_spec("adaln_lab") is None:
    raise ModuleNotFoundError(
        f"The course is not installed for {{sys.executable}}. "
        "Choose the kernel of its .venv (menu Kernel, Change Kernel), or start it with: make lab."
{"" if repo else upload}    )"""


def link(repo: str, notebook: str) -> str:
    return f"{COLAB}/github/{repo}/blob/main/notebooks/{notebook}"


def replaced(pattern: re.Pattern, new: str, text: str) -> str:
    text, count = pattern.subn(new, text)
    if count != 1:
        raise ValueError(f"expected one place for the link, found {count}: {pattern.pattern}")
    return text


def known(root: Path = ROOT) -> str | None:
    """The address that was written last, if any."""
    found = URLS.search((root / "pyproject.toml").read_text(encoding="utf8"))
    return found and found[1]


def write(repo: str | None, root: Path = ROOT) -> None:
    """None takes all links away again."""
    project, readme = root / "pyproject.toml", root / "README.md"
    text = URLS.sub("", project.read_text(encoding="utf8"))
    urls = f'\n[project.urls]\nRepository = "https://github.com/{repo}"\n' if repo else ""
    project.write_text(
        text.replace("\n[project.optional-dependencies]", f"{urls}\n[project.optional-dependencies]", 1),
        encoding="utf8",
    )

    badge = ""
    if repo:
        badge = f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({link(repo, '00_start_here.ipynb')}) "
        badge += "[Read it as pages](https://{}.github.io/{}/) ".format(*repo.split("/"))  # workflows/pages.yml
    readme.write_text(replaced(README_LINE, badge, readme.read_text(encoding="utf8")), encoding="utf8")

    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf8"))
        title, code = notebook["cells"][:2]
        colab = rf" Nothing installed here? [Open in Colab]({link(repo, path.name)})." if repo else ""
        title["source"] = replaced(TITLE_LINE, rf"\1{colab}", "".join(title["source"])).splitlines(keepends=True)
        code["source"] = first_cell(repo).splitlines(keepends=True)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf8")


def main(repo: str) -> str:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        return f"the address is written owner/name, not {repo!r}: make address REPO=owner/name"
    write(repo)
    return ""


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:])) or 0)
