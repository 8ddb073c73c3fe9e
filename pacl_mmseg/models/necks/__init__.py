from pacl_mmseg.models.necks.patch_embedder import PatchEmbedder

__all__ = ['PatchEmbedder']
