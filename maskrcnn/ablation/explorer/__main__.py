"""Write the explorer with its generated picture:  python -m maskrcnn.ablation.explorer OUT.html"""

from __future__ import annotations

import sys
from pathlib import Path

from maskrcnn.ablation.explorer import explorer_page

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    Path(sys.argv[1]).write_text(explorer_page(), "utf-8")
