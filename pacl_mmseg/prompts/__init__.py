from .templates import TEMPLATES, fill_template, get_templates
from .vocabulary import Vocabulary

__all__ = ['TEMPLATES', 'Vocabulary', 'fill_template', 'get_templates']
