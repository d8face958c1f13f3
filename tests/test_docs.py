"""The pages of the documentation are whole: no half-made merge, no link to a page that is not there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("csrc/*.md"), *ROOT.glob("zoo/**/*.md")]
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page(page):
    text = page.read_text()
    assert not re.search(r"^(<{7}|={7}|>{7})( |$)", text, re.M), "a merge was left half-made"
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    targets = [target.partition("#")[0] for target in LINK.findall(prose) if "://" not in target]
    missing = [target for target in targets if target and not (page.parent / target).exists()]
    assert not missing, f"{page.name} links to {missing}"
