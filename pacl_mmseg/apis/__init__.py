from pacl_mmseg.apis.config import apply_options, load_config
from pacl_mmseg.apis.vocabulary import set_vocabulary

__all__ = ['apply_options', 'load_config', 'set_vocabulary']
