from pacl_mmseg.evaluation.flicker import Flicker
from pacl_mmseg.evaluation.group_accuracy import GroupAccuracy
from pacl_mmseg.evaluation.group_iou import GroupIoUMetric
from pacl_mmseg.evaluation.grouping import GroupingJaccard
from pacl_mmseg.evaluation.mean_class_accuracy import MeanClassAccuracy
from pacl_mmseg.evaluation.patch_accuracy import PatchAccuracy
from pacl_mmseg.evaluation.present_classes_iou import PresentClassesIoUMetric
from pacl_mmseg.evaluation.token_accuracy import TokenAccuracy

__all__ = [
    'Flicker',
    'GroupAccuracy',
    'GroupIoUMetric',
    'GroupingJaccard',
    'MeanClassAccuracy',
    'PatchAccuracy',
    'PresentClassesIoUMetric',
    'TokenAccuracy',
]
