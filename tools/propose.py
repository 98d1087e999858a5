"""Store the proposals of a trained RPN:  python tools/propose.py checkpoint=FILE run_dir=DIR

Writes DIR/train.json and DIR/val.json, COCO results of one class, and prints their recall. Runs that are to share
them (the ablation's cells do) take  model.rpn=null proposals.train=DIR/train.json proposals.val=DIR/val.json

Example:
  tools/train.py model=r18_rpn run_dir=runs/rpn
  tools/propose.py checkpoint=runs/rpn/last.pt run_dir=runs/rpn/proposals
"""

from maskrcnn.cli import run_tool
from maskrcnn.commands.propose import main

if __name__ == "__main__":
    run_tool(main, __doc__)
