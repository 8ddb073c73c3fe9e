from pacl_mmseg.models.text_encoders.open_clip_text_encoder import OpenCLIPTextEncoder
from pacl_mmseg.models.text_encoders.text_bank import (
    TextBank,
    TextMemory,
    build_text_bank,
    project_texts,
)

__all__ = [
    'OpenCLIPTextEncoder',
    'TextBank',
    'TextMemory',
    'build_text_bank',
    'project_texts',
]
