from pacl_mmseg.apis.config import apply_options, load_config, read_options
from pacl_mmseg.apis.export import export
from pacl_mmseg.apis.inference import Inferencer, init_model, set_vocabulary
from pacl_mmseg.apis.segmentation import Segmentation
from pacl_mmseg.apis.segmenter import Segmenter

__all__ = [
    'Inferencer',
    'Segmentation',
    'Segmenter',
    'apply_options',
    'export',
    'init_model',
    'load_config',
    'read_options',
    'set_vocabulary',
]
