"""`python -m refusal_suite.pictures DIRECTORY` draws all scenes."""

from __future__ import annotations

import argparse
from pathlib import Path

from refusal_suite.pictures import draw_all

parser = argparse.ArgumentParser(description="Draw the pictures of the prompt set.")
parser.add_argument("directory", type=Path)
for path in draw_all(parser.parse_args().directory):
    print(f"{path.name}  {path.stat().st_size} bytes")
