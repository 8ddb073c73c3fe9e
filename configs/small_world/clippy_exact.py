# Trains both towers from random weights as kahnchana/clippy pools: the maximum over all
# tokens, class token included, with a learnt scale. The recipe is clip_pretrain.py's.
_base_ = ['clip_pretrain.py']
model = dict(decode_head=dict(compatibility=dict(mode='max', include_cls=True)))
