"""Insights: what preference pairs reward and punish, as features with their effect on the win rate. No head is needed."""

from sparserm.insights.find import find_insights, insights_of
from sparserm.insights.values import Finding, Insights

__all__ = ["Finding", "Insights", "find_insights", "insights_of"]
