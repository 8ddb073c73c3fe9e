"""From scores of names to a segmentation: who competes, and what is background."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pacl_mmseg.models.text_encoders import TextBank
from pacl_mmseg.prompts.nearest import did_you_mean

RULES = ('none', 'names', 'probability', 'entropy')
AVERAGES = ('scores', 'probabilities')


@dataclass(frozen=True)
class BackgroundRule:
    """How class 0 is decided in datasets where it is the background.

    Args:
        rule: ``'none'``: no class is special. ``'names'``: class 0 is the background
            and competes by its names. ``'probability'``: background too where no class
            reaches ``threshold`` in the softmax over all names (SCLIP, ClearCLIP,
            NACLIP). ``'entropy'``: background where the entropy of the softmax over the
            classes exceeds ``threshold`` nats (PACL).
        threshold: Of the last two.
        names: Whether the names of class 0 compete; by default they do, except with
            ``'entropy'``, where the paper has 20 classes in the softmax.

    Raises:
        ValueError: Unknown rule, or a threshold that is missing or out of range.
    """

    rule: str = 'none'
    threshold: float | None = None
    names: bool | None = None

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(
                f'The background rule must be one of {RULES}, not {self.rule!r}.'
                + did_you_mean(self.rule, RULES)
            )
        if self.rule in RULES[:2]:
            if self.threshold is not None or self.names is False:
                raise ValueError(
                    f'The background rule {self.rule!r} takes no threshold, and the '
                    'names of class 0 compete.'
                )
        elif self.threshold is None or self.threshold <= 0:
            raise ValueError(
                f'The background rule {self.rule!r} needs a threshold above 0, not '
                f'{self.threshold}.'
            )
        elif self.rule == 'probability' and self.threshold >= 1:
            raise ValueError(
                f'At a probability threshold of {self.threshold} all is background.'
            )
        if self.names is None:
            object.__setattr__(self, 'names', self.rule != 'entropy')

    def margin(self, best: Tensor, scores: Tensor, bank: TextBank) -> Tensor:
        """By how much class 0 beats the best class: background where it is positive.

        Args:
            best: Score of the best class, ``(..., )``.
            scores: Scores of all names, ``(..., K)``.
            bank: The bank that has the names.
        """
        if self.rule == 'probability':
            return math.log(self.threshold) - (best - scores.logsumexp(-1))
        log_p = bank.merge(scores, dim=-1).log_softmax(-1)
        entropy = -(log_p.exp() * log_p).nansum(-1)  # a class without names: 0 * inf
        return entropy - self.threshold

    def check_vocabulary(self, bank: TextBank) -> None:
        """Complain about a rule that cannot work with so many classes.

        Raises:
            ValueError: Fewer than two classes are left beside class 0.
        """
        if self.names:
            return
        left = bank.num_classes - 1
        if left < 2:
            raise ValueError(
                f'The background rule {self.rule!r} without the names of class 0 needs '
                f'two more classes; the vocabulary has {bank.num_classes} in all.'
            )
        if self.rule == 'entropy' and self.threshold >= math.log(left):
            warnings.warn(
                f'The entropy of {left} classes is at most {math.log(left):.2f} nats: '
                f'with a threshold of {self.threshold} nothing is background.',
                stacklevel=2,
            )


@dataclass(frozen=True)
class Decoding:
    """The keys of ``test_cfg`` that are not MMSeg's; see :class:`ZeroShotSegmentor`."""

    window_batch: int = 16
    average: str = 'scores'
    background: BackgroundRule = field(default_factory=BackgroundRule)
    area_threshold: float | None = None
    pamr: Mapping | None = None
    present_classes: bool = False
    keep_scores: bool = False

    @classmethod
    def from_test_cfg(cls, test_cfg: Mapping) -> Decoding:
        """Read and check the options.

        Raises:
            ValueError: Unknown key or bad value; the message names it.
        """
        options = {k: v for k, v in test_cfg.items() if k not in MMSEG_KEYS}
        for key in options:
            if key not in cls.__dataclass_fields__:
                known = (*MMSEG_KEYS, *cls.__dataclass_fields__)
                raise ValueError(
                    f'test_cfg has no option {key!r}; its options are '
                    f'{", ".join(known)}.' + did_you_mean(key, known)
                )
        if options.get('average', 'scores') not in AVERAGES:
            raise ValueError(
                f'test_cfg.average must be one of {AVERAGES}, not '
                f'{options["average"]!r}.'
            )
        background = BackgroundRule(**(options.pop('background', None) or {}))
        return cls(background=background, **options)


MMSEG_KEYS = ('mode', 'crop_size', 'stride')


class Classifier:
    """Decides the class of pixels from the scores of names.

    Synonyms merge by their best score, which the softmax over all names does not
    reorder; so probabilities are computed only for rules that need them.

    Args:
        bank: The bank that has the names.
        background: The background rule.
        classes: Those that compete, ``(M,)``; all by default. The others count as
            having probability zero. The rule applies if class 0 is one of them.
    """

    def __init__(
        self, bank: TextBank, background: BackgroundRule, classes: Tensor | None = None
    ) -> None:
        everyone = torch.ones_like(bank.class_of, dtype=torch.bool)
        known = everyone if background.names else bank.class_of > 0
        compete = (
            known if classes is None else known & torch.isin(bank.class_of, classes)
        )
        self.known = None if known.all() else known.nonzero()[:, 0]
        self.bank = bank if self.known is None else bank.select(self.known)
        compete = compete[known]
        self.compete = None if compete.all() else compete.nonzero()[:, 0]
        self.candidates = (
            self.bank if self.compete is None else self.bank.select(self.compete)
        )
        self.background = background
        self.has_rule = background.threshold is not None and (
            classes is None or bool((classes == 0).any())
        )

    def __call__(self, scores: Tensor) -> Tensor:
        """Scaled scores of all names of the bank, ``(..., K)``, to labels ``(...)``."""
        if len(self.candidates.class_of) == 0:  # class 0 alone, without names
            return scores.new_zeros(scores.shape[:-1], dtype=torch.int64)
        scores = _pick(scores, self.known)
        best, name = _pick(scores, self.compete).max(-1)
        labels = self.candidates.class_of[name]
        if self.has_rule:
            margin = self.background.margin(best, scores, self.bank)
            labels.masked_fill_(margin > 0, 0)
        return labels

    def winners(self, scores: Tensor) -> Tensor:
        """Like a call, but without the rule: who has the best name."""
        name = _pick(_pick(scores, self.known), self.compete).argmax(-1)
        return self.candidates.class_of[name]

    def class_scores(self, scores: Tensor) -> Tensor:
        """Log-probabilities of classes ``(..., C)``; their argmax are the labels.

        The softmax over all names, merged by maximum, with class 0 raised above the
        others where it is background by the rule.
        """
        log_p = _pick(scores, self.known).log_softmax(-1)
        merged = self.candidates.merge(_pick(log_p, self.compete), dim=-1)
        if self.has_rule:
            best = merged.amax(-1)
            raised = best + self.background.margin(best, log_p, self.bank)
            merged[..., 0] = torch.maximum(merged[..., 0], raised)
        return merged


def _pick(scores: Tensor, names: Tensor | None) -> Tensor:
    return scores if names is None else scores[..., names]
