# Trains both towers from random weights as kahnchana/clippy pools: the maximum over all
# tokens, class token included, with a learnt scale.
_base_ = ['future/scratch_cls.py']
model = dict(decode_head=dict(compatibility=dict(mode='max', include_cls=True)))
