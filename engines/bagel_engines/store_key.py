"""Names for files that engines keep on disk (TensorRT plans, packed weights), made of everything they depend on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any


class Key:
    """Base of frozen dataclasses with a field `graph`. Keys that differ in any field have different names."""

    graph: str

    def facts(self) -> dict[str, Any]:
        fields = asdict(self)  # type: ignore[call-overload]
        return json.loads(json.dumps(fields, sort_keys=True))  # tuples become lists, as they read back from a file

    @property
    def name(self) -> str:
        digest = hashlib.sha256(json.dumps(self.facts(), sort_keys=True).encode()).hexdigest()
        return f"{self.graph}-{digest[:16]}"
