# Image-text retrieval on COCO's captions, by PACL's compatibility of all pairs.
_base_ = [
    '../_base_/models/pacl_vitb16_classifier.py',
    '../_base_/datasets/coco_retrieval.py',
    '../_base_/default_runtime.py',
]
