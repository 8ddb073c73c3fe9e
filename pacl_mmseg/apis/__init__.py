from pacl_mmseg.apis.config import load_config
from pacl_mmseg.apis.vocabulary import set_vocabulary

__all__ = ['load_config', 'set_vocabulary']
