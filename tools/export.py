"""Export a model:  python tools/export.py checkpoint=C format=onnx|torch_export out=FILE [key=value ...]

Examples:
  tools/export.py checkpoint=runs/a/best.pt out=model.onnx
  tools/export.py checkpoint=runs/a/best.pt format=torch_export out=model.pt2
  tools/export.py checkpoint=runs/a/best.pt out=model.onnx model.box_head.score_threshold=0.3

The graph takes one image of any size: pixels, uint8 [1, 3, H, W], and size, its height and width before padding; it
gives boxes, scores, labels, valid, and mask probabilities within the boxes. FILE.json beside it says the details. ONNX
files hold standard operators only (opset 18; RoiAlign, MaxRoiPool, NonMaxSuppression) and run under onnxruntime; files
of torch.export need torch, torchvision and maskrcnn_ops imported where they are loaded.
"""

from maskrcnn.cli.entry import run_tool

if __name__ == "__main__":
    run_tool("export", __doc__)
