"""Fetch and unpack a published data set:  python tools/prepare_data.py set=coco|voc2007|voc2012|sbd to=DIR

Started again, it resumes. Archives are checked against their published checksums and unpacked only into DIR.
  mirror=URL   fetch the archives from this address instead
  keep=true    leave the archives in DIR
"""

from maskrcnn.cli.entry import run_tool

if __name__ == "__main__":
    run_tool("prepare_data", __doc__)
