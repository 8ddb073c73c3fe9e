from pacl_mmseg.models.segmentors.zero_shot_segmentor import ZeroShotSegmentor

__all__ = ['ZeroShotSegmentor']
