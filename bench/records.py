"""Results on disk that a killed process leaves whole. Only the standard library is imported."""

import json
import os
from pathlib import Path


def write_json(path: Path, content: object) -> None:
    """Replace the file by `content` at once: a reader finds the old text or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".new")
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(unfinished, path)
