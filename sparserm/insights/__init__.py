"""Insights: what preference pairs reward and punish, as features with their effect on the win rate. No head is needed."""
