"""What is looked for: traits, their texts, and the strategies that elicit them."""

from traitline.traits.trait import Contrast, Question, StrategyTexts, Trait, load_trait, packaged_traits

__all__ = ["Contrast", "Question", "StrategyTexts", "Trait", "load_trait", "packaged_traits"]
