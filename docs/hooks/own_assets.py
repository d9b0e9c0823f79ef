"""No page loads anything from another host: scripts, styles, fonts and pictures are the site's own."""

from __future__ import annotations

import re
from typing import Any

from mkdocs.exceptions import PluginError

LOADED = re.compile(
    r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?(https?:)?//[^>]*>|<link[^>]*rel=\"?stylesheet[^>]*//[^>]*>"
)


def on_post_page(output: str, page: Any, config: Any) -> str:
    if found := LOADED.search(output):
        raise PluginError(f"{page.file.src_uri} loads from another host: {found[0]}")
    return output
