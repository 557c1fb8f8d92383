"""Where the tests of faults find the stack."""

from __future__ import annotations

import sys
from pathlib import Path

# What the scenarios look with serves these tests too.
sys.path.append(str(Path(__file__).resolve().parents[2] / "molecule"))
