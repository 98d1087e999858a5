"""Read a data set whole:  python tools/check_data.py annotations=A.json images=DIR | voc=VOCdevkit/VOC2007 | sbd=DIR

Prints counts, classes, sizes and every defect with its file, id and remedy. Exit status 1 when there are
defects.
  figure=FILE.png   classes and sizes as a picture
  --fix             writes A_fixed.json beside A.json, without what is defective
"""

from maskrcnn.cli.entry import run_tool

if __name__ == "__main__":
    run_tool("check_data", __doc__)
