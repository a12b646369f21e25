"""Files that pages are made from."""

import json
from pathlib import Path
from typing import Any


def read(path: Path) -> Any:
    """A JSON file; an error names it."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
