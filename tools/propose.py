"""Store the proposals of a trained RPN:  python tools/propose.py checkpoint=FILE run_dir=DIR

Writes DIR/train.npz and DIR/val.npz, boxes and scores by image, and prints their recall. Runs that are to share them
(the ablation's cells do) take  model.rpn=null proposals.train=DIR/train.npz proposals.val=DIR/val.npz

Example:
  tools/train.py model=r18_rpn run_dir=runs/rpn
  tools/propose.py checkpoint=runs/rpn/last.pt run_dir=runs/rpn/proposals
"""

from maskrcnn.cli.entry import run_tool

if __name__ == "__main__":
    run_tool("propose", __doc__)
