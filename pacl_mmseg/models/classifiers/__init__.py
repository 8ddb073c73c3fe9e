from pacl_mmseg.models.classifiers.zero_shot_classifier import ZeroShotClassifier

__all__ = ['ZeroShotClassifier']
