from pacl_mmseg.apis.config import apply_options, load_config, read_options
from pacl_mmseg.apis.inference import Inferencer, init_model, set_vocabulary

__all__ = [
    'Inferencer',
    'apply_options',
    'init_model',
    'load_config',
    'read_options',
    'set_vocabulary',
]
