"""What names an entry of a store on disk: everything the entry depends on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any


class Key:
    """A frozen dataclass with a field `graph`; entries whose facts differ in anything have different names."""

    graph: str

    def facts(self) -> dict[str, Any]:
        stated = asdict(self)  # type: ignore[call-overload]
        return json.loads(json.dumps(stated, sort_keys=True))  # as it reads back: tuples are lists

    @property
    def name(self) -> str:
        digest = hashlib.sha256(json.dumps(self.facts(), sort_keys=True).encode()).hexdigest()
        return f"{self.graph}-{digest[:16]}"
