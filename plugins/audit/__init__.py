"""The command that verifies the audit trail: ``python -m plugins.audit``."""
