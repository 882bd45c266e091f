"""Explanations of rewards and margins, comparisons of responses, and tests of faithfulness."""
