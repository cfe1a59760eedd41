"""HTML pages as a test reads them, and texts that must not become markup in them."""

import re
from html.parser import HTMLParser

from featurize.data.records import Sample

EVIL = "</pre><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7*7 }} &amp; \x1b[31m \u202e"


class Elements(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def read_evil(task_ids):
    return [
        Sample(
            instruction=f"statement {EVIL}",
            input="its input",
            output=f"output {task_id} {EVIL}",
            is_correct=True,
            problem_id=f"problem {EVIL}",
            task_id=task_id,
            difficulty=None,
            source=None,
            language=None,
            location="file:1",
        )
        for task_id in task_ids
    ]


def check_is_inert(page, is_page=lambda target: False):
    """Assert that a page runs nothing, requests nothing, and links to itself or to known pages."""
    elements = Elements(page)
    assert not {tag for tag, _ in elements.tags} & {"script", "link", "img", "iframe", "object"}
    for tag, attributes in elements.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            target = attributes.get(name, "#")
            assert target.startswith("#") or (tag == "a" and is_page(target))
    assert "default-src 'none'" in page
    assert not re.findall(r"@import|url\((?!#)", page)
    assert "\x1b" not in page
    assert "\u202e" not in page


def check_links(page):
    """Assert that ids are unique and that what refers to one finds it; returns the ids."""
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    uses = re.findall(r'href="#([^"]+)"', page) + re.findall(r"url\(#([^)]+)\)", page)
    assert uses
    assert set(uses) <= set(ids)
    return set(ids)
