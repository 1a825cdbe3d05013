"""Policies: small objects fed with facts. They decide when and how much, never which token."""
