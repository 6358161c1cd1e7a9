"""How far live transactions have moved from a reference: PSI and KS of every feature and of the score."""
