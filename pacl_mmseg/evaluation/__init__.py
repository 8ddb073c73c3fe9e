from pacl_mmseg.evaluation.group_iou import GroupIoUMetric
from pacl_mmseg.evaluation.patch_accuracy import PatchAccuracy

__all__ = ['GroupIoUMetric', 'PatchAccuracy']
