"""`pmm audit`: what leaks in a target, before anybody believes a number."""

from pmm.audit.audit_request import AuditRequest
from pmm.commands.from_request import GroupedCommand, make_command


def run(request: AuditRequest) -> None:
    """What leaks in a target or is an artefact of it, and what to do about it.

    Test items that training knows from later times, future popularity, the order of tied times,
    near-duplicate texts and pictures, repeats, users and items that dominate; with --run whether
    popularity or item kNN reach a run's result.
    """
    from pmm.audit.audit_page import audit_as_asked, audit_page

    print(audit_page(audit_as_asked(request)))


def command() -> GroupedCommand:
    """The command."""
    return make_command("audit", AuditRequest, run, example="pmm audit 'HM Shoes' --to audit.md")
