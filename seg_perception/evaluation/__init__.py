"""Scores of an engine on a dataset, and reports of them."""

from seg_perception.evaluation.evaluator import Evaluation, EvaluationOptions, ImageScore, evaluate

__all__ = ["Evaluation", "EvaluationOptions", "ImageScore", "evaluate"]
