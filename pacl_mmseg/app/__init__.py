"""A web page to type words into. It needs Gradio: the extra ``demo``."""

from pacl_mmseg.app.serving import serving
from pacl_mmseg.app.work import Limits

__all__ = ['Limits', 'serving']
