# The pooled vector is not brought to unit length: compatibilities are no cosines.
_base_ = ['../pacl.py']
model = dict(decode_head=dict(compatibility=dict(renormalize=False)))
