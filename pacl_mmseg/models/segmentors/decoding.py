"""From scores of names to a segmentation: who competes, and what is background."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pacl_mmseg.models.segmentors.temporal import TemporalAverage
from pacl_mmseg.models.text_encoders import TextBank
from pacl_mmseg.utils.names import check_choice, check_name

MODES = ('slide', 'whole')
RULES = ('none', 'names', 'probability', 'entropy')
AVERAGES = ('scores', 'probabilities')
PAMR_OPTIONS = ('steps', 'dilations')


@dataclass(frozen=True)
class BackgroundRule:
    """How class 0 is decided in datasets where it is the background.

    Args:
        rule: ``'none'``: no class is special. ``'names'``: class 0 is the background
            and competes by its names. ``'probability'``: background too where no class
            reaches ``threshold`` in the softmax over all names (SCLIP, ClearCLIP,
            NACLIP). ``'entropy'``: background where the entropy of the softmax over the
            other classes exceeds ``threshold`` nats (PACL).
        threshold: Of the last two.

    Raises:
        ValueError: Unknown rule, or a threshold that is missing or out of range.
    """

    rule: str = 'none'
    threshold: float | None = None

    def __post_init__(self) -> None:
        check_choice('test_cfg.background.rule', self.rule, RULES)
        if self.rule in ('none', 'names'):
            if self.threshold is not None:
                raise ValueError(
                    f'The background rule {self.rule!r} takes no threshold.'
                )
        elif not isinstance(self.threshold, (int, float)) or self.threshold <= 0:
            raise ValueError(
                f'The background rule {self.rule!r} needs a threshold above 0, not '
                f'{self.threshold!r}.'
            )
        elif self.rule == 'probability' and self.threshold >= 1:
            raise ValueError(
                f'At a probability threshold of {self.threshold} all is background.'
            )

    @property
    def names(self) -> bool:
        """Whether the names of class 0 compete."""
        return self.rule != 'entropy'  # the paper has 20 classes in the softmax

    def margin(self, best: Tensor, scores: Tensor, bank: TextBank) -> Tensor:
        """By how much class 0 beats the best class: background where it is positive.

        Args:
            best: Score of the best class, ``(..., )``.
            scores: Scores of all names, ``(..., K)``.
            bank: The bank that has the names.
        """
        if self.rule == 'probability':
            return math.log(self.threshold) - (best - scores.logsumexp(-1))
        probabilities = bank.merge(scores, dim=-1).softmax(-1)
        return torch.special.entr(probabilities).sum(-1) - self.threshold

    def check_vocabulary(self, bank: TextBank) -> None:
        """Complain about a rule that cannot work with so many names and classes.

        Raises:
            ValueError: Fewer than two classes are left beside class 0.
        """
        classes = bank.num_classes if self.names else bank.num_classes - 1
        if classes < 2:
            raise ValueError(
                f'The background rule {self.rule!r} without the names of class 0 needs '
                f'two more classes; the vocabulary has {bank.num_classes} in all.'
            )
        names = len(bank.class_of)
        if self.rule == 'entropy' and self.threshold >= math.log(classes):
            limit = f'entropy of {classes} classes is at most {math.log(classes):.2f}'
        elif self.rule == 'probability' and self.threshold * names <= 1:
            limit = (
                f'best of {names} names has a probability of at least {1 / names:.3f}'
            )
        else:
            return
        warnings.warn(
            f'The {limit}: with a threshold of {self.threshold} nothing is background.',
            stacklevel=2,
        )


@dataclass(frozen=True)
class Decoding:
    """The options of ``test_cfg``; see :class:`ZeroShotSegmentor`."""

    mode: str = 'whole'
    crop_size: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    window_batch: int = 16
    average: str = 'scores'
    background: BackgroundRule = field(default_factory=BackgroundRule)
    area_threshold: float | None = None
    pamr: Mapping | None = None
    present_classes: bool = False
    keep_scores: bool = False
    keep_maps: bool = False
    keep_tokens: bool = False
    temporal: TemporalAverage | None = None
    token_labels: bool = False

    @classmethod
    def from_test_cfg(cls, test_cfg: Mapping | None) -> Decoding:
        """Read and check the options.

        Raises:
            ValueError: Unknown key or bad value; the message names it.
        """
        options = _known(cls, 'test_cfg', test_cfg or {})
        rule = options.get('background') or {}
        rule = _known(BackgroundRule, 'test_cfg.background', rule)
        options['background'] = BackgroundRule(**rule)
        if options.get('temporal') is not None:
            temporal = options['temporal']
            temporal = _known(TemporalAverage, 'test_cfg.temporal', temporal)
            options['temporal'] = TemporalAverage(**temporal)
        return cls(**options)

    def __post_init__(self) -> None:
        check_choice('test_cfg.mode', self.mode, MODES)
        check_choice('test_cfg.average', self.average, AVERAGES)
        if self.mode == 'slide':
            self._check_windows()
            if self.keep_tokens:
                raise ValueError(
                    'test_cfg.keep_tokens is for images that are encoded whole: set '
                    "test_cfg.mode='whole'."
                )
        if self.token_labels and (self.mode == 'slide' or self.temporal is not None):
            raise ValueError(
                'test_cfg.token_labels is for single images that are encoded whole, so '
                "that a patch has one token: set test_cfg.mode='whole', temporal=None."
            )
        if self.window_batch < 1:
            raise ValueError(
                f'test_cfg.window_batch must be 1 or more, not {self.window_batch}.'
            )
        if self.area_threshold is not None:
            if self.background.rule == 'none':
                raise ValueError(
                    'test_cfg.area_threshold is the share of a class of what is not '
                    "background: set a background rule, such as 'names'."
                )
            if not 0 < self.area_threshold < 1:
                raise ValueError(
                    'test_cfg.area_threshold must be between 0 and 1, not '
                    f'{self.area_threshold}.'
                )
        if self.pamr is not None and not (
            isinstance(self.pamr, Mapping) and self.pamr.keys() <= set(PAMR_OPTIONS)
        ):
            raise ValueError(
                f'test_cfg.pamr must be None or a dict of {", ".join(PAMR_OPTIONS)}, '
                f'not {self.pamr!r}.'
            )

    def _check_windows(self) -> None:
        for name, value in dict(crop_size=self.crop_size, stride=self.stride).items():
            if not isinstance(value, Sequence) or len(value) != 2 or min(value) < 1:
                raise ValueError(
                    f"mode='slide' needs test_cfg.{name}=(height, width) in pixels, "
                    f'not {value!r}.'
                )
        if any(s > c for s, c in zip(self.stride, self.crop_size, strict=True)):
            raise ValueError(
                f'Windows of {self.crop_size} every {self.stride} pixels leave gaps: '
                'test_cfg.stride must not exceed test_cfg.crop_size.'
            )


class Classifier:
    """Decides the class of pixels from the scores of names.

    Synonyms merge by their best score, which the softmax over all names does not
    reorder; so probabilities are computed only for rules that need them.

    Args:
        bank: The bank that has the names.
        background: The background rule.
        kept: Classes that are large enough, ``(M,)``; all by default. The others count
            as having probability zero, for the rule too (SCLIP).
        present: Classes that compete, ``(M,)``; all by default. Background by the rule,
            if class 0 is one of them, is what it is when all compete: an entropy
            threshold means nothing among the two or three classes of an image.
    """

    def __init__(
        self,
        bank: TextBank,
        background: BackgroundRule,
        kept: Tensor | None = None,
        present: Tensor | None = None,
    ) -> None:
        everyone = torch.ones_like(bank.class_of, dtype=torch.bool)
        known = everyone if background.names else bank.class_of > 0
        compete = known
        for classes in (kept, present):
            if classes is not None:
                compete = compete & torch.isin(bank.class_of, classes)
        self.bank = bank
        self.background = background
        self.nobody = not compete.any()  # class 0 alone, without names
        self.unknown = None if known.all() else ~known
        self.others = None if compete.all() else ~compete
        self.all_in_rule = present is not None
        self.has_rule = background.threshold is not None and (
            present is None or bool((present == 0).any())
        )

    def __call__(self, scores: Tensor) -> Tensor:
        """Scaled scores of all names of the bank, ``(..., K)``, to labels ``(...)``."""
        if self.nobody:
            return scores.new_zeros(scores.shape[:-1], dtype=torch.int64)
        competing = _without(scores, self.others)
        labels = self.bank.class_of[_argmax(competing)]
        if self.has_rule:
            scores = _without(scores, self.unknown)
            best = (scores if self.all_in_rule else competing).amax(-1)
            margin = self.background.margin(best, scores, self.bank)
            labels.masked_fill_(margin > 0, 0)
        return labels

    def winners(self, scores: Tensor) -> Tensor:
        """Like a call, but without the rule: who has the best name."""
        return self.bank.class_of[_argmax(_without(scores, self.others))]

    def class_scores(self, scores: Tensor) -> Tensor:
        """Log-probabilities of classes ``(..., C)``; their argmax are the labels.

        The softmax over all names, merged by maximum, with class 0 raised above the
        others where it is background by the rule.
        """
        log_p = _without(scores, self.unknown).log_softmax(-1)
        merged = self.bank.merge(_without(log_p, self.others), dim=-1)
        if self.nobody:
            merged[..., 0] = 0
        elif self.has_rule:
            best = merged.amax(-1)
            raised = best + self.background.margin(best, log_p, self.bank)
            merged[..., 0] = torch.maximum(merged[..., 0], raised)
        return merged


def _argmax(scores: Tensor) -> Tensor:
    """Over the last dimension; NumPy's takes a tenth of the time of PyTorch's."""
    if scores.device.type != 'cpu':
        return scores.argmax(-1)
    return torch.from_numpy(np.asarray(scores.detach().numpy().argmax(-1)))


def _without(scores: Tensor, names: Tensor | None) -> Tensor:
    """Scores ``(..., K)`` with those of some names minus infinity."""
    return scores if names is None else scores.masked_fill(names, -torch.inf)


def _known(kind: type, name: str, options: Any) -> dict[str, Any]:
    """The options of a dataclass, if they are some and it has them."""
    if not isinstance(options, Mapping):
        raise ValueError(f'{name} must be a dict of options, not {options!r}.')
    for option in options:
        check_name(f'option of {name}', option, [known.name for known in fields(kind)])
    return dict(options)
