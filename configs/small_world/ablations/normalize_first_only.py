# Unit tokens, their weighted mean not re-normalised: compatibilities within [-1, 1].
_base_ = ['../pacl.py']
model = dict(
    decode_head=dict(compatibility=dict(normalize_first=True, renormalize=False))
)
