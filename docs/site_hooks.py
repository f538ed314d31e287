"""What mkdocs.yml cannot say: pages and files of the repository that are not in docs/.

The site has the tree of the repository, with what is in docs/ at its root. So a link from docs/ to
`../examples/adapt.py` becomes one to `examples/adapt.py`, and one from the README to `docs/rows.md` becomes
one to `rows.md`. Files that a page links to are copied into the site. mkdocstrings is shown the package as
one tree, which in the repository is three folders.
"""

import re
import tempfile
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "benchmarks/README.md")
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


TREE = tempfile.TemporaryDirectory()


@event_priority(100)  # before mkdocstrings reads its own
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Show mkdocstrings the package as one tree."""
    package = Path(TREE.name) / "exportable_losses"
    if not package.exists():
        package.mkdir()
        for each in (*(ROOT / "exportable_losses").iterdir(), ROOT / "export", ROOT / "runtime"):
            (package / each.name).symlink_to(each)
    mkdocstrings: Any = config.plugins["mkdocstrings"]
    mkdocstrings.config.handlers["python"]["paths"] = [TREE.name]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for page in PAGES:
        files.append(_file(config, page))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of a page, which are right in the repository, into those of the site."""
    here = page.file.src_uri
    folder = PurePosixPath(here if here in PAGES else f"docs/{here}").parent

    def in_site(link: re.Match[str]) -> str:
        target = normpath(folder / link[1])
        uri = target.removeprefix("docs/")
        if files.get_file_from_path(uri) is None and (ROOT / target).is_file():
            files.append(_file(config, target))
        return relpath(uri, PurePosixPath(here).parent)

    return LINK.sub(in_site, markdown)


def _file(config: MkDocsConfig, uri: str) -> File:
    return File.generated(config, uri, abs_src_path=str(ROOT / uri))
