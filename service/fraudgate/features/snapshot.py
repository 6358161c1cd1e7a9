"""Snapshots."""
from pathlib import Path
from typing import Any
def write(store: Any, directory: Path) -> Path: raise NotImplementedError
def read(store: Any, directory: Path) -> None: raise NotImplementedError
