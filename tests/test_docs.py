"""
What the pages of documentation show is what happens.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.documents import CHECKOUT, EXAMPLES, ONLY_SHOWN, PAGES, blocks, run
from tests.support.freeports import freePort

README = CHECKOUT / "README.rst"
PORT = re.compile(r"\b184\d\d\b")

pytestmark = pytest.mark.skipif(
    not README.exists(), reason="the tests run without a checkout, and so its pages"
)

everyPage = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def onFreePorts(page: str) -> str:
    """
    A page with ports that nobody has, in place of those that it shows.
    """
    for port in set(PORT.findall(page)):
        page = page.replace(port, str(freePort()))
    return page


@everyPage
def test_thePageDoesWhatItShows(page: Path, tmp_path: Path) -> None:
    """
    Its programs are run by its commands, and print what it says.
    """
    (tmp_path / "examples").symlink_to(CHECKOUT / "examples")
    run(onFreePorts(page.read_text()), tmp_path)


@everyPage
def test_noBlockOfThePageIsLeftOut(page: Path) -> None:
    """
    Each is typed, or is a file that something typed uses, or cannot be run.
    """
    text = page.read_text()
    found = list(blocks(text))
    # Another form of literal block would be passed over.
    paragraphs = re.findall(r"^(?!\.\. code-block::).*::$", text, re.MULTILINE)
    assert paragraphs == []
    assert text.count("code-block::") == len(found)
    typed = "".join(block.text for block in found if block.language == "console")
    for block in found:
        if block.language not in ("console", *ONLY_SHOWN):
            assert block.name, f"no file is named before:\n{block.text}"
            assert block.name in typed


def test_everyExampleIsRunOnSomePage() -> None:
    """
    By its name.
    """
    typed = "".join(
        block.text
        for page in PAGES
        for block in blocks(page.read_text())
        if block.language == "console"
    )
    assert EXAMPLES
    for example in EXAMPLES:
        assert f"examples/{example.name}" in typed


def test_everyPageIsInTheIndex() -> None:
    """
    And the index is in the README.
    """
    index = (CHECKOUT / "docs" / "index.rst").read_text()
    for page in PAGES:
        assert page.stem == "index" or f"<{page.name}>`" in index
    assert "docs/index.rst" in README.read_text()


def test_whatAPageLinksToIsThere() -> None:
    """
    The pages, and the files of the checkout that it names by a link.
    """
    for page in [README, *PAGES]:
        for target in re.findall(r"<([\w./-]+)>`_", page.read_text()):
            assert (page.parent / target).exists(), f"{target} in {page.name}"


# -- what runs the pages


PAGE = """
The program is ``told.py``:

.. code-block:: python

    import sys
    print("told", *sys.argv[1:])

And then:

.. code-block:: console

    $ python told.py 17
    {shown}
"""


@pytest.mark.parametrize("shown", ["told 17", "told 4", "told ...", "..."])
def test_whatIsShownMayHaveOtherNumbers(shown: str, tmp_path: Path) -> None:
    """
    A page cannot know a process's number.
    """
    run(PAGE.format(shown=shown), tmp_path)


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        ("tell 17", "'told 17', and not 'tell 17'"),
        ("told", "'told 17', and not 'told'"),
        ("told 17\n    $ sh -c 'echo more'", "more"),
        ("told 17\n    $ python told.py & wait", "told"),
    ],
)
def test_whatIsPrintedAndNotShownIsFound(shown: str, why: str, tmp_path: Path) -> None:
    """
    The page fails, and with what was printed.
    """
    with pytest.raises(AssertionError, match=re.escape(why)):
        run(PAGE.format(shown=shown), tmp_path)


def test_whatIsShownAndNotPrintedIsFound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    After a time; and a program that does not end is no quiet success.
    """
    monkeypatch.setattr("tests.support.documents.DEADLINE", 1.0)
    with pytest.raises(AssertionError, match="'more' was not printed"):
        run(PAGE.format(shown="told 17\n    more"), tmp_path)
    with pytest.raises(AssertionError, match="still runs"):
        run(PAGE.format(shown="told 17\n    $ sleep 1000 &"), tmp_path)
