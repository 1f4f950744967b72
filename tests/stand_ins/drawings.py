"""How many random scenes of each kind the slow tests draw: 200, or what STILLHOUSE_DRAWINGS names, such as 1000."""

import os

DRAWINGS = int(os.environ.get("STILLHOUSE_DRAWINGS", "200"))
