"""What every layer may use; it imports nothing of the package."""

from pacl_mmseg.utils.files import whole_file
from pacl_mmseg.utils.names import check_name, did_you_mean

__all__ = ['check_name', 'did_you_mean', 'whole_file']
