"""
The pages of documentation: what they show is what happens.
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
    Return a page with unused ports in place of those that it shows.
    """
    for port in set(PORT.findall(page)):
        page = page.replace(port, str(freePort()))
    return page


@everyPage
def test_thePageDoesWhatItShows(page: Path, tmp_path: Path) -> None:
    """
    The commands of a page run its programs, and print what it shows.
    """
    (tmp_path / "examples").symlink_to(CHECKOUT / "examples")
    run(onFreePorts(page.read_text()), tmp_path)


@everyPage
def test_noBlockOfThePageIsLeftOut(page: Path) -> None:
    """
    Every block is a command, a file that a command uses, or text that cannot run.
    """
    text = page.read_text()
    found = list(blocks(text))
    # Another form of literal block would be ignored.
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
    A page's command names it.
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
    The index names each page, and the README names the index.
    """
    index = (CHECKOUT / "docs" / "index.rst").read_text()
    for page in PAGES:
        assert page.stem == "index" or f"<{page.name}>`" in index
    assert "docs/index.rst" in README.read_text()


def test_everyLinkHasATarget() -> None:
    """
    The target is another page, or a file of the checkout.
    """
    for page in [README, *PAGES]:
        for target in re.findall(r"<([\w./-]+)>`_", page.read_text()):
            assert (page.parent / target).exists(), f"{target} in {page.name}"


# -- the code that runs the pages


PAGE = """
The program is ``show.py``:

.. code-block:: python

    import sys
    print("shown", *sys.argv[1:])

And then:

.. code-block:: console

    $ python show.py 17
    {shown}
"""


@pytest.mark.parametrize("shown", ["shown 17", "shown 4", "shown ...", "..."])
def test_otherNumbersMayBePrinted(shown: str, tmp_path: Path) -> None:
    """
    A page cannot know process ids and times.
    """
    run(PAGE.format(shown=shown), tmp_path)


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        ("show 17", "expected 'show 17', got 'shown 17'"),
        ("shown", "expected 'shown', got 'shown 17'"),
        ("shown 17\n    $ sh -c 'echo more'", "more"),
        ("shown 17\n    $ python show.py & wait", "shown"),
    ],
)
def test_outputThatIsNotShownFails(shown: str, why: str, tmp_path: Path) -> None:
    """
    The failure contains the output.
    """
    with pytest.raises(AssertionError, match=re.escape(why)):
        run(PAGE.format(shown=shown), tmp_path)


def test_missingOutputFails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A page fails after the deadline, also if a program still runs.
    """
    monkeypatch.setattr("tests.support.documents.DEADLINE", 1.0)
    with pytest.raises(AssertionError, match="'more' was not printed"):
        run(PAGE.format(shown="shown 17\n    more"), tmp_path)
    with pytest.raises(AssertionError, match="still runs"):
        run(PAGE.format(shown="shown 17\n    $ sleep 1000 &"), tmp_path)
