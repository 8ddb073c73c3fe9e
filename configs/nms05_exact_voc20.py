# Tests what nms05_exact_coco.py trained.
_base_ = [
    '_base_/models/nms05_exact_vitb16.py',
    '_base_/datasets/voc20.py',
    '_base_/default_runtime.py',
]
