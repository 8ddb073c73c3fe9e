from pacl_mmseg.models.losses.info_nce import InfoNCELoss

__all__ = ['InfoNCELoss']
