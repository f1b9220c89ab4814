"""Messages of version 1; the generated module is committed beside its source."""
