"""The Insights page: what preference pairs reward and punish."""
