"""What the page of sliders is given: numbers and weights as one script, which a page opened as a file loads too."""

import base64
import json
from pathlib import Path

from reading import read

from pyro_vaes.experiments.explorer import unpacked

RESULT = "explorer.quick.json"


def script(root: Path) -> str:
    """``window.pyroVaesData``: the result as it is, and the file of each pair in base64."""
    results = root / "results"
    result, bins = read(results / RESULT), {}
    for name, model in result["models"].items():
        data = (results / model["file"]).read_bytes()
        try:
            unpacked(model, data)
        except ValueError as error:
            raise ValueError(f"{results / model['file']} is damaged: {error}") from error
        bins[name] = base64.b64encode(data).decode()
    return f"window.pyroVaesData = {json.dumps({'result': result, 'bin': bins})};\n"
