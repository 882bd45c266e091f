"""SAE features on preference data: statistics, cards, logit lens, detection scores and labels."""
