# Conceptual 12M. `train_dataloader.dataset.shards=...` points elsewhere, e.g. to a
# `pipe:` command.
_base_ = ['image_text_shards.py']
num_pairs = 12_423_374  # of the list; what could be downloaded is fewer
train_dataloader = dict(
    dataset=dict(shards='{{$PACL_DATA_ROOT:data}}/cc12m/{00000..01242}.tar')
)
