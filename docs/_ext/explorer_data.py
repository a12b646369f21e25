"""What the page of sliders is given: numbers and weights as one script, which a page opened as a file loads too."""

import base64
import json
from pathlib import Path

RESULT = "explorer.quick.json"


def script(root: Path) -> str:
    """``window.pyroVaesData``: the result as it is, and the file of each pair in base64."""
    results = root / "results"
    result = json.loads((results / RESULT).read_text())
    files = {name: results / model["file"] for name, model in result["models"].items()}
    bins = {name: base64.b64encode(file.read_bytes()).decode() for name, file in files.items()}
    return f"window.pyroVaesData = {json.dumps({'result': result, 'bin': bins})};\n"
