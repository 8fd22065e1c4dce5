"""The course's tools: its curriculum record, the audit of it, and what its pages are built with."""
