from .templates import TEMPLATES, get_templates
from .vocabulary import Vocabulary

__all__ = ['TEMPLATES', 'Vocabulary', 'get_templates']
