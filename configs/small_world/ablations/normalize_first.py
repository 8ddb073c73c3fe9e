# Patch tokens are brought to unit length before they are pooled.
_base_ = ['../pacl.py']
model = dict(decode_head=dict(compatibility=dict(normalize_first=True)))
