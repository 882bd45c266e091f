"""SAE features on preference data: statistics, cards, logit lens, detection and labels."""
