"""Floor 2, what both sides agree on: messages, contract, job specifications, refusal codes."""
