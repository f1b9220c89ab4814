"""What an attacker sees, measured: the lab's attacks on gates."""
