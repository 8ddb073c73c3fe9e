"""The encoder-decoder of MMSeg, deciding classes after windows are averaged."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import torch
from mmengine.structures import PixelData
from mmseg.models import EncoderDecoder
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.nn import functional as F

from pacl_mmseg.models.backbones import token_patches
from pacl_mmseg.models.decode_heads import ZeroShotTextHead
from pacl_mmseg.models.encoder import with_encoder
from pacl_mmseg.models.segmentors.decoding import Classifier, Decoding
from pacl_mmseg.models.segmentors.score_maps import ScoreMaps, Windows
from pacl_mmseg.models.segmentors.temporal import History
from pacl_mmseg.models.text_encoders import TextBank
from pacl_mmseg.registry import MODELS


@MODELS.register_module()
class ZeroShotSegmentor(EncoderDecoder):
    """``EncoderDecoder`` for a :class:`ZeroShotTextHead`, as the field decodes.

    Where MMSeg takes the argmax of averaged class scores, this one keeps the scores of
    names apart while windows are averaged and resized to the original image, then
    scales, applies the softmax over all names, merges synonyms by maximum and decides
    the background (the order of SCLIP, ClearCLIP and NACLIP; merging synonyms before
    averaging gives other numbers). Training is that of ``EncoderDecoder``.

    Two things make it fast, and change results by rounding alone: windows are encoded
    in batches, and scores are stitched and classified in blocks of pixels
    (:mod:`pacl_mmseg.ops.stitching`), so that memory does not grow with classes x
    resolution.

    Args:
        encoder: ``model``, ``pretrained``, ``init_seed``, ``dtype`` and ``compile`` of
            an open_clip model, as :class:`PACLBackbone` takes them. It is built once,
            and data preprocessor, backbone and text encoder, where they are those of
            this package, get all of that and say no other. Or these for each tower, in
            ``vision`` and ``text``
            (:func:`~pacl_mmseg.models.encoder.by_tower`). None: each part says its own.
        **kwargs: As for ``EncoderDecoder``. ``test_cfg``, beside MMSeg's ``mode``,
            ``crop_size`` and ``stride``, takes:

            - ``window_batch`` (int, 16): windows encoded at once.
            - ``average``: what is averaged over windows: ``'scores'``, or
              ``'probabilities'`` (softmax at token resolution first, CLIP-DINOiser).
            - ``background``: arguments of :class:`BackgroundRule`; default no rule.
            - ``area_threshold`` (float): classes that cover less than this share of the
              foreground are left out of an image (SCLIP on VOC21: 0.1).
            - ``pamr``: arguments ``steps`` and ``dilations`` of
              :func:`pacl_mmseg.ops.pamr`, which then refines the scores of names; it
              holds names x full resolution.
            - ``present_classes`` (bool): also predict with the classes of the image's
              ground truth alone competing; background by a rule, where the image has
              any, is that of the standard prediction.
            - ``keep_scores`` (bool): also keep the log-probabilities of all classes at
              full resolution, which test-time augmentation averages.
            - ``keep_maps`` (bool): also keep what those are computed from, at token
              resolution: ``score_maps``, a :class:`ScoreMaps` and the
              :class:`Classifier` of its blocks.
            - ``keep_tokens`` (bool): also keep the tokens that are compared with texts;
              of whole images, for :class:`~pacl_mmseg.evaluation.GroupingJaccard`.
            - ``temporal``: arguments of :class:`~pacl_mmseg.models.segmentors.temporal.
              TemporalAverage`: scores are averaged over the frames of a video; it holds
              names x full resolution.
            - ``token_labels`` (bool): also label the tokens, by their own scores; of
              whole images, for :class:`~pacl_mmseg.evaluation.TokenAccuracy`.

    Raises:
        ValueError: Unknown or bad option of ``test_cfg``, or another head; or an
            ``encoder`` that does not reach the parts
            (:func:`~pacl_mmseg.models.encoder.hand_over`).
    """

    def __init__(self, encoder: Mapping | None = None, **kwargs) -> None:
        super().__init__(**with_encoder(kwargs, encoder))
        Decoding.from_test_cfg(self.test_cfg)  # complain now, not when testing
        if self.train_cfg:
            raise ValueError(
                f'train_cfg has no options here: leave out {", ".join(self.train_cfg)}.'
            )
        if not isinstance(self.decode_head, ZeroShotTextHead):
            raise ValueError(
                'ZeroShotSegmentor needs a ZeroShotTextHead, not a '
                f"{type(self.decode_head).__name__}: use type='EncoderDecoder'."
            )
        self.dataset_meta = self.decode_head.vocabulary.dataset_meta
        self._history: History | None = None

    def predict(
        self,
        inputs: Tensor | Sequence[Tensor],
        data_samples: list[SegDataSample] | None = None,
    ) -> list[SegDataSample]:
        """Segment a batch of images.

        Args:
            inputs: Preprocessed images ``(N, 3, H, W)``, or a list of ``(3, H, W)``.
            data_samples: Their data samples; MMSeg's metainfo is honoured (original
                shape, padding, flips), and with ``present_classes`` their ground truth.

        Returns:
            Data samples with ``pred_sem_seg``, int64 labels ``(1, h, w)`` at the
            original size, and as asked for ``pred_present_classes``, likewise, and
            ``seg_logits``, ``(C, h, w)``. With ``keep_tokens`` also ``tokens``,
            ``(D, rows, columns)``. With ``token_labels`` also ``pred_tokens``,
            labels ``(1, rows, columns)`` of tokens, likewise
            ``pred_tokens_present_classes``, and in the metainfo ``token_patches``, the
            pixels they are of as :func:`pacl_mmseg.ops.patch_labels` takes them.
        """
        decoding = Decoding.from_test_cfg(self.test_cfg)
        bank = self.decode_head.text_bank
        decoding.background.check_vocabulary(bank)
        sizes = [tuple(image.shape[-2:]) for image in inputs]
        if data_samples is None:
            data_samples = [
                SegDataSample(metainfo=dict(ori_shape=size)) for size in sizes
            ]
        windows = [Windows.of(size, decoding) for size in sizes]
        crops = [w.crop(image) for w, image in zip(windows, inputs, strict=True)]
        tokens: list[Tensor] | None = [] if decoding.keep_tokens else None
        scores = self._encode(crops, decoding.window_batch, tokens)
        # In half precision labels near the border of two classes would change.
        with torch.autocast(inputs[0].device.type, enabled=False):
            for image, of_windows, grid, sample in zip(
                inputs, scores, windows, data_samples, strict=True
            ):
                maps = ScoreMaps(
                    of_windows.float(),
                    grid,
                    image.float(),
                    sample.metainfo,
                    decoding,
                )
                if decoding.temporal is not None:
                    self._average_over_time(maps, decoding, sample)
                jobs = self._segment(maps, bank, decoding, sample)
                if decoding.keep_maps:
                    sample.set_field((maps, jobs['pred_sem_seg']), 'score_maps')
                if decoding.token_labels:
                    self._label_tokens(of_windows[0], image, jobs, decoding, sample)
        if tokens is not None:
            for of_image, sample in zip(tokens, data_samples, strict=True):
                meta = sample.metainfo
                if meta.get('flip') or any(meta.get('img_padding_size', ())):
                    raise ValueError(
                        'test_cfg.keep_tokens takes images as they are: none that is '
                        'mirrored or padded.'
                    )
                sample.set_data(dict(tokens=PixelData(data=of_image)))
        return data_samples

    def _encode(
        self, crops: list[Tensor], batch: int, tokens: list[Tensor] | None
    ) -> list[Tensor]:
        """Scores of names ``(windows, K, h, w)`` of each image's windows.

        If all windows have one size, they go together whichever image they are of. To
        ``tokens`` those of each window are added.
        """
        if len({windows.shape[1:] for windows in crops}) > 1:
            return [self._encode([windows], batch, tokens)[0] for windows in crops]
        parts = torch.cat(crops).split(batch)
        scores = torch.cat([self._name_scores(part, tokens) for part in parts])
        return list(scores.split([len(windows) for windows in crops]))

    def _name_scores(self, inputs: Tensor, tokens: list[Tensor] | None) -> Tensor:
        maps = self.extract_feat(inputs)
        if tokens is not None:
            tokens.extend(self.decode_head.tokens(maps)[0])
        scores = self.decode_head.name_scores(maps)
        if self.test_cfg.get('average') == 'probabilities':
            scores = scores.softmax(1)
        return scores

    def _average_over_time(
        self, maps: ScoreMaps, decoding: Decoding, sample: SegDataSample
    ) -> None:
        """Of one frame of a video; colours as the camera gave them, in [0, 1]."""
        image = maps.image()
        if getattr(self.data_preprocessor, '_enable_normalize', False):
            image = image * self.data_preprocessor.std + self.data_preprocessor.mean
        self._history = decoding.temporal(
            self._history, maps.whole(), image / 255, sample.metainfo
        )
        maps.refined = self._history.scores

    def _segment(
        self,
        maps: ScoreMaps,
        bank: TextBank,
        decoding: Decoding,
        sample: SegDataSample,
    ) -> dict[str, Callable[[Tensor], Tensor]]:
        """Classify the pixels of one image, in blocks of rows; returns by what."""
        rule = decoding.background
        standard = Classifier(bank, rule)
        if decoding.area_threshold is not None:
            winners = torch.cat([standard.winners(block) for block in maps])
            areas = winners.flatten().bincount(minlength=bank.num_classes)
            areas[0] = 0
            areas = areas.double() / areas.sum().clamp_min(1)
            large = (areas > decoding.area_threshold).nonzero()[:, 0]
            standard = Classifier(bank, rule, kept=F.pad(large, (1, 0)))  # and class 0
        jobs = dict(pred_sem_seg=standard)
        if decoding.present_classes and 'gt_sem_seg' in sample:
            present = sample.gt_sem_seg.data.unique()
            jobs['pred_present_classes'] = Classifier(bank, rule, present=present)
        if decoding.keep_scores:
            jobs['seg_logits'] = standard.class_scores
        parts: dict[str, list[Tensor]] = {name: [] for name in jobs}
        for block in maps:
            for name, job in jobs.items():
                parts[name].append(job(block))
        for name, blocks in parts.items():
            data = torch.cat(blocks)
            data = data.permute(2, 0, 1) if name == 'seg_logits' else data[None]
            sample.set_data({name: PixelData(data=data)})
        if rule.rule == 'entropy' and not sample.pred_sem_seg.data.any():
            warnings.warn(
                f'With an entropy threshold of {rule.threshold} nats and a logit scale '
                f'of {self.decode_head.logit_scale:g} a whole image became background; '
                'if that is not what it shows, raise the logit scale or the threshold.',
                stacklevel=2,
            )
        return jobs

    def _label_tokens(
        self,
        scores: Tensor,
        image: Tensor,
        jobs: Mapping[str, Callable[[Tensor], Tensor]],
        decoding: Decoding,
        sample: SegDataSample,
    ) -> None:
        """Decide the classes of the tokens ``(K, h, w)`` of an image as of pixels."""
        if sample.metainfo.get('flip'):
            raise ValueError(
                'test_cfg.token_labels takes images as they are: none that is mirrored.'
            )
        scores = scores.float().permute(1, 2, 0)
        if decoding.average == 'probabilities':
            scores = scores.clamp_min(1e-30).log()
        for name, of_pixels in dict(
            pred_tokens='pred_sem_seg',
            pred_tokens_present_classes='pred_present_classes',
        ).items():
            if of_pixels in jobs:
                labels = jobs[of_pixels](scores)[None]
                sample.set_data({name: PixelData(data=labels)})
        patches = token_patches(self.backbone, scores.shape[:2], image.shape[1:])
        sample.set_metainfo(dict(token_patches=patches))
