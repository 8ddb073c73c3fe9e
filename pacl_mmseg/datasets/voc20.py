"""Pascal VOC without its background class."""

from mmseg.datasets import PascalVOCDataset

from pacl_mmseg.registry import DATASETS


@DATASETS.register_module()
class PascalVOC20Dataset(PascalVOCDataset):
    """Pascal VOC 2012 with 20 classes: background pixels are ignored.

    The files are those of ``PascalVOCDataset``; label 0 becomes the ignored label and
    the others move down by one (MMSeg's ``reduce_zero_label``).
    """

    METAINFO = {key: value[1:] for key, value in PascalVOCDataset.METAINFO.items()}

    def __init__(self, reduce_zero_label: bool = True, **kwargs) -> None:
        super().__init__(reduce_zero_label=reduce_zero_label, **kwargs)
