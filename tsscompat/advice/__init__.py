"""Advice before an index is built: what it will weigh, and which one to build (docs/advice.md)."""

from tsscompat.advice.estimate import estimate_memory
from tsscompat.advice.memory import memory_usage
from tsscompat.advice.recommend import Candidate, Recommendation, recommend

__all__ = ["Candidate", "Recommendation", "estimate_memory", "memory_usage", "recommend"]
