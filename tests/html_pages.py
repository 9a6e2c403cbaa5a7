"""Pages, looked at by a parser and by a browser where there is one."""

import html.parser
import shutil

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BROWSER = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu"]


class Structure(html.parser.HTMLParser):
    """Checks that tags are closed in order, and collects scripts and addresses."""

    void = ("meta", "img", "input", "br", "link")

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.scripts = [], [], 0
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.scripts += tag == "script"
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
