"""Guardrails: usable scores, rules in CEL, and the decision that rules and thresholds make together."""
